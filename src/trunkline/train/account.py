"""What a finished run has to say for itself: the branch that is kept, calibrated, and its report with the baselines beside it."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import transformers

from trunkline import __version__, names
from trunkline.branch import Branch
from trunkline.data.quality import Finding
from trunkline.data.split import Split, labels_of
from trunkline.evaluation.calibration import fit_temperature
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.kinds.spans import f1
from trunkline.evaluation.measure import drawn, remarks, samples, tables, truth_and_scores, written
from trunkline.evaluation.metrics import METRICS, compute, suited
from trunkline.evaluation.report import Report
from trunkline.model.nf4 import count
from trunkline.states.collate import Source
from trunkline.states.encode import EncodeReport
from trunkline.train import machine, rounding
from trunkline.train.before import Measured, before, written_before
from trunkline.train.depth import Search
from trunkline.train.fit import Progress
from trunkline.train.settings import Settings
from trunkline.types import Item

_LOOKED_AT = 1000  # training rows in which unknown tokens are counted
_UNKNOWN = 0.05


@dataclass(frozen=True)
class Run:
    """All that `tune` has in hand when training is over. `fitted`: a branch and its progress for each seed."""

    parts: Split
    findings: list[Finding]
    items: Mapping[str, Sequence[Item]]
    source: Source | None
    encoded: EncodeReport | None
    fitted: list[tuple[Branch, Progress]]
    settings: Settings
    method: str
    seconds: dict[str, float]
    command: str
    search: Search | None = None


def account(done: Run) -> Branch:
    """The branch of the best seed, calibrated on the validation rows, with its report."""
    started = time.perf_counter()
    metric = done.settings.metric or names.task(done.fitted[0][0].task).METRICS[0]
    sign = 1 if METRICS[metric].higher_is_better else -1
    best = max(range(len(done.fitted)), key=lambda at: sign * (done.fitted[at][1].best or 0.0))
    branch, rounded = rounding.settle(done.fitted[best][0], done.items["validation"], done.source, done.settings.branch_precision)
    branch = replace(branch, spec=_calibrated(branch, done))
    measured = "test" if len(done.items["test"]) else "validation"
    precision = machine.precision(done.settings.precision, branch.backbone.device)
    on = Measured(done.fitted[best][0], done.parts, done.items, done.source, measured, precision)
    results, scores, truth = _results(done, branch, best, on)
    comparisons, shown = _compared(branch, truth, scores), tables(branch.spec, done.parts.parts()[measured], truth, scores["tuned"])
    if suited(names.task(branch.task).METRICS, "texts") and done.items[measured][0].gold is not None:
        shown["samples"] = _write(on, branch, results, comparisons)
    done.seconds["measure"] = time.perf_counter() - started
    report = report_of(done, branch, measured, {"results": results, "comparisons": comparisons, **shown})
    report.data["notes"] += rounded
    return replace(branch, report=report)


def _measured(branch: Branch, done: Run, part: str) -> tuple[Any, Any]:
    """Truth and scores of the branch on a part of the rows."""
    items = done.items[part]
    return truth_and_scores(branch.spec, items, branch.answers(items, done.source))


def _calibrated(branch: Branch, done: Run) -> Any:
    """The spec with the temperature, or the threshold for no answer, that fits the validation rows best, where the task has one."""
    if getattr(branch.spec, "no_answers", False) and branch.spec.no_answer_threshold is None:
        return _with_threshold(branch, done)
    if branch.spec.kind == "preferences":
        margins = np.asarray(_measured(branch, done, "validation")[1], dtype=np.float64)
        return replace(
            branch.spec, temperature=fit_temperature(np.stack([margins, 0 * margins], axis=1), np.zeros(len(margins), dtype=np.int64))
        )
    if branch.spec.kind not in ("single", "multi"):  # nothing to calibrate; where a task draws tokens, its temperature is another thing
        return branch.spec
    truth, scores = _measured(branch, done, "validation")
    kept = np.clip(scores, 1e-12, 1 - 1e-12, dtype=np.float64)
    logits = np.log(kept / (1 - kept)) if branch.spec.multi_label else np.log(kept, out=kept)
    return replace(branch.spec, temperature=fit_temperature(logits, truth))


def _with_threshold(branch: Branch, done: Run) -> Any:
    items = done.items["validation"]
    if all(item.gold for item in items):
        return branch.spec
    spoken = replace(branch, spec=replace(branch.spec, no_answer_threshold=math.inf)).answers(items, done.source)
    threshold = names.task(branch.task).fit_threshold(spoken, [item.gold for item in items], f1)
    return replace(branch.spec, no_answer_threshold=threshold)


def _results(done: Run, branch: Branch, best: int, on: Measured) -> tuple[list[dict[str, Any]], dict[str, Any], Any]:
    """The rows of the table, baselines first; the scores behind them; the truth."""
    truth, tuned = _measured(branch, done, on.part)
    wanted = suited(names.task(branch.task).METRICS, branch.spec.kind)
    plain = before(on)
    scores = {result.name: result.test for result in plain} | {"tuned": tuned}
    spent = {result.name: result.seconds for result in plain} | {
        "tuned": sum(done.seconds.get(k, 0.0) for k in ("encode", "tune")) / len(done.fitted)
    }
    rows = [{"name": name, "metrics": bootstrap(wanted, truth, s), "seconds": spent[name]} for name, s in scores.items()]
    if len(done.fitted) > 1:
        every = [
            _measured(replace(one, spec=branch.spec, precision=branch.precision), done, on.part)[1] if at != best else tuned
            for at, (one, _) in enumerate(done.fitted)
        ]
        found = [compute(wanted, truth, s) for s in every]
        rows[-1]["seeds"] = {name: [values[name] for values in found] for name in wanted}
    return rows, scores, truth


def _compared(branch: Branch, truth: Any, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch against each baseline that answers differently for different rows; the untuned model comes first, for the headline."""
    metric = suited(names.task(branch.task).METRICS, branch.spec.kind)[0]
    others = sorted(
        (name for name in scores if name not in ("majority", "mean", "tuned")), key=lambda name: name not in ("untuned", "before")
    )
    return [_comparison(name, metric, truth, scores[name], scores["tuned"]) for name in others]


