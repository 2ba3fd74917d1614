"""Loading branches so that those on one backbone share it, and choosing what computes: measured, and only where the states are equal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from trunkline import branch as branches
from trunkline import storage
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.backbone import Backbone
from trunkline.serving.compute.batch import Loaded
from trunkline.serving.compute.taps import ALIKE, EQUAL, Taps
from trunkline.types import Batch, Tokens

log = logging.getLogger("trunkline.serving")
_SHAPES = ((1, 16), (8, 24))
"""Texts and tokens of the two batches that are timed: one short message, and what comes together when many ask."""
_TIMES = 5


class Shelf:
    """The backbones in memory, each once, whatever number of branches stand on it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Backbone] = {}

    def load(self, folder: Path, model: str | None = None) -> Branch:
        """The branch in a folder, over a backbone that is here already where it is the right one. Raises: ArtefactError, ModelError."""
        files, _ = storage.read_folder(folder, branches.KIND)
        about = storage.from_json(files["branch.json"], str(folder / "branch.json"))
        backbone = self._found(str(about["backbone"]["id"]), str(about.get("trunk_precision", "float32")))
        branch = branches.load(folder, model=backbone or model)
        self._kept[branch.backbone.id, branch.backbone.trunk_precision] = branch.backbone
        return branch

    def keep_only(self, ids: Iterable[str]) -> None:
        """Forget the backbones that no branch stands on."""
        wanted = set(ids)
        self._kept = {key: one for key, one in self._kept.items() if key[0] in wanted}

    def _found(self, identity: str, precision: str) -> Backbone | None:
        if (identity, precision) in self._kept:
            return self._kept[identity, precision]
        if precision == "nf4":  # which keeps no float weights, and can lend none
            return None
        other = next((one for (name, held), one in self._kept.items() if name == identity and held != "nf4"), None)
        return Backbone(other.name, other.folder, other.model, other.id, precision) if other else None


def pick(taps: Taps, loaded: Loaded, cuts: set[int], runtime: str, threads: int) -> Taps:
    """The trunk for these cuts and the branch's own, and the branch's layers, each in torch or in ONNX Runtime.

    "auto" takes ONNX Runtime where it is faster in a short measurement; it is never taken where the numbers are further than 1e-4 apart,
    or of what computes in int8 their mean cosine is below 0.99.

    Raises: OptionError where "onnx" is asked for and cannot be.
    """
    if loaded.cut is None:
        return taps
    fresh = taps.for_cuts(cuts | {loaded.cut})
    if runtime == "torch":
        return fresh
    if fresh.cuts != taps.cuts and fresh.may_use_onnx():
        texts = [_texts(loaded.branch, *shape) for shape in _SHAPES]
        int8 = loaded.branch.backbone.trunk_precision == "int8"
        _settle(fresh, [partial(_highest, fresh, some) for some in texts], runtime, threads, int8=int8)
    if loaded.upper.may_use_onnx():
        batches = [_batch(loaded, *shape) for shape in _SHAPES]
        int8 = loaded.branch.precision == "int8"
        _settle(loaded.upper, [partial(_logits, loaded, batch) for batch in batches], runtime, threads, int8=int8)
    if runtime == "onnx" and max(fresh.cuts) > 0 and fresh.runtime != "onnx":
        raise OptionError(f"runtime='onnx': {loaded.branch.backbone.name} cannot run in it, or not with equal states. Use auto or torch.")
    return fresh


class _Choice(Protocol):
    def use_onnx(self, threads: int) -> None: ...
    def use_torch(self) -> None: ...


def _settle(choice: _Choice, runs: Sequence[Callable[[], torch.Tensor]], runtime: str, threads: int, *, int8: bool = False) -> None:
    """Leaves the choice in ONNX Runtime where that gives the same, and was asked for or takes less of torch's time over the runs' mean.

    Each run counts alike: by the sum of seconds the largest batch alone would say what a short text runs in.
    """
    with torch.inference_mode():
        plain, before = [run() for run in runs], [_seconds(run) for run in runs]
        choice.use_onnx(threads)
        apart = max((_turned if int8 else _furthest)(run(), other) for run, other in zip(runs, plain, strict=True))
        share = float(np.mean([_seconds(run) / seconds for run, seconds in zip(runs, before, strict=True)]))
    if not apart <= (1 - ALIKE if int8 else EQUAL) or (runtime == "auto" and share > 1):
        log.info("%s stays in torch: onnx differs by %.1e and takes %.2f of the time", type(choice).__name__, apart, share)
        choice.use_torch()


def _highest(taps: Taps, texts: Sequence[Tokens]) -> torch.Tensor:
    return taps(texts, sorted(taps.cuts))[0][max(taps.cuts)]


def _logits(loaded: Loaded, batch: Batch) -> torch.Tensor:
    return loaded.upper(batch).logits


def _furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def _turned(one: torch.Tensor, other: torch.Tensor) -> float:
    """1 less the mean cosine of two tensors (..., D)."""
    return 1 - float(torch.nn.functional.cosine_similarity(one, other, -1).mean())


def _seconds(run: Callable[[], object]) -> float:
    """The shortest of some times: others on the machine make a time longer, and never shorter."""
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _texts(branch: Branch, count: int, tokens: int) -> list[Tokens]:
    draw = np.random.default_rng(count)
    longest = min(tokens, branch.backbone.max_tokens)
    return [Tokens(draw.integers(0, branch.backbone.config.vocab_size, longest, dtype=np.int32)) for _ in range(count)]


def _batch(loaded: Loaded, count: int, tokens: int) -> Batch:
    """States as a trunk gives them, for the layers of a branch: those of random tokens."""
    each = 2 if loaded.branch.spec.apart else 1
    found, mask = Taps(loaded.branch.backbone)(_texts(loaded.branch, each * count, tokens), [loaded.cut or 0])
    return Batch(found[loaded.cut or 0], mask, torch.arange(count).repeat_interleave(each), loaded.branch.spec)
