"""Every task on real data: a branch on stored states beside LoRA on the whole model, both with intervals and seconds, in one table.

    python bench/tasks.py                      # all sets
    python bench/tasks.py cluener xquad-en     # some
    python bench/tasks.py xquad-rank --alone --depth 1 --epochs 2    # ours, with nothing beside it but what a branch has to beat
    python bench/tasks.py --report             # the table of all that was measured, as Markdown
    python bench/tasks.py snips --crf --rows 1000 --depth 2 --epochs 4 --seeds 3 --test 300    # of a tag set: what the option crf brings

Both are this package's own loop, with the same rows, epochs and batches, one after the other in one process: "ours" tunes the layers
above the cut on stored states (its seconds include making the states, and the search for the depth where the table in this file says auto), "LoRA,
whole" runs and tunes through every layer; with --crf the other
is "ours" again, with a CRF. Training rows are a sample (--rows), for the table is to be made on two cores; test rows are those of the set, at
most --test of them. Writes JSON. Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data). Figures are of one seed, the best
on the validation rows where there are several; the intervals are over test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from trunkline.data.quality import drop_leaks
from trunkline.data.read import read
from trunkline.data.split import Split, split
from trunkline.evaluation.interval import bootstrap
from trunkline.evaluation.metrics import METRICS
from trunkline.evaluation.wording import number, with_interval
from trunkline.train import start
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


@dataclass(frozen=True)
class Set:
    """A task on a set: where its rows are, the model, the depth or `auto`, how many rows to train on, and how often each is seen."""

    load: Callable[[], Split]
    model: str
    depth: int | str
    rows: int
    epochs: int
    options: str = ""


def _given(task: str, **files: Any) -> Callable[[], Split]:
    """A set that comes in parts: train, perhaps validation, test."""

    def load() -> Split:
        parts = {name: read(_place(source), task) for name, source in files.items()}
        return split(parts["train"], validation=parts.get("validation", 0.1), test=parts["test"])

    return load


def _whole(task: str, source: Any, by: str = "label", **columns: str) -> Callable[[], Split]:
    """A set in one file, split here."""
    return lambda: split(read(_place(source), task, **columns), validation=0.1, test=0.2, by=by)


def _place(source: Any) -> Any:
    return tuple(DATA / one for one in source) if isinstance(source, tuple) else DATA / source


SETS: dict[str, Set] = {
    "cluener": Set(_given("tag", train="cluener/normalised/train.jsonl", test="cluener/normalised/dev.jsonl"), "e5-small", "auto", 2000, 4),
    "bc5cdr": Set(
        _given("tag", train="biomed_ner/BC5CDR-IOB/train.tsv", validation="biomed_ner/BC5CDR-IOB/devel.tsv",
               test="biomed_ner/BC5CDR-IOB/test.tsv"), "minilm", "auto", 2000, 5),
    "snips": Set(
        _given("tag", train="atis_snips/snips/train", validation="atis_snips/snips/dev", test="atis_snips/snips/test"), "minilm", "auto", 2000, 6),
    "xquad-en": Set(_whole("span", "xquad/xquad.en.json", by="group"), "minilm", 3, 800, 5),
    "xquad-zh": Set(_whole("span", "xquad/xquad.zh.json", by="group"), "e5-small", 4, 800, 3),
    "drcd": Set(_whole("span", "drcd/DRCD_dev.json", by="group"), "e5-small", 4, 800, 3),
    "xquad-rank": Set(_whole("rank", "xquad/xquad.en.json", by="group"), "minilm", 2, 800, 5),
    "stsb": Set(
        lambda: split(read(DATA / "stsb_en/stsbenchmark.tsv.gz", "regress", text="sentence1", text_b="sentence2", label="score"), by="given"),
        "minilm", "auto", 2000, 5),
    "alpaca": Set(_whole("generate", "llamafactory_demos/alpaca_en_demo.json"), "smollm2", 4, 200, 2),
    "gsm8k": Set(_given("generate", train="gsm8k/train.jsonl", test="gsm8k/test.jsonl"), "smollm2", 4, 200, 2),
    "multi30k": Set(
        _given("seq2seq", train=("multi30k/train.en.gz", "multi30k/train.de.gz"), validation=("multi30k/val.en.gz", "multi30k/val.de.gz"),
               test=("multi30k/test_2016_flickr.en.gz", "multi30k/test_2016_flickr.de.gz")), "t5-small", 4, 1000, 3,
        r"prefix=translate English to German\: "),
    "tatoeba": Set(_whole("seq2seq", "tatoeba_en_zh/cmn.txt"), "t5-small", 4, 1000, 3),
    "dialogsum": Set(
        _given("seq2seq", train="dialogsum/normalised/train.jsonl", validation="dialogsum/normalised/dev.jsonl",
               test="dialogsum/normalised/test.jsonl"), "t5-small", 4, 300, 3, r"prefix=summarize\: "),
}  # fmt: skip


OURS, WHOLE, CRF = "ours", "LoRA, whole", "ours, CRF"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--rows", type=int, help="train on at most so many rows, instead of as many as the table in this file says")
    parser.add_argument("--test", type=int, default=500, help="measure on at most so many rows")
    parser.add_argument("--epochs", type=int, help="instead of as many as the table in this file says")
    parser.add_argument("--depth", type=lambda told: told if told == "auto" else int(told), help="of ours, instead of that in this file")
    parser.add_argument("--budget", default=Settings().budget, help=f"of the search for a depth  [default: {Settings().budget}]")
    parser.add_argument("--seeds", type=int, default=1, help="tune so many times with other seeds  [default: 1]")
    parser.add_argument("--head-start", type=float, help="a tag head begins with this share of its solution, instead of a tenth")
    parser.add_argument("--crf", action="store_true", help="beside ours not LoRA but ours with a CRF (tag sets only)")
    parser.add_argument("--alone", action="store_true", help="ours, and neither LoRA nor a CRF beside it")
    parser.add_argument("--report", action="store_true", help="measure nothing: one table of what stands in --out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.report:
        print("\n".join(_table(asked.out)))
        return
    if asked.head_start is not None:
        start._SHARE = asked.head_start
    other = None if asked.alone else CRF if asked.crf else WHOLE
    for name in asked.sets or SETS:
        one = SETS[name]
        parts = _limited(drop_leaks(one.load()), asked.rows or one.rows, asked.test)
        print(
            f"\n## {name}: {parts.train.task}, {one.model}, {', '.join(f'{len(p):,} {n}' for n, p in parts.parts().items())} rows",
            flush=True,
        )
        if asked.crf and parts.train.task != "tag":
            parser.error(f"--crf is an option of the task tag, and {name} is {parts.train.task}")
        found = {how: _tuned(parts, one, how, asked) for how in (OURS, other) if how}
        _show(name, found, other)
        made = {how: {"seconds": seconds, "report": json.loads(report.to_json())} for how, (report, seconds) in found.items()}
        (asked.out / f"task-{name}{'-crf' if asked.crf else ''}.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")


def _limited(parts: Split, rows: int, test: int) -> Split:
    return replace(parts, train=_some(parts.train, rows), validation=_some(parts.validation, test // 2), test=_some(parts.test, test))


def _some(rows: Rows, count: int) -> Rows:
    picked = sorted(random.Random(0).sample(range(len(rows)), min(count, len(rows))))
    return replace(rows, rows=tuple(rows[i] for i in picked))


def _tuned(parts: Split, one: Set, how: str, asked: argparse.Namespace) -> tuple[Any, float]:
    """The report, and the seconds from the rows to the trained branch, without those of measuring."""
    options = "crf=true" if how == CRF else one.options
    settings = Settings(
        epochs=asked.epochs or one.epochs, threads=asked.threads, task_options=options, seeds=asked.seeds, budget=asked.budget
    )
    method, depth = ("lora", "all") if how == WHOLE else ("full", one.depth if asked.depth is None else asked.depth)
    with _fresh_cache():
        started = time.perf_counter()
        branch = tune(parts, one.model, method=method, depth=depth, settings=settings)
        seconds = time.perf_counter() - started - branch.report.cost["seconds"]["measure"]
    return branch.report, seconds


@contextmanager
def _fresh_cache() -> Iterator[None]:
    """A cache folder of its own for the states, with the models of the usual one."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(os.environ.get("TRUNKLINE_CACHE", Path.home() / ".cache/trunkline")) / "models"
        (Path(folder) / "models").symlink_to(models.absolute())
        before = os.environ.get("TRUNKLINE_CACHE")
        os.environ["TRUNKLINE_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("TRUNKLINE_CACHE") if before is None else os.environ.update(TRUNKLINE_CACHE=before)


def _show(name: str, found: dict[str, tuple[Any, float]], other: str | None) -> None:
    reports = {how: report for how, (report, _) in found.items()}
    first = reports[OURS]
    for metric in first.results[-1]["metrics"]:
        cells = [f"{how} {with_interval(metric, report.results[-1]['metrics'].get(metric))}" for how, report in reports.items()]
        plain = [f"{r['name']} {number(metric, r['metrics'][metric]['value'])}" for r in first.results[:-1] if metric in r["metrics"]]
        print(f"{name:10} {metric:>18}: {'   '.join(cells)}   before: {', '.join(plain) or 'none'}", flush=True)
    for metric in first.results[-1].get("seeds") or {}:
        by_seed = {how: report.results[-1]["seeds"][metric] for how, report in reports.items()}
        cells = [f"{how} {', '.join(number(metric, value) for value in values)}" for how, values in by_seed.items()]
        print(f"{name:10} {'by seed':>18}: {metric}: {'   '.join(cells)}", flush=True)
    for one in first.comparisons:
        told = f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}): {one['verdict']}"
        print(f"{name:10} {'ours minus ' + one['before']:>18}: {one['metric']} {told}", flush=True)
    if name == "gsm8k":
        for how, texts in {"before": "before", "ours": "predicted"}.items():
            right = bootstrap(["number_match"], [[row["label"]] for row in first.samples], [row[texts] for row in first.samples])
            told = with_interval("number_match", vars(right["number_match"]))
            print(f"{name:10} {'right number':>18}: {how} {told} of {len(first.samples)} written answers", flush=True)
    if first.search:
        print(f"{name:10} {'depth':>18}: {first.search['depth']}, {first.search['why']}", flush=True)
    spent, ours = first.cost["seconds"], found[OURS][1]
    against = ""
    if other:
        theirs, tune_alone = found[other][1], reports[other].cost["seconds"]["tune"] / spent["tune"]
        against = f", {other} {theirs:.0f}: {theirs / ours:.1f} times; tune alone {tune_alone:.1f} times"
    parts = ", ".join(f"{part} {spent[part]:.0f}" for part in ("encode", "search", "tune") if part in spent)
    print(f"{name:10} {'seconds':>18}: ours {ours:.0f} ({parts}){against}", flush=True)


