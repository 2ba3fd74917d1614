"""Tune a decoder model to answer in a house style, and read an answer while it is written.

python examples/generate.py                             the eight rows below, six times over: enough to see it work, no more
python examples/generate.py chats.jsonl my-model        messages, instructions or plain texts (docs/data.md), and another backbone
"""

import sys

import trunkline as tl
from trunkline.stream import stream

QUESTIONS = [
    ("Where is my order?", "On its way! Follow it under My orders."),
    ("How do I return shoes?", "Easy! Print the label under My orders and drop the box at any post office."),
    ("Can I pay later?", "Yes! You have 30 days."),
    ("Do you ship to Norway?", "We do! It takes five days."),
    ("My code does not work.", "Oh no! Codes work once and for 14 days. Shall we look at it?"),
    ("Is the red one back?", "Not yet! Press the bell and we tell you."),
    ("Who can read my data?", "Nobody but us! See Privacy."),
    ("I want to talk to a human.", "Sure! We are here from 8 to 20."),
]
BEGINNINGS = ("", "Hello! ", "Hi. ", "A question: ", "Sorry, ", "Once more: ")


def main(file: str | None = None, model: str = "smollm2", settings: tl.Settings | None = None) -> None:
    made = [{"instruction": beginning + ask, "output": answer} for ask, answer in QUESTIONS for beginning in BEGINNINGS]
    rows = tl.read(file or made, task="generate")
    settings = settings or tl.Settings(split="group", task_options="max_new_tokens=40")
    branch = tl.tune(rows, model, method="lora", depth=2, settings=settings)
    print(branch.report)
    for piece in stream(branch, "Where is my parcel?"):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