def _comparison(name: str, metric: str, truth: Any, was: Any, now: Any) -> dict[str, Any]:
    return {"before": name, "after": "tuned", **asdict(paired(metric, truth, was, now))}


def _write(
    on: Measured, branch: Branch, results: list[dict[str, Any]], comparisons: list[dict[str, Any]]
) -> list[dict[str, Any]]:  # fmt: skip
    """Let the branch, and the model as it was, write answers to some rows; their metrics go into the results. Gives some to read."""
    rows, items, wanted = on.parts.parts()[on.part], on.items[on.part], suited(names.task(branch.task).METRICS, "texts")
    at = drawn(rows)
    references, after = written(branch, rows, items, at)
    was = written_before(on, at)
    for result, texts in ((results[-1], after), (next(result for result in results if result["name"] == "before"), was)):
        result["metrics"] |= bootstrap(wanted, references, texts)
    comparisons.append(_comparison("before", wanted[0], references, was, after))
    return samples([rows[i] for i in at], references, after, was)


def report_of(done: Run, branch: Branch, measured: str, found: dict[str, Any]) -> Report:
    """The report of a branch: `found` holds its results, comparisons and tables, measured on the part of the rows that is named."""
    return Report(
        task=branch.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=done.command,
        data=_data(done, measured),
        model=_model(branch, done.method),
        settings=asdict(done.settings) | {"spec": branch.spec.to_json(), "config": asdict(branch.config)},
        **found,
        search=done.search.to_json() if done.search else {},
        history=[progress.history for _, progress in done.fitted],
        cost=_cost(done),
        versions=_versions(),
        machine=machine.describe(branch.backbone.device),
        seeds=[done.settings.seed + number for number in range(len(done.fitted))],
    )


def _data(done: Run, measured: str) -> dict[str, Any]:
    parts = done.parts.parts()
    every = [row for part in parts.values() for row in part]
    notes = [f"split {done.parts.how}", *done.parts.notes]
    if measured != "test":
        notes.append("there are no test rows: the figures are of the validation rows that the weights were chosen by, and so too good")
    cut = sum(item.was_cut for items in done.items.values() for item in items)
    if cut:
        notes.append(f"{cut:,} texts were longer than max_tokens and lost their end")
    backbone, some = done.fitted[0][0].backbone, done.items["train"][:_LOOKED_AT]
    unknown = backbone.tokenizer.unknown_share([tokens for item in some for tokens in item.tokens])
    if unknown > _UNKNOWN:
        notes.append(
            f"{unknown:.0%} of the tokens are none that {backbone.name} knows: a model for the language of these texts reads more of them"
        )
    notes += remarks(done.fitted[0][0].spec, done.items[measured])
    return {
        "source": parts["train"].source,
        "rows": {name: len(part) for name, part in parts.items()},
        "labels": dict(Counter(label for row in every for label in labels_of(row, parts["train"].task)).most_common()),
        "fingerprint": parts["train"].fingerprint,
        "notes": notes,
        "findings": [str(finding) for finding in done.findings],
    }


def _model(branch: Branch, method: str) -> dict[str, Any]:
    learned = branch.network.learned().values()
    return branch.network.guide.about(branch.network) | {
        "name": branch.backbone.name,
        "id": branch.backbone.id,
        "layers": branch.backbone.layers,
        "depth": branch.depth,
        "method": method,
        "trained": sum(p.numel() for p in learned),
        "bytes": sum(p.numel() * p.element_size() for p in learned),
        "frozen_bytes": _frozen_bytes(branch),
        "total": count(branch.backbone.stack, branch.network.head),
        "dtype": branch.states,
        "precision": branch.precision,
    }


def _frozen_bytes(branch: Branch) -> int:
    """Of the frozen tensors in memory, each once: of the backbone, of rounded trunks beside it, and above the cut."""
    modules = (*branch.backbone.held(), branch.network)
    tensors = {t.data_ptr(): t.nbytes for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(size for at, size in tensors.items() if at not in {p.data_ptr() for p in branch.network.learned().values()})


def _cost(done: Run) -> dict[str, Any]:
    return {
        "seconds": done.seconds,
        "tokens_per_second": done.encoded.tokens_per_second if done.encoded and done.encoded.new_rows else None,
        "peak_memory_bytes": machine.peak_memory(),
        "cache_bytes": getattr(done.source, "bytes", None),
    }


def _versions() -> dict[str, str]:
    return {
        "trunkline": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": version("peft"),
        "python": platform.python_version(),
    }
