"""Every method on the same rows, split and stored states: quality with intervals, parameters, bytes and seconds, a table for each set.

    python bench/methods.py                                    # minilm: intents and slots; some minutes
    python bench/methods.py --model smollm2 --sets intents instructions
    python bench/methods.py --model t5-small --sets captions --methods full,lora,ia3
    python bench/methods.py --model t5-small --report          # one table of what stands in --out

intents: ten intents of Banking77 (where there is no data, the messages that come with Trunkline). slots: SNIPS. instructions: LLaMA-Factory's
Alpaca demo. captions: Multi30k, English to German. --rows training rows are drawn by chance, and all methods see the same ones; a method that a task or
model refuses is named with the reason. "against": the best on the validation rows minus this one, on the same test rows. Each method learns at the
rate that it suggests. Ends with AdaLoRA's ranks. Writes JSON. Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trunkline import choices, names
from trunkline.branch import Branch
from trunkline.data.embedded import embedded
from trunkline.data.quality import drop_leaks
from trunkline.data.read import read
from trunkline.data.split import Split, split
from trunkline.errors import OptionError
from trunkline.evaluation.metrics import METRICS as TITLES
from trunkline.evaluation.wording import number, with_interval
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.train.compare import Compared, compare
from trunkline.train.settings import Settings
from trunkline.train.tune import spec_for
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
METHODS = (
    "full", "lora", "lora:dora=yes", "lora:ratio=16", "lora:start=pissa", "lora:start=eva", "adalora", "ia3", "adapter", "prefix", "prompt", "norm",
    "bitfit", "probe",
)  # fmt: skip
SETS = {"encoder": ("intents", "slots"), "decoder": ("intents", "instructions"), "encoder-decoder": ("intents", "captions")}
"""What is measured where --sets says nothing, by the kind of the model."""
OPTIONS = {"captions": r"prefix=translate English to German\: "}
"""Of the task: what t5-small was taught to read before a text."""
INTENTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="[default: minilm]")
    parser.add_argument("--sets", nargs="+", choices=["intents", "slots", "instructions", "captions"])
    parser.add_argument("--methods", type=lambda told: told.split(","), default=METHODS, help="with a comma between them  [default: all]")
    parser.add_argument("--rows", type=int, default=300, help="training rows  [default: 300]")
    parser.add_argument("--test", type=int, default=400, help="test rows, at most  [default: 400]")
    parser.add_argument("--epochs", type=int, default=4, help="[default: 4]")
    parser.add_argument("--depth", type=int, default=2, help="layers above the cut  [default: 2]")
    parser.add_argument("--head-learning-rate", type=float, help="instead of what suits the states (t5-small, as it was before: 0.005)")
    parser.add_argument("--seeds", type=int, default=1, help="[default: 1]")
    parser.add_argument("--threads", type=int, default=1, help="[default: 1]")
    parser.add_argument(
        "--report", action="store_true", help="measure nothing: the table of a model from what stands in --out, as Markdown"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.report:
        print("\n".join(_table(asked.out, asked.model)))
        return
    backbone = load_backbone(asked.model)
    for name in asked.sets or SETS[backbone.family.kind]:
        parts = drop_leaks(LOADERS[name]())
        limits = {"train": asked.rows, "validation": max(50, asked.rows // 3), "test": asked.test}
        parts = replace(parts, **{part: _some(rows, limits[part]) for part, rows in parts.parts().items()})
        counts = ", ".join(f"{len(rows):,} {part}" for part, rows in parts.parts().items())
        print(f"\n## {name}: {parts.train.task}, {asked.model}, depth {asked.depth}, {asked.epochs} epochs; {counts} rows\n", flush=True)
        refused = {method: why for method in asked.methods if (why := _refused(backbone, parts.train, method, asked.depth))}
        settings = Settings(
            epochs=asked.epochs,
            batch_size=16,
            threads=asked.threads,
            seeds=asked.seeds,
            patience=None,
            task_options=OPTIONS.get(name, ""),
            head_learning_rate=asked.head_learning_rate,
        )
        began = time.process_time()
        fit = [method for method in asked.methods if method not in refused]
        found = compare(parts, asked.model, methods=fit, depth=asked.depth, settings=settings)
        _show(found, refused)
        print(f"\nOne thread; {time.process_time() - began:.0f} processor seconds in all.", flush=True)
        made = {**found.to_json(), "refused": refused, "ranks": _ranks(found), "rows": counts, "epochs": asked.epochs, "seeds": asked.seeds}
        (asked.out / f"methods-{asked.model}-{name}.json").write_text(json.dumps(made, ensure_ascii=False, indent=1), encoding="utf-8")


def _intents() -> Split:
    files = [DATA / f"banking77/{part}.csv" for part in ("train", "test")]
    if not all(file.exists() for file in files):
        return split(read(embedded("en"), text="text", label="label"), validation=0.1, test=0.3)
    train, test = (read(file, text="text", label="category") for file in files)
    chosen = set(random.Random(0).sample(sorted({row["label"] for row in train}), INTENTS))
    train, test = (replace(part, rows=tuple(row for row in part if row["label"] in chosen)) for part in (train, test))
    return split(train, validation=0.1, test=test)


def _slots() -> Split:
    train, dev, test = (read(DATA / f"atis_snips/snips/{part}", "tag") for part in ("train", "dev", "test"))
    return split(train, validation=dev, test=test)


def _instructions() -> Split:
    return split(read(DATA / "llamafactory_demos/alpaca_en_demo.json", "generate"), validation=0.1, test=0.2, by="label")


def _captions() -> Split:
    train, dev, test = (
        read(tuple(DATA / f"multi30k/{part}.{language}.gz" for language in ("en", "de")), "seq2seq")
        for part in ("train", "val", "test_2016_flickr")
    )
    return split(train, validation=dev, test=test)


LOADERS = {"intents": _intents, "slots": _slots, "instructions": _instructions, "captions": _captions}


def _some(rows: Rows, count: int) -> Rows:
    """So many rows by chance, those that bring a new label first, so that all that is asked for is in the training rows."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    seen: set[str] = set()
    first = []
    for at in order:
        if new := _labels(rows, at) - seen:
            seen |= new
            first.append(at)
    picked = sorted(list(dict.fromkeys([*first, *order]))[:count])
    return replace(rows, rows=tuple(rows[at] for at in picked))


