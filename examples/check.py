"""Look for what is wrong in the embedded messages with some damage done to them, decide, and apply.

python examples/check.py                 words and labels alone, no model
python examples/check.py minilm          also by what the texts mean
"""

import csv
import sys
from pathlib import Path

import trunkline as tl
from trunkline.quality import changes, page
from trunkline.types import Rows


def main(model: str | None = None, out: str = "runs/example-check") -> None:
    rows = list(tl.read(tl.embedded("en")))
    rows[3] = {**rows[3], "text": "Write to me at ann@example.com, my card is 4111 1111 1111 1111"}
    rows[7] = {**rows[6], "text": rows[6]["text"].upper()}  # a copy
    labels = sorted({row["label"] for row in rows})
    rows[9] = {**rows[9], "label": labels[(labels.index(rows[9]["label"]) + 1) % len(labels)]}  # a wrong label
    data = Rows(tuple(rows), "classify", "messages")

    found = tl.check(data, tl.vectors(data, model=model) if model else None)
    for section in found.sections:
        print(f"{section.title}: {section.count}")
    page.save(found, out)

    path = Path(out) / "changes.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["decision"] = "yes" if line["action"] == "rewrite" else ""  # what a person does in a spreadsheet
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, changes.COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    cleaned = changes.apply(data, path)
    print(cleaned.notes[-1])
    print(cleaned[3]["text"])


if __name__ == "__main__":
    main(*sys.argv[1:])
