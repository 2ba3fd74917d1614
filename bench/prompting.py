"""Prompting on real data: zero-shot, 4 random and 4 nearest demonstrations, with and without calibration; and rows/s with what is reused.

    python bench/prompting.py sst2 banking10 --model smollm2
    python bench/prompting.py bc5cdr --rows 30 --neighbours minilm    entities (chemicals, diseases), written as JSON
    python bench/prompting.py sst2 --reuse      rows/s: nothing shared, the prompt shared by its labels, and its beginning by the rows too

Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data). banking10 is Banking77 with its first ten intents by name.
Demonstrations come from --pool training rows, and the baselines learn from the same; --rows test rows are measured. Nothing is chosen by
them: the templates below were written before any of these figures were seen.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trunkline.data.read import read
from trunkline.data.split import Split
from trunkline.prompting.prompt import prompt
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
SST2 = Template(
    "Review: {text}\nSentiment: {label}",
    {"0": "negative", "1": "positive"},
    "Say whether each review is positive or negative.",
    name="sst2",
)
BANKING = "Message: {text}\nTopic: {label}"
PROMPTS = (
    (0, "nearest", "none"),
    (0, "nearest", "contextual"),
    (0, "nearest", "pmi"),
    (4, "random", "none"),
    (4, "random", "contextual"),
    (4, "nearest", "none"),
    (4, "nearest", "contextual"),
)


def sst2(pool: int) -> tuple[Split, Template | None]:
    parts = {name: read(DATA / f"sst2/{name}.tsv", text="0", label="1", header=False) for name in ("train", "dev", "test")}
    return Split(some(parts["train"], pool), some(parts["dev"], 200), parts["test"]), SST2


def banking10(pool: int) -> tuple[Split, Template | None]:
    parts = {name: read(DATA / f"banking77/{name}.csv", text="text", label="category") for name in ("train", "test")}
    kept = sorted({row["label"] for row in parts["test"]})[:10]
    train, test = (replace(part, rows=tuple(row for row in part if row["label"] in kept)) for part in parts.values())
    mixed = some(train, len(train))
    validation, train = replace(mixed, rows=mixed.rows[:200]), replace(mixed, rows=mixed.rows[200:])
    words = {label: label.replace("_", " ") for label in kept}
    instruction = f"Give each message to a bank its topic, one of: {', '.join(words.values())}."
    return Split(some(train, pool), validation, test), Template(BANKING, words, instruction, name="banking10")


def bc5cdr(pool: int) -> tuple[Split, Template | None]:
    parts = {name: read(DATA / f"biomed_ner/BC5CDR-IOB/{name}.tsv", "tag") for name in ("train", "devel", "test")}
    return Split(some(parts["train"], pool), some(parts["devel"], 200), parts["test"]), None


SETS = {"sst2": sst2, "banking10": banking10, "bc5cdr": bc5cdr}
ENTITIES = ((0, "nearest", "none"), (4, "random", "none"), (4, "nearest", "none"))
"""Of a set with entities: no label is scored, so nothing is calibrated."""


def some(rows: Rows, count: int) -> Rows:
    """So many rows, mixed, by seed 0."""
    picked = random.Random(0).sample(range(len(rows)), min(count, len(rows)))
    return replace(rows, rows=tuple(rows[i] for i in picked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--pool", type=int, default=500)
    parser.add_argument("--only", type=int, nargs="*", help="of the prompts, by number")
    parser.add_argument("--neighbours", help="another model to find the nearest rows with")
    parser.add_argument("--reuse", action="store_true", help="rows a second of 4 random demonstrations by what is reused")
    parser.add_argument("--validation", action="store_true", help="measure on the validation rows: for what defaults are chosen by")
    parser.add_argument("--balance", action="store_true", help="as many of the nearest rows of each label")
    asked = parser.parse_args()
    balance = True if asked.balance else None
    settings = PromptSettings(threads=1, test_rows=asked.rows, baseline_rows=0, neighbours=asked.neighbours, balance=balance)
    for name in asked.sets:
        parts, template = SETS[name](asked.pool)
        parts = replace(parts, test=parts.validation) if asked.validation else parts
        if asked.reuse:
            by_reuse(name, parts, template, asked.model, settings)
            continue
        for at, (shots, pick, calibrate) in enumerate(ENTITIES if parts.test.task == "tag" else PROMPTS):
            if asked.only is None or at in asked.only:
                told = replace(settings, baseline_rows=asked.pool if at == 0 and not asked.validation else 0)
                found = prompt(parts, asked.model, template=template, shots=shots, pick=pick, calibrate=calibrate, settings=told)
                show(name, asked.model, found.report)


def by_reuse(name: str, parts: Split, template: Template | None, model: str, settings: PromptSettings) -> None:
    """Rows a second of processor time, which other work on the machine changes little."""
    rows, few = some(parts.test, settings.test_rows or len(parts.test)), replace(parts, test=some(parts.test, 2))
    for reuse in ("none", "row", "prefix"):
        found = prompt(few, model, template=template, shots=4, pick="random", settings=replace(settings, reuse=reuse))
        before, started = found.scorer.tokens, time.process_time()
        found.scores(rows)
        seconds = time.process_time() - started
        print(
            f"{name:10} {model:9} reuse {reuse:7} {len(rows) / seconds:7.2f} rows a processor second, "
            f"{(found.scorer.tokens - before) / len(rows):7.1f} tokens a row",
            flush=True,
        )


def show(name: str, model: str, report: Any) -> None:
    said = next(note for note in report.data["notes"] if note.startswith("prompt: ")).removeprefix("prompt: ")
    for result in report.results:
        first, second = ("entity_f1", "entity_precision") if report.task == "tag" else ("accuracy", "macro_f1")
        found, last = result["metrics"][first], result["name"] == "prompted"
        speed = f"{report.cost['rows_per_second']:6.2f} rows/s {report.cost['tokens']:8,} tokens" if last else ""
        what = said.partition(", ")[2] if last else result["name"]
        print(
            f"{name:10} {model:9} {what:40} {100 * found['value']:5.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})  "
            f"{second} {100 * result['metrics'][second]['value']:5.1f}  {speed}",
            flush=True,
        )
    for note in report.data["notes"]:
        if any(word in note for word in ("dropped", "lost their end", "not whole")):
            print(f"{'':20} {note}", flush=True)


if __name__ == "__main__":
    main()
