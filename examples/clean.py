"""Raw text to documents worth training on: repair, rules, duplicates, personal data; and what was dropped, for which reason.

python examples/clean.py                  the lines below: enough to see it work
python examples/clean.py pages.jsonl out  a file of your own, with the rules for web pages
"""

import json
import sys
import tempfile
from pathlib import Path

import trunkline as tl

LINES = (
    "My card hasnâ€™t arrived, please call 13812345678 or write to li@example.com.",
    "my card hasn’t arrived, please call 13812345678 or write to li@example.com.",
    "I would like to know when the new card will be sent to my address in town.",
    "I would like to know when the new card will be sent to my address in town!!",
    "<p>The fee was charged twice &amp; nobody answers.</p><p>Accept cookies</p>",
    "订单还没有到，请帮我查一下物流信息，谢谢。",
    "buy now buy now buy now buy now buy now buy now",
)


def main(file: str | None = None, out: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "lines.jsonl")
        made.write_text("\n".join(json.dumps({"text": line}) for line in LINES), encoding="utf-8")
        settings = tl.CleanSettings(rules="common_phrases") if file is None else tl.CleanSettings()
        result = Path(out or Path(folder, "out"))
        report = tl.clean(file or made, result, settings)
        print(report)
        print("\nkept:", *(result / "data-00000.jsonl").read_text(encoding="utf-8").splitlines()[:5], sep="\n  ")
        print("\ndropped:", *(result / "samples.jsonl").read_text(encoding="utf-8").splitlines()[:5], sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