def _table(folder: Path) -> list[str]:
    """A line for each set and its first metric (where texts are written, also of those): ours and LoRA with intervals and seconds."""
    lines = [
        "| set (training rows, model) | metric | before | ours, depth | LoRA on all layers | seconds | LoRA : ours | tuning alone |",
        "|---|---|---|---|---|--:|--:|--:|",
    ]
    for name in SETS:
        file = folder / f"task-{name}.json"
        if not file.exists():
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        ours, theirs = found[OURS]["report"], found[WHOLE]["report"]
        last, whole = ours["results"][-1]["metrics"], theirs["results"][-1]["metrics"]
        depth = f"{ours['model']['depth']}, {ours['search']['pairs']}" if ours["search"].get("pairs") else ours["model"]["depth"]
        spent = [found[how]["seconds"] for how in (OURS, WHOLE)]
        alone = [one["cost"]["seconds"]["tune"] for one in (ours, theirs)]
        cells = [f"{spent[0]:.0f}, {spent[1]:.0f}", f"{spent[1] / spent[0]:.1f}", f"{alone[1] / alone[0]:.1f}"]
        for nth, metric in enumerate(one for one in last if one in _SHOWN):
            before = max((r["metrics"][metric]["value"] for r in ours["results"][:-1] if metric in r["metrics"]), default=None)
            if metric == "perplexity":
                before = ours["results"][0]["metrics"][metric]["value"]
            first = [f"{name} ({ours['data']['rows']['train']:,}, {ours['model']['name']})", *cells] if not nth else [""] * 4
            value = [with_interval(metric, one.get(metric)) for one in (last, whole)]
            told = "–" if before is None else number(metric, before)
            lines.append(f"| {first[0]} | {METRICS[metric].title} | {told} | {value[0]} ({depth}) | {value[1]} | {' | '.join(first[1:])} |")
    return lines


_SHOWN = ("entity_f1", "span_f1", "span_exact", "pearson", "mrr", "perplexity", "bleu", "chrf", "rouge_l", "number_match")
"""Of what a task measures, what the table has; "before" is the best of what stands beside a branch, or the model as it was."""


if __name__ == "__main__":
    main()
