"""`bound`: write into a branch's folder how far a text may lie from those it was tuned on. `serve` then says of each text whether it lies outside.

What is kept are means and a covariance of states, and one number: no state of any one text, which could be turned back into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from trunkline import storage
from trunkline.branch import KIND, Branch, load
from trunkline.choices import between
from trunkline.data.split import split
from trunkline.errors import ArtefactError, DataError, OptionError
from trunkline.model.backbone import Backbone
from trunkline.quality.scope import Clouds, Scope
from trunkline.types import Rows

FILE = "scope.safetensors"
_CLOUDS = ("means", "whitener", "centre", "wider")
_AT_ONCE = 512
"""Texts whose states are in memory at once."""


@dataclass(frozen=True)
class Bounds:
    """clouds: where the classes lie; threshold: the distance that the share of false alarms was bounded with; spread: how much those of validation rows differ."""

    clouds: Clouds
    threshold: float
    spread: float

    @classmethod
    def of(cls, scope: Scope, false_alarms: float) -> Bounds:
        return cls(scope.clouds, scope.threshold(false_alarms, "distance"), max(float(np.std(scope.known["distance"])), 1e-9))

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) means of states over the tokens -> (N,) above 0; 1 at the threshold, above it a text lies outside; e times as much, one `spread` further."""
        return np.exp(np.clip((self.clouds.distances(vectors) - self.threshold) / self.spread, -20, 20))


def bound(folder: str | Path, rows: Rows, *, false_alarms: float = 0.05, model: str | Path | Backbone | None = None) -> Bounds:
    """Fit bounds on rows, divided as `tune` divides them unless told otherwise: training rows say where texts lie, validation rows how far.

    false_alarms: the share of texts that belong which may be called outside. The folder gets one file more, and so another version.

    Raises: OptionError for a branch without classes or without a trunk, or a share that so few rows cannot bound; DataError for rows without labels.
    """
    between("false_alarms", false_alarms, 0.0, 1.0)
    branch, parts = load(folder, model=model), split(rows)
    if not parts.train or not parts.validation:
        raise OptionError(f"{rows.source}: {len(rows)} rows are too few. Give those that the branch was tuned on.")
    source = branch.source()
    if branch.spec.kind != "single" or source is None:
        raise OptionError(f"{folder}: {branch!r} has no classes, or no trunk below it, so there is nothing to be far from.")
    train, labels = _vectors(branch, parts.train)
    validation, _ = _vectors(branch, parts.validation)
    scope = Scope.fit(train, labels, len(branch.spec.labels), validation)
    found = Bounds.of(scope, false_alarms)
    if not np.isfinite(found.threshold):
        raise OptionError(f"false_alarms={false_alarms}: {len(validation)} validation rows are too few. Give more rows, or a larger share.")
    _write(Path(folder), found)
    return found


def of(folder: Path) -> Bounds | None:
    """The bounds in a branch's folder, or None. Raises: ArtefactError where they cannot be read."""
    if FILE not in storage.read_manifest(folder, KIND)["files"]:
        return None  # without reading all of the branch for nothing: a whole model is hundreds of MB
    files, _ = storage.read_folder(folder, KIND)
    try:
        kept = safetensors.numpy.load(files[FILE])
        clouds = Clouds(*(kept[name].astype(np.float64) for name in _CLOUDS))
        return Bounds(clouds, float(kept["threshold"][0]), float(kept["spread"][0]))
    except (SafetensorError, KeyError, IndexError) as error:
        raise ArtefactError(f"{folder / FILE}: cannot be read ({error}). Make it anew: trunkline scope {folder} FILE") from error


def _vectors(branch: Branch, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Means of states (N, D) float32, and label ids (N,)."""
    if branch.spec.apart:
        raise OptionError(
            "scope: this branch reads pairs apart, and a bound is of one text. Tune it with pairs=together, or serve it without bounds."
        )
    items, source = branch.prepare(rows.rows), branch.source()
    if any(item.target is None for item in items):
        raise DataError(f"{rows.source}: rows without a label cannot say where a class lies. Leave them out.")
    tokens, means = [item.tokens[0] for item in items], list[np.ndarray]()
    for start in range(0, len(tokens), _AT_ONCE):
        means += [one.mean(0) for one in source.read(tokens[start : start + _AT_ONCE])] if source else []
    return np.stack(means), np.array([int(item.target) for item in items])


def _write(folder: Path, found: Bounds) -> None:
    files, about = storage.read_folder(folder, KIND)
    kept = {name: getattr(found.clouds, name) for name in _CLOUDS}
    kept |= {"threshold": np.array([found.threshold]), "spread": np.array([found.spread])}
    files[FILE] = safetensors.numpy.save({name: np.ascontiguousarray(one, dtype=np.float32) for name, one in kept.items()})
    storage.write_folder(folder, files, {name: about[name] for name in ("kind", "trunkline")})
