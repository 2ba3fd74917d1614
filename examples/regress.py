"""Tune a number instead of a label: how urgent a message is, from 0 to 1. Two texts to one number work the same way (text_b=).

python examples/regress.py                                 the twelve rows below, four times over: enough to see it work, no more
python examples/regress.py similarity.csv my-model         a file with a text and a number column, and another backbone
"""

import sys

import trunkline as tl

URGENT = [
    ("the site shows my card number to everyone", 1.0),
    ("money left my account and I did not order anything", 0.95),
    ("my order was due before the wedding tomorrow", 0.9),
    ("I cannot log in and the sale ends tonight", 0.8),
    ("the lamp arrived with broken glass", 0.6),
    ("still waiting for the parcel", 0.5),
    ("please send the invoice again", 0.35),
    ("can I change the colour of the chair", 0.3),
    ("where do I find my old orders", 0.25),
    ("do you sell gift cards", 0.15),
    ("just wanted to say the delivery was quick", 0.05),
    ("thank you, all fine", 0.0),
]
ENDINGS = ("", ", please", " - hello?", ". Regards")


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    made = [{"text": text + ending, "label": number} for text, number in URGENT for ending in ENDINGS]
    rows = tl.read(file or made, task="regress")
    branch = tl.tune(rows, model, depth=1, settings=settings)
    print(branch.report)
    for answer in branch.predict(["my account was emptied last night", "lovely shop"]):
        print(f"{answer.value:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
