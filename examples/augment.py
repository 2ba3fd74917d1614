"""More training rows out of few: slips of the hand and marks between the words, let in by their states; and whether they helped.

python examples/augment.py                     on the messages that come with Trunkline
python examples/augment.py rows.csv my-model   on a file of your own
"""

import sys

import trunkline as tl


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    rows = tl.read(file or tl.embedded("en"))
    made = tl.augment(rows, model, settings=tl.AugmentSettings(methods="aeda,keyboard", folds=3))
    print(made)  # with a sentence that says whether a gain was shown
    for row in made.new[:5]:
        print(f"  {row['method']}, of {row['source']}: {row['text']}")
    if made.helped:  # else the rows alone are as good, and training takes less time
        print(tl.tune(made.parts, model, depth=0, settings=settings or tl.Settings()).report.headline())


if __name__ == "__main__":
    main(*sys.argv[1:])
