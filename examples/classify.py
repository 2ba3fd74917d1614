"""Tune a classifier on the messages that come with Trunkline, or on a file of your own; look at it; answer; measure again.

python examples/classify.py                          the embedded English messages
python examples/classify.py reviews.csv my-model     a file with a text and a label column, and another backbone
"""

import sys

import trunkline as tl


def main(file: str, model: str = "minilm", out: str = "runs/example-classify", settings: tl.Settings | None = None) -> None:
    rows = tl.read(file)  # which columns are the text and the label is guessed, and said in rows.notes
    print(*rows.notes, sep="\n")

    parts = tl.split(rows, validation=0.1, test=0.2)  # by a hash of each text: rows that come later do not move the others
    for finding in tl.check(parts):  # duplicates with two labels, rare classes, leaks, words that give a label away
        print(finding)

    branch = tl.tune(parts, model, method="lora:rank=8", depth=2, settings=settings, out=out)
    print(branch.report.headline())

    for row, answer in zip(parts.test[:3], branch.predict(parts.test[:3])):
        print(f"{row['text'][:50]!r}: {answer.value} ({answer.probability:.0%}), labelled {row['label']}")

    again = tl.load(out, model=model)  # the same answers, in another process and as often as you like
    print(tl.evaluate(again, parts.test).headline())


if __name__ == "__main__":
    main(*(sys.argv[1:] or [str(tl.embedded("en"))]))
