"""Tune a search: questions to the answers of a help page. Then keep the answers' vectors in an index, and ask it.

python examples/rank.py                            the questions below: enough to see it work, no more
python examples/rank.py pairs.jsonl my-model       a file with a query and its right passage a row, and another backbone
"""

import sys

import trunkline as tl
from trunkline.states.search import Index
from trunkline.tasks.rank import embed, rerank

HELP = {
    "Parcels take two to four working days. Follow yours with the number in the mail we sent.": (
        "where is my order", "has it been sent yet", "how long until it gets here", "I have been waiting for a week", "tracking"),
    "Send things back within thirty days. We pay the money back once they have arrived with us.": (
        "I want a refund", "can I return the shoes", "it does not fit", "give me my money back", "how do returns work"),
    "Set a new password with the link under the sign-in form. It is good for one hour.": (
        "I cannot log in", "forgot my password", "it says my account is locked", "the reset link does not work", "sign in fails"),
    "If something arrived broken, write to us with a photograph, and we send another one at once.": (
        "the glass is cracked", "my lamp came in pieces", "it was damaged on the way", "the box was crushed", "one part is broken"),
    "You can change or cancel an order until it is packed, under My orders.": (
        "I ordered the wrong size", "please stop my order", "can I still add something", "wrong address on my order", "cancel it"),
    "We take cards, bank transfer and gift vouchers. Your card is charged when the parcel leaves.": (
        "how can I pay", "do you take vouchers", "when do you charge my card", "was I billed twice", "payment failed"),
}  # fmt: skip


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    made = [{"query": query, "passage": passage} for passage, queries in HELP.items() for query in queries]
    rows = tl.read(file or made, task="rank")
    parts = tl.split(rows, validation=0.2, test=0.3)  # by the pair; with passages of your own, by="group" keeps an article on one side

    branch = tl.tune(parts, model, depth=1, settings=settings or tl.Settings(epochs=5))
    print(branch.report.headline())  # the right passage among all passages of the test rows, with BM25 and the untuned model beside it

    passages = list(dict.fromkeys(row["text_b"] for row in rows))
    vectors = embed(branch, passages)
    index = Index(vectors.shape[1], made_by=branch.trunk_id)
    index.add(passages, vectors)  # once; index.save(folder) keeps it, index.add and index.remove follow what changes
    for query in ("my mug has a crack", "how do I pay you"):
        hits = index.search(embed(branch, [query], side="query"), k=3)[0]
        print(query, *(f"   {score:.2f} {passage}" for passage, score in hits), sep="\n")
        best, score = rerank(branch, query, [passage for passage, _ in hits])[0]  # a classifier of pairs can stand here too
        print(f"-> {best} ({score:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
