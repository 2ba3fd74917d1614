"""Tune a model that turns one text into another: here short notes to customers, from the internal notes that they answer.

python examples/seq2seq.py                              the eight rows below, six times over: enough to see it work, no more
python examples/seq2seq.py pairs.csv my-model           a file with a source and a target column, and another backbone
"""

import sys

import trunkline as tl

NOTES = [
    ("parcel lost, new one sent", "We are sorry that your parcel was lost. A new one is on its way."),
    ("refund done, 3 days", "We have sent your money back. It arrives within three days."),
    ("card refused, try again", "Your card was refused. Please try again or use another one."),
    ("address wrong, ask", "Your address seems to be wrong. Please send us the right one."),
    ("out of stock, 2 weeks", "We have none left at the moment. More arrive in two weeks."),
    ("account locked, reset", "Your account is locked. Please set a new password."),
    ("invoice attached", "You will find your invoice attached."),
    ("return ok, label attached", "You may send it back. The label is attached."),
]
ENDINGS = ("", ".", " - regular customer", ", be brief", " (second message)", ", thanks")


def main(file: str | None = None, model: str = "t5-small", settings: tl.Settings | None = None) -> None:
    made = [{"text": note + ending, "label": letter} for note, letter in NOTES for ending in ENDINGS]
    rows = tl.read(file or made, task="seq2seq")
    # T5's states are too large for 16 bits; a colon within an option's value has a backslash before it
    settings = settings or tl.Settings(states="float32", task_options=r"prefix=write a letter\: :max_new_tokens=40")
    branch = tl.tune(rows, model, method="lora", depth=2, settings=settings)
    print(branch.report)
    for answer in branch.predict(["parcel damaged, new one sent", "refund done, 5 days"]):
        print(answer.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
