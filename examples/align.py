"""Teach a house style, then push a model further that way with pairs of answers: tune, a reward, DPO, and the best of several answers.

python examples/align.py                                the pairs below: enough to see it work, no more
python examples/align.py pairs.jsonl my-model           pairs (docs/align.md says in which forms), and another backbone
"""

import sys
from dataclasses import replace

import trunkline as tl
from trunkline.alignment.rejection import best_of

ANSWERS = {
    "Where is my order?": ("On its way! Follow it under My orders.", "In transit."),
    "How do I return shoes?": ("Easy! Print the label under My orders.", "Print the label."),
    "Can I pay later?": ("Yes! You have 30 days.", "Within 30 days."),
    "Do you ship to Norway?": ("We do! It takes five days.", "Norway is served."),
    "Is the red one back?": ("Not yet! Press the bell and we tell you.", "Out of stock."),
    "Who can read my data?": ("Nobody but us! See Privacy.", "See the privacy policy."),
    "I want to talk to a human.": ("Sure! We are here from 8 to 20.", "Opening hours are 8 to 20."),
    "The lamp is broken.": ("Oh no! We send another one today.", "File a claim."),
}
BEGINNINGS = ("", "Hello! ", "Hi. ", "A question: ")


def main(file: str | None = None, model: str = "smollm2", settings: tl.Settings | None = None) -> None:
    settings = settings or tl.Settings(epochs=4, batch_size=8)
    pairs = [{"prompt": start + ask, "chosen": good, "rejected": bad} for ask, (good, bad) in ANSWERS.items() for start in BEGINNINGS]
    chats, rows = (tl.read(file or pairs, task=task) for task in ("generate", "reward"))  # for tuning the better answers, and both
    told = replace(settings, task_options="max_new_tokens=16")
    branch = tl.tune(chats, model, method="lora", depth=4, settings=told)
    print("tuned branch:", branch.predict(["Where is my parcel?"])[0].value)

    judge = tl.tune(rows, model, method="full", depth=4, settings=replace(settings, task_options=""))
    print(judge.report.headline())

    policy = tl.align(rows, "dpo:samples=2", start=branch, settings=settings)
    print(policy.report.headline())
    print(policy.report.data["notes"][-1])

    found = best_of(policy, [{"text": "Can I have an invoice?"}], judge, answers=4)
    print(f"best of 4 ({found.best[0]:.2f}):", found.texts[0])
    print("the best of 1 to 4:", found.curve().round(2).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