def _labels(rows: Rows, at: int) -> set[str]:
    if rows.task == "tag":
        return {entity[2] for entity in rows[at]["label"]}
    return {rows[at]["label"]} if rows.task == "classify" else set()


def _refused(backbone: Backbone, rows: Rows, method: str, depth: int) -> str | None:
    """Why this method has no place here."""
    name, options = choices.split_choice(method)
    config = choices.build(names.method(name).Config, options, f"method {name!r}")
    try:
        branch = Branch.new(backbone, spec_for(backbone, rows), name, config, depth)
    except OptionError as error:
        return str(error)
    return None if branch.network.learned() else "there is nothing that it could learn: the output layer is the model's own"


def _ranks(found: Compared) -> dict[str, Any]:
    models = {method: branch.report.model for method, branch in found.branches.items() if branch.report}
    return {method: model["ranks"] for method, model in models.items() if "ranks" in model}


def _show(found: Compared, refused: dict[str, str]) -> None:
    print(f"| method | {TITLES[found.metric].title} | parameters | bytes | seconds | best against it |\n|---|---|--:|--:|--:|---|")
    for entry in found.entries:
        against = entry.against
        told = "" if against is None else f"{number(found.metric, against.difference)}, {against.verdict}"
        print(
            f"| `{entry.method}`{' (best)' if against is None else ''} | {with_interval(found.metric, entry.measured)} | {entry.trained:,} "
            f"| {entry.bytes:,} | {entry.seconds:.1f} | {told} |"
        )
    report: Any = next(iter(found.branches.values())).report
    plain = [f"{one['name']} {number(found.metric, one['metrics'][found.metric]['value'])}" for one in report.results[:-1]]
    print(f"\nWithout tuning: {', '.join(plain) or 'nothing to compare with'}. {found.verdict()}")
    for method, why in refused.items():
        print(f"Refused: {method}: {why}")
    for method, ranks in _ranks(found).items():
        print(f"Ranks of {method}: {', '.join(f'{name} {rank}' for name, rank in ranks.items())}", flush=True)


def _table(folder: Path, model: str) -> list[str]:
    """A line for each method: quality on each set, parameters and bytes on the first, seconds on each."""
    files = {name: folder / f"methods-{model}-{name}.json" for name in LOADERS}
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    heads = [f"{name}: {TITLES[one['metric']].title.lower()}" for name, one in found.items()]
    lines = [f"| method | {' | '.join([*heads, 'parameters', 'bytes', *(f'seconds, {name}' for name in found)])} |"]
    lines.append(f"|---|{'---|' * len(found)}{'--:|' * (2 + len(found))}")
    for method in METHODS:
        entries = {name: next((e for e in one["methods"] if e["method"] == method), None) for name, one in found.items()}
        if first := next((entry for entry in entries.values() if entry), None):
            values = [
                with_interval(found[n]["metric"], e["measured"]) + " best" * (found[n]["best"] == method) if e else "–"
                for n, e in entries.items()
            ]
            spent = [f"{entry['seconds']:.1f}" if entry else "–" for entry in entries.values()]
            lines.append(f"| `{method}` | {' | '.join([*values, format(first['trained'], ','), format(first['bytes'], ','), *spent])} |")
    return lines


if __name__ == "__main__":
    main()
