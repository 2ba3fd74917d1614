"""What a prompt has to say for itself: its answers to the test rows, the baselines beside them, what it cost."""

from __future__ import annotations

import platform
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from trunkline import __version__, names
from trunkline.data.split import Split, labels_of
from trunkline.evaluation.baselines.entities import entity_baselines
from trunkline.evaluation.baselines.labels import Result, baselines, learned_from, targets
from trunkline.evaluation.features import untuned
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.measure import tables
from trunkline.evaluation.metrics import suited
from trunkline.evaluation.report import Report
from trunkline.model.backbone import ALL, Backbone
from trunkline.progress import timed
from trunkline.prompting.prompted import Prompted, unanswered
from trunkline.prompting.server import ByServer
from trunkline.prompting.settings import PromptSettings
from trunkline.train import machine
from trunkline.types import Row, Rows


@dataclass(frozen=True)
class Run:
    """All that `prompt` has in hand when the prompt is chosen. `backbone`: None where a server answers."""

    chosen: Prompted
    parts: Split
    settings: PromptSettings
    backbone: Backbone | None
    seconds: dict[str, float] = field(default_factory=dict)


def account(done: Run) -> Report:
    """The report, measured on the test rows."""
    chosen, rows = done.chosen, _some(done.parts.test, done.settings.test_rows, done.settings.seed)
    truth, before, _ = truth_of(rows, chosen.spec), chosen.scorer.tokens, chosen.scorer.notes  # what a search noted is not of these rows
    with timed(done.seconds, "prompt"):
        scores = chosen.scores(rows)
    tokens, notes = chosen.scorer.tokens - before, [f"prompt: {chosen.what}", *chosen.scorer.notes]
    if isinstance(chosen.scorer, ByServer):
        scores, silent = _counted_wrong(scores, truth)
        notes += [f"{silent:,} answers named no label, or several, and count as wrong"] if silent else []
    with timed(done.seconds, "baselines"):
        plain = _baselines(done, rows)
    return Report(
        task=chosen.spec.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if Path(sys.argv[0]).name == "trunkline" else "trunkline.prompt(...)",
        data=_data(done, rows, notes),
        model={
            "name": chosen.model,
            "id": getattr(done.backbone, "id", None),
            "layers": getattr(done.backbone, "layers", None),
            "method": "prompt",
        },
        settings=_settings(done),
        cost=_cost(done, tokens, len(rows)),
        versions={
            "trunkline": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        machine=machine.describe(done.backbone.device) if done.backbone else {},
        seeds=[done.settings.seed],
        **_results(done, plain, truth, scores),
        **tables(chosen.spec, rows, truth, scores),
    )


def truth_of(rows: Sequence[Row], spec: Any) -> Any:
    """What metrics compare with: label ids (N,), or of each row its entities."""
    return [[tuple(entity) for entity in row["label"]] for row in rows] if spec.task == "tag" else targets(rows, spec)


def _results(done: Run, plain: Sequence[Result], truth: Any, scores: Any) -> dict[str, Any]:
    """The rows of the table, baselines first, and the prompt against each of them; the untuned model comes first, for the headline."""
    spec = done.chosen.spec
    wanted = suited(names.task(spec.task).METRICS, spec.kind)
    every = {one.name: one.test for one in plain} | {"prompted": scores}
    spent = {one.name: one.seconds for one in plain} | {"prompted": done.seconds["prompt"]}
    others = sorted((name for name in every if name not in ("majority", "prompted")), key=lambda name: name != "untuned")
    return {
        "results": [{"name": name, "metrics": bootstrap(wanted, truth, s), "seconds": spent[name]} for name, s in every.items()],
        "comparisons": [{"before": name, "after": "prompted", **asdict(paired(wanted[0], truth, every[name], scores))} for name in others],
    }


def _baselines(done: Run, rows: Sequence[Row]) -> list[Result]:
    """Majority, TF-IDF and, of a local model, a linear model on its untuned states; of entities a dictionary. All learn from the training rows."""
    train, spec = _some(done.parts.train, done.settings.baseline_rows, done.settings.seed), done.chosen.spec
    if spec.task == "tag":
        return entity_baselines(train, rows, spec, validation=list(done.parts.validation)) if train else []
    if len({row["label"] for row in train}) < 2:
        return []
    features = None
    if done.backbone is not None:
        prepare, limited = names.task(spec.task).prepare, replace(spec, max_tokens=min(spec.max_tokens, done.backbone.max_tokens))
        looked_at = {"train": learned_from(train), "test": rows}
        items = {part: [prepare(row, done.backbone.tokenizer, limited) for row in some] for part, some in looked_at.items()}
        features = {part: untuned(done.backbone, ALL, some, None) for part, some in items.items()}
    return baselines(train, rows, spec, features=features)


def _data(done: Run, rows: Sequence[Row], notes: list[str]) -> dict[str, Any]:
    parts = done.parts.parts()
    tried = [
        f"tried on {one.rows} validation rows: {one.what}: {100 * one.value:.1f}% ({100 * one.low:.1f} to {100 * one.high:.1f})"
        for one in done.chosen.trials
    ]
    if done.settings.baseline_rows < len(parts["train"]):
        tried.append(f"the baselines learned from {done.settings.baseline_rows:,} of {len(parts['train']):,} training rows")
    return {
        "source": parts["test"].source,
        "rows": {name: len(rows) if name == "test" else len(part) for name, part in parts.items()},
        "labels": dict(
            Counter(label for part in parts.values() for row in part for label in labels_of(row, done.chosen.spec.task)).most_common()
        ),
        "fingerprint": parts["test"].fingerprint,
        "notes": [*([f"split {done.parts.how}"] if done.parts.how else []), *done.parts.notes, *notes, *tried],
    }


def _settings(done: Run) -> dict[str, Any]:
    """Enough to run it again: what was told, the template as its file would say it, the demonstrations."""
    chosen = done.chosen
    prompt = {"template": chosen.template.to_json(), "shots": chosen.shots.count, "pick": chosen.shots.pick, "calibrate": chosen.calibrate}
    return asdict(done.settings) | prompt | {"spec": chosen.spec.to_json(), "search": [one.to_json() for one in chosen.trials]}


def _cost(done: Run, tokens: int, count: int) -> dict[str, Any]:
    seconds = max(done.seconds["prompt"], 1e-9)
    return {
        "seconds": done.seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "rows_per_second": count / seconds,
        "peak_memory_bytes": machine.peak_memory(),
    }


def _some(rows: Rows, count: int | None, seed: int) -> list[Row]:
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[int(i)] for i in np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]


def _counted_wrong(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows without an answer get a label that is not theirs, so that they are not right by chance; and how many they are."""
    silent, wrong, found = unanswered(scores), np.where(truth == 0, 1, 0), scores.copy()
    found[silent] = np.eye(scores.shape[1])[wrong[silent]]
    return found, int(silent.sum())
