"""Keep what people say of answers, learn from it, and forget a person.

python examples/feedback.py                      the messages that come with Trunkline
python examples/feedback.py my-model             another backbone
"""

import sys
import tempfile
from pathlib import Path

import trunkline as tl
from trunkline.feedback.backup import backup
from trunkline.feedback.export import rows as rows_of
from trunkline.feedback.store import FeedbackStore


def main(model: str = "minilm", settings: tl.Settings | None = None) -> None:
    messages = tl.read(tl.embedded("en"), task="classify", text="text", label="label")
    first, later = messages[:400], messages[400:460]
    branch = tl.tune(tl.read(list(first)), model, depth=0, settings=settings)

    with tempfile.TemporaryDirectory() as folder:
        store = FeedbackStore(Path(folder) / "feedback.db")  # or postgresql://user@host/database
        for number, (row, answer) in enumerate(zip(later, branch.predict(list(later)))):
            said = {"rating": 1} if answer.value == row["label"] else {"label": row["label"], "rating": -1}
            entry = {"branch": "intent", "row": {"text": row["text"]}, "answer": answer.value, "subject": f"customer {number % 20}", **said}
            store.add(entry, who="support desk", idempotency_key=f"message {number}")

        print(store.stats()["branches"]["intent"])
        print("forgotten:", store.forget("customer 3", who="privacy desk"))
        print("as written:", store.verify())
        backup(str(store), Path(folder) / "copy.db")

        more = rows_of(store)  # only those whose right label is known
        print(f"{len(more)} rows to learn from: {more.source}")
        both = [{name: row[name] for name in ("text", "label")} for row in (*first, *more)]
        print(tl.tune(tl.read(both), model, depth=0, settings=settings).report)
        store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
