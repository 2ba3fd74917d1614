"""Compare methods on the same split and states, look at the table, and give the best low-rank one to PEFT.

python examples/compare.py                                  the embedded English messages
python examples/compare.py reviews.csv my-model             a file with a text and a label column, and another backbone
"""

import sys

import trunkline as tl

METHODS = ["full", "lora:rank=8", "ia3", "probe"]


def main(file: str | None = None, model: str = "minilm", out: str = "runs/example-compare", settings: tl.Settings | None = None) -> None:
    rows = tl.read(file or tl.embedded("en"))
    compared = tl.compare(rows, model, methods=METHODS, depth=2, settings=settings, out=out)
    print(compared)  # quality with intervals, trained parameters, bytes, seconds; which is best, and whether that is shown

    best = compared.branches[compared.best]
    print(best.report.headline())

    folder = compared.branches["lora:rank=8"].export(f"{out}/peft")  # a standard PEFT adapter of the whole model, the head beside it
    print(f"{folder / 'README.md'} says how to load it")


if __name__ == "__main__":
    main(*sys.argv[1:])
