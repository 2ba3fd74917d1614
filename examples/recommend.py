"""Tune a recommender: from what readers had to the book that they take next. Every book is known by its text, so a new one can be recommended.

python examples/recommend.py                              the twenty books and the few readers below: enough to see it work, no more
python examples/recommend.py log.csv minilm items.csv     user, item, time of each event; backbone; item, text of each item
"""

import sys
from dataclasses import replace

import trunkline as tl
from trunkline.data.readers.interactions import read_interactions
from trunkline.data.readers.passages import among
from trunkline.evaluation.kinds import ranks
from trunkline.tasks.recommend import catalogue, recommend

BOOKS = {
    "a": "Growing tomatoes on a balcony", "b": "Herbs for small gardens", "c": "Pruning fruit trees", "d": "The soil under your feet",
    "e": "Roses without chemicals", "f": "Bread with natural yeast", "g": "Soups for cold days", "h": "Cooking with one pan",
    "i": "Pickles, jams and ferments", "j": "Pasta made by hand", "k": "A murder at the lighthouse", "l": "The inspector's last case",
    "m": "Poison in the library", "n": "The silent witness", "o": "Death on the night train", "p": "A history of the telescope",
    "q": "How stars are born", "r": "Life on other planets", "s": "Black holes, explained", "t": "The moon and the tides",
}  # fmt: skip
READERS = """abde bacd cbaed dabc eacb bcda fghj gfij hgfji jhgf ifgh ghij klmo lkon mnklo oklm nmlk lmon
    pqrt qprs rspqt tqsr sqrp pqst abif"""
NEW = "Cherry and plum: an orchard at home"


def main(log: str | None = None, model: str = "minilm", items: str | None = None, settings: tl.Settings | None = None) -> None:
    events = [{"user": str(user), "item": item, "time": at} for user, taken in enumerate(READERS.split()) for at, item in enumerate(taken)]
    found = read_interactions(log or events, items or [{"item": item, "text": text} for item, text in BOOKS.items()])
    print(*found.rows.notes, sep="\n")
    parts = tl.split(found.rows, by="given")  # a reader's last book is for testing, the one before for choosing
    parts = replace(parts, validation=among(parts.validation, found.catalogue), test=among(parts.test, found.catalogue))

    branch = tl.tune(parts, model, depth=0, settings=settings or tl.Settings(epochs=10))
    print(branch.report.headline())  # the next book among all that the reader does not have; popularity and ALS are beside it
    prepared = branch.prepare(parts.test)
    what = ranks.sought([item.about for item in prepared])
    score = ranks.by_vectors(what, [item.about for item in prepared], branch.answers(prepared))
    print(f"coverage at 10: {ranks.coverage(what, ranks.first(what, score, 10)):.0%} of the catalogue")

    books = catalogue(branch, [*found.catalogue, NEW])  # nobody has had NEW yet
    for history in (["Herbs for small gardens", "The soil under your feet"], ["How stars are born"]):
        print("after", *history, sep="\n  ")
        print(*(f"    {near:.2f} {book}" for book, near in recommend(branch, [history], books, k=3)[0]), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
