"""What a finished run has to say for itself: the branch that is kept, calibrated, and its report with the baselines beside it."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import peft
import torch
import transformers

from trunkline import __version__, names
from trunkline.branch import Branch, run
from trunkline.data.quality import Finding
from trunkline.data.split import Split, labels_of
from trunkline.evaluation.baselines import baselines
from trunkline.evaluation.calibration import fit_temperature, reliability
from trunkline.evaluation.features import untuned
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.metrics import METRICS, compute, confusion, per_class, suited
from trunkline.evaluation.report import Report, confident_errors
from trunkline.states.collate import Source
from trunkline.states.encode import EncodeReport
from trunkline.train import machine
from trunkline.train.depth import Search
from trunkline.train.fit import Progress
from trunkline.train.settings import Settings
from trunkline.types import Item


@dataclass(frozen=True)
class Run:
    """All that `tune` has in hand when training is over. `fitted`: a branch and its progress for each seed."""

    parts: Split
    findings: list[Finding]
    items: dict[str, list[Item]]
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
    branch = done.fitted[best][0]
    plain = _scores(branch, done, "validation")
    branch = replace(branch, spec=_calibrated(branch.spec, done.items["validation"], plain))
    measured = "test" if len(done.items["test"]) else "validation"
    results, scores, truth = _results(done, branch, best, measured)
    done.seconds["measure"] = time.perf_counter() - started
    return replace(branch, report=_report(done, branch, results, scores, truth, measured))


def _scores(branch: Branch, done: Run, part: str) -> np.ndarray:
    answers = run(branch.network, branch.spec, done.items[part], done.source, branch.backbone.tokenizer.pad_id)
    return np.stack([answer.scores for answer in answers])


def _calibrated(spec: Any, items: Sequence[Item], scores: np.ndarray) -> Any:
    """The spec with the temperature that fits the validation rows best, where the task has one."""
    if not hasattr(spec, "temperature"):
        return spec
    kept = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    logits = np.log(kept / (1 - kept)) if spec.multi_label else np.log(kept)
    return replace(spec, temperature=fit_temperature(logits, _truth(items)))


def _truth(items: Sequence[Item]) -> np.ndarray:
    return np.stack([np.asarray(item.target) for item in items])


def _results(done: Run, branch: Branch, best: int, measured: str) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], np.ndarray]:
    """The rows of the table, baselines first; the scores behind them; the truth."""
    parts, truth = done.parts.parts(), _truth(done.items[measured])
    tuned = _scores(branch, done, measured)
    kind = "number" if tuned.ndim == 1 else "multi" if truth.ndim == 2 else "single"
    wanted = suited(names.task(branch.task).METRICS, kind)
    features = {name: untuned(branch.backbone, branch.depth, items, done.source) for name, items in done.items.items() if items}
    plain = baselines(
        parts["train"], parts[measured], branch.spec, validation=parts["validation"], features={**features, "test": features[measured]}
    )
    scores = {result.name: result.test for result in plain} | {"tuned": tuned}
    spent = {result.name: result.seconds for result in plain} | {
        "tuned": sum(done.seconds.get(k, 0.0) for k in ("encode", "tune")) / len(done.fitted)
    }
    rows = [{"name": name, "metrics": bootstrap(wanted, truth, s), "seconds": spent[name]} for name, s in scores.items()]
    if len(done.fitted) > 1:
        every = [
            _scores(replace(one, spec=branch.spec), done, measured) if at != best else tuned for at, (one, _) in enumerate(done.fitted)
        ]
        found = [compute(wanted, truth, s) for s in every]
        rows[-1]["seeds"] = {name: [values[name] for values in found] for name in wanted}
    return rows, scores, truth


def _report(
    done: Run, branch: Branch, results: list[dict[str, Any]], scores: dict[str, np.ndarray], truth: np.ndarray, measured: str
) -> Report:
    tuned, labels = scores["tuned"], getattr(branch.spec, "labels", ())
    main = names.task(branch.task).METRICS[0]
    main = main if main in results[-1]["metrics"] else next(iter(results[-1]["metrics"]))
    comparisons = [
        {"before": before, "after": "tuned", **asdict(paired(main, truth, scores[before], tuned))}
        for before in ("untuned", "tfidf")
        if before in scores
    ]
    rows = done.parts.parts()[measured]
    single = tuned.ndim == 2 and truth.ndim == 1
    return Report(
        task=branch.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=done.command,
        data=_data(done, measured),
        model=_model(branch, done.method),
        settings=asdict(done.settings) | {"spec": branch.spec.to_json(), "config": asdict(branch.config)},
        results=results,
        comparisons=comparisons,
        per_class=per_class(truth, tuned, labels) if labels else [],
        confusion={"labels": list(labels), "matrix": confusion(truth, tuned)} if single else None,
        scatter=None if labels else {"truth": truth, "predicted": tuned},
        calibration=_calibration(truth, tuned, branch) if labels else None,
        errors=confident_errors(rows, truth, tuned, labels),
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
    return {
        "source": parts["train"].source,
        "rows": {name: len(part) for name, part in parts.items()},
        "labels": dict(Counter(label for row in every for label in labels_of(row)).most_common())
        if parts["train"].task == "classify"
        else {},
        "fingerprint": parts["train"].fingerprint,
        "notes": notes,
        "findings": [str(finding) for finding in done.findings],
    }


def _model(branch: Branch, method: str) -> dict[str, Any]:
    learned = branch.network.learned().values()
    return {
        "name": branch.backbone.name,
        "id": branch.backbone.id,
        "layers": branch.backbone.layers,
        "depth": branch.depth,
        "method": method,
        "trained": sum(p.numel() for p in learned),
        "total": sum(p.numel() for p in branch.backbone.stack.parameters()) + sum(p.numel() for p in branch.network.head.parameters()),
        "dtype": branch.states,
    }


def _calibration(truth: np.ndarray, scores: np.ndarray, branch: Branch) -> dict[str, Any]:
    """How far the probabilities can be believed: with the temperature, and (worked backwards from them) without it."""
    logits = np.log(np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)) * branch.spec.temperature
    raw = np.exp(logits - logits.max(1, keepdims=True)) if truth.ndim == 1 else scores
    raw = raw / raw.sum(1, keepdims=True) if truth.ndim == 1 else raw
    if truth.ndim == 2:
        odds = np.log(np.clip(scores, 1e-12, 1 - 1e-12) / np.clip(1 - scores, 1e-12, 1)) * branch.spec.temperature
        raw = 1 / (1 + np.exp(-odds))
    return {
        "temperature": branch.spec.temperature,
        "ece_before": compute(["ece"], truth, raw)["ece"],
        "ece_after": compute(["ece"], truth, scores)["ece"],
        "bins": reliability(truth, scores),
        "bins_before": reliability(truth, raw),
    }


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
        "peft": peft.__version__,
        "python": platform.python_version(),
    }
