"""Answer questions with the piece of a passage that answers them, or say that the passage does not.

python examples/span.py                              the three passages below: enough to see it work, no more
python examples/span.py squad.json my-model          SQuAD 1 or 2, CMRC, DRCD, or rows with question, context and answers
"""

import sys

import trunkline as tl

SHOP = """Orders leave our warehouse within two days. Delivery inside the country takes three to five working days and costs 4.90 euros;
from 60 euros on it is free. Parcels abroad take up to two weeks. You may send anything back within 30 days, unworn and with its label."""
BANK = """A lost card is blocked by calling 0800 555 100, day and night. The new card arrives after about five working days and costs nothing.
Transfers inside the country take one day, transfers abroad up to three. The daily limit at cash machines is 500 euros."""
CLINIC = """The clinic is open from 8 am to 6 pm, on Saturdays until noon. Appointments are made by telephone or on the website. Blood samples
are taken without an appointment before 10 am. Please bring your insurance card and a list of the medicines that you take."""

ANSWERS = {
    SHOP: {
        "When do orders leave?": "within two days", "What does delivery cost?": "4.90 euros", "How long do parcels abroad take?": "up to two weeks",
        "Within how many days may I return things?": "30 days", "From which amount is delivery free?": "60 euros",
        "Which colours does the coat come in?": None, "Who founded the shop?": None,
    },
    BANK: {
        "Which number blocks a card?": "0800 555 100", "When does the new card arrive?": "after about five working days",
        "How long do transfers abroad take?": "up to three", "What is the daily limit?": "500 euros", "What does the new card cost?": "nothing",
        "How high is the interest on savings?": None, "Where is the head office?": None,
    },
    CLINIC: {
        "When is the clinic open?": "from 8 am to 6 pm", "How are appointments made?": "by telephone or on the website",
        "Until when are blood samples taken?": "before 10 am", "What should I bring?": "your insurance card", "Who directs the clinic?": None,
    },
}  # fmt: skip


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    made = [
        {"question": question, "context": passage, "answers": [answer] if answer else []}
        for passage, asked in ANSWERS.items()
        for question, answer in asked.items()
    ]
    rows = tl.read(file or made, task="span")
    print(*rows.notes, sep="\n")
    parts = tl.split(rows)  # by article where the rows have titles: what is asked of a passage in training is no test
    branch = tl.tune(parts, model, depth=2, settings=settings)
    print(branch.report)
    for question in ("When is delivery free?", "Who founded the shop?"):
        (answer,) = branch.predict([(question, SHOP)])
        print(f"{question} {answer.value['text'] or '(not in there)'} ({answer.probability:.0%})")


if __name__ == "__main__":
    main(*sys.argv[1:])
