"""One batch: the trunk runs once over all texts of it that are not remembered, then each row through the branches that it asks for."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import StatesError
from trunkline.model.backbone import ALL
from trunkline.model.batches import TOKENS_PER_BATCH, by_length
from trunkline.quality.bounds import Bounds
from trunkline.serving.compute.cache import StatesCache
from trunkline.serving.compute.lanes import Lanes
from trunkline.serving.compute.taps import Taps
from trunkline.serving.compute.upper import Lifted, Stack, Upper, of_rows
from trunkline.states.collate import collate
from trunkline.states.quantise import as_stored
from trunkline.types import Answer, Batch, Item, Output, Tokens

TOKENS_PER_PASS = 128
"""On a processor. Larger passes take as long for a token, and as short texts that come together differ in length, much of a large one is padding."""


@dataclass(eq=False)
class Loaded:
    """A branch that is served. group: names its backbone and precision; cut: layers below it, None where the whole model is its own;
    stack: the product that its head is a part of, if it stands right on the trunk; bounds: how far a text may lie from what it learned.
    """

    version: str
    branch: Branch
    upper: Upper
    group: str
    cut: int | None
    device: torch.device
    stack: Stack | None = None
    bounds: Bounds | None = None

    @classmethod
    def of(cls, version: str, branch: Branch, bounds: Bounds | None = None) -> Loaded:
        backbone = branch.backbone
        cut = None if branch.depth == ALL else backbone.layers - int(branch.depth)
        return cls(version, branch, Upper(branch), f"{backbone.id}@{backbone.trunk_precision}", cut, backbone.device, bounds=bounds)


class Unanswerable(Exception):
    """A branch gave no numbers. version: which one."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version


@dataclass(frozen=True, slots=True)
class Work:
    """One item on one branch. tenant: whose text it is; row: the place of its answer."""

    loaded: Loaded
    item: Item
    tenant: str
    row: Any


@dataclass(frozen=True, slots=True)
class _Part:
    """Works of one branch that are computed together. at: their places; number: the pass that they are `rows` of, None where their states
    come from several places.
    """

    loaded: Loaded
    at: list[int]
    number: int | None
    rows: list[int]


class _Seen:
    """Where the states of each text of a batch are: a row of a pass, or remembered."""

    def __init__(self) -> None:
        self.passes: list[tuple[dict[int, torch.Tensor], torch.Tensor]] = []
        self.place: dict[tuple[str, bytes], tuple[int, int]] = {}
        self._keys: dict[tuple[str, int], tuple[str, bytes]] = {}
        self.kept: dict[tuple[str, bytes], dict[int, torch.Tensor]] = {}
        self.rows: dict[tuple[int, int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self.stacked: dict[tuple[int, int], torch.Tensor] = {}
        self.lifted: dict[tuple[str | None, int | None, int, tuple[int, ...]], Lifted] = {}

    def key(self, tenant: str, tokens: Tokens) -> tuple[str, bytes]:
        """Names a text of a tenant. Its content is hashed once a batch, however many branches read it."""
        found = self._keys.get((tenant, id(tokens)))
        if found is None:
            found = self._keys[tenant, id(tokens)] = tenant, tokens.key
        return found

    def states(self, tenant: str, tokens: Tokens, cut: int) -> torch.Tensor:
        """(T, D) of one text at a cut."""
        key = self.key(tenant, tokens)
        if key in self.kept:
            return self.kept[key][cut]
        number, row = self.place[key]
        return self.passes[number][0][cut][row, : len(tokens)]


@torch.inference_mode()
def answer(works: Sequence[Work], taps: dict[str, Taps], cache: StatesCache, lanes: Lanes) -> list[tuple[Answer, float | None]]:
    """The answer of each work, in their order, and how far its text lies from those that were learned from; None of a branch without bounds.

    Passes, and branches, that run in one thread each run side by side.

    Raises: StatesError for a text whose states no branch may read (NaN), Unanswerable for one of which a branch makes NaN.
    """
    answers: list[Any] = [None] * len(works)
    for group in dict.fromkeys(work.loaded.group for work in works):
        own = [at for at, work in enumerate(works) if work.loaded.group == group]
        seen = _trunk([works[at] for at in own], taps[group], cache, lanes)
        beside, rest = defaultdict[Any, list[_Part]](list), []
        for loaded in dict.fromkeys(works[at].loaded for at in own):
            for part in _parts(loaded, {at: works[at] for at in own if works[at].loaded is loaded}, seen):
                if loaded.upper.in_one_thread:
                    beside[loaded.upper.same or loaded.version, part.number].append(part)  # the same layers run once for several branches
                else:
                    rest.append(part)
        computed = lanes.run([partial(_answered, parts, works, seen) for parts in beside.values()])
        for at, found in itertools.chain(*computed, _answered(rest, works, seen)):
            answers[at] = found
    return answers


@torch.inference_mode()
def probe_logits(loaded: Loaded, taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """The logits (4, ...) for the probes of a branch, as they are computed when it is served, and (4, ...) bool: which mean something."""
    works = [Work(loaded, item, "", at) for at, item in enumerate(loaded.branch.probes())]
    seen = _trunk(works, taps, StatesCache(0), Lanes(1))
    batch = _gathered(loaded, works, seen)
    logits = loaded.upper(batch.to(loaded.branch.backbone.device)).logits.float().cpu()
    real = _real(logits, batch.mask.cpu())
    return logits.numpy(), real.view(*real.shape, *(1,) * (logits.dim() - real.dim())).expand_as(logits).numpy()


def _real(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Which rows of logits mean something: (S, T) bool where there are some for each token, else (B,)."""
    tokenwise = logits.dim() > 2 and logits.shape[:2] == mask.shape
    return mask if tokenwise else torch.ones(len(logits), dtype=torch.bool, device=logits.device)


def _trunk(works: Sequence[Work], taps: Taps, cache: StatesCache, lanes: Lanes) -> _Seen:
    """Runs the trunk over the texts of one backbone, up to the highest cut that one of them is read at."""
    seen, wanted = _Seen(), defaultdict[tuple[str, bytes], set[int]](set)
    texts: dict[tuple[str, bytes], Tokens] = {}
    for work in works:
        if work.loaded.cut is not None:
            for tokens in work.item.tokens:
                key = seen.key(work.tenant, tokens)
                texts[key] = tokens
                wanted[key].add(work.loaded.cut)
    missing = [key for key in texts if not _remembered(key, wanted[key], taps, cache, seen)]
    at_once = TOKENS_PER_PASS if taps.backbone.device.type == "cpu" else TOKENS_PER_BATCH
    passes = [[missing[at] for at in some] for some in by_length([len(texts[key]) for key in missing], at_once)]
    cuts = [sorted({cut for key in keys for cut in wanted[key]}) for keys in passes]
    tasks = [partial(taps, [texts[key] for key in keys], some) for keys, some in zip(passes, cuts, strict=True)]
    beside = all(map(taps.in_one_thread, cuts))
    taps.passes += len(tasks)
    for keys, (found, mask) in zip(passes, lanes.run(tasks) if beside else (task() for task in tasks), strict=True):
        if not all(_finite(one) or bool(torch.isfinite(one[mask]).all()) for one in found.values()):
            raise StatesError("The trunk gave NaN or infinite states for a text.")
        for row, key in enumerate(keys):
            seen.place[key] = len(seen.passes), row
            for cut in wanted[key] if cache.max_bytes else ():
                cache.put((key[0], taps.backbone.id, taps.backbone.trunk_precision, cut, key[1]), found[cut][row, : len(texts[key])])
        seen.passes.append((found, mask))
    return seen


def _finite(numbers: torch.Tensor) -> bool:
    """Whether all are finite, by their sum, which is less work than asking each. What is too large to sum counts as not."""
    return math.isfinite(float(numbers.sum()))


def _remembered(key: tuple[str, bytes], cuts: Iterable[int], taps: Taps, cache: StatesCache, seen: _Seen) -> bool:
    if not cache.max_bytes:
        return False
    found: dict[int, torch.Tensor] = {}
    for cut in cuts:
        states = cache.get((key[0], taps.backbone.id, taps.backbone.trunk_precision, cut, key[1]))
        if states is None:
            return False
        found[cut] = states
    seen.kept[key] = found
    return True


def _answered(parts: Sequence[_Part], works: Sequence[Work], seen: _Seen) -> list[tuple[int, tuple[Answer, float | None]]]:
    """The places of the works of some parts, and their answers."""
    return [found for part in parts for found in zip(part.at, _part(part, [works[at] for at in part.at], seen), strict=True)]


def _part(part: _Part, works: Sequence[Work], seen: _Seen) -> list[tuple[Answer, float | None]]:
    """The answers of one branch to works that are computed together."""
    loaded, spec = part.loaded, part.loaded.branch.spec
    batch = _gathered(loaded, works, seen) if part.number is None else _lying(loaded, works, seen, part.number, part.rows)
    out = _output(loaded, batch, seen, part.number, part.rows)
    if not _finite(out.logits):  # in few cases only: what stands at padded places means nothing, and may be NaN
        if bool(torch.isnan(out.logits[_real(out.logits, batch.mask.to(out.logits.device))]).any()):
            raise Unanswerable(loaded.version)
    distances: list[float | None] = [None] * len(works) if loaded.bounds is None else _distances(loaded.bounds, batch)
    return list(zip(names.task(loaded.branch.task).decode(out, batch, spec), distances, strict=True))


def _distances(bounds: Bounds, batch: Batch) -> list[float | None]:
    """How far each text of a batch lies, by the mean of its states at the cut: 1 where the bound is."""
    if batch.hidden is None:
        return [None] * (int(batch.owner.max()) + 1)
    real = batch.mask[..., None].to(batch.hidden.device)
    means = batch.hidden.masked_fill(~real, 0.0).sum(1) / real.sum(1)  # what stands at padded places means nothing
    return bounds.distances(means.double().cpu().numpy()).tolist()


def _parts(loaded: Loaded, works: dict[int, Work], seen: _Seen) -> list[_Part]:
    """The works of one branch, by their places, as they are computed together: those of one pass as they lie there, all others by length."""
    lying, rest = defaultdict[int, tuple[list[int], list[int]]](lambda: ([], [])), []
    rounded = loaded.branch.states == "int8"
    for at, work in works.items():
        place = seen.place.get(seen.key(work.tenant, work.item.tokens[0])) if len(work.item.tokens) == 1 and not rounded else None
        if place is None or loaded.cut is None:
            rest.append(at)
        else:
            lying[place[0]][0].append(at)
            lying[place[0]][1].append(place[1])
    by = by_length([max(map(len, works[at].item.tokens)) for at in rest]) if rest else []
    gathered = [_Part(loaded, [rest[i] for i in some], None, []) for some in by]
    return [*(_Part(loaded, at, number, rows) for number, (at, rows) in lying.items()), *gathered]


def _lying(loaded: Loaded, works: Sequence[Work], seen: _Seen, number: int, rows: Sequence[int]) -> Batch:
    cut, place = loaded.cut or 0, (loaded.cut or 0, number, tuple(rows))
    if place not in seen.rows:  # branches that read the same rows share them
        found, mask = seen.passes[number]
        seen.rows[place] = *of_rows(found[cut], mask, rows), torch.arange(len(rows))
    return Batch(*seen.rows[place], loaded.branch.spec, abouts=[work.item.about for work in works])


def _gathered(loaded: Loaded, works: Sequence[Work], seen: _Seen) -> Batch:
    items, branch = [work.item for work in works], loaded.branch
    if loaded.cut is None:
        return collate(items, None, branch.spec, branch.backbone.tokenizer.pad_id).to(branch.backbone.device)
    states = [seen.states(work.tenant, tokens, loaded.cut) for work in works for tokens in work.item.tokens]
    if branch.states == "int8":  # coarse enough to be a part of what was learned; float16 is not, and would only add its noise
        states = [torch.from_numpy(as_stored(np.asarray(one), "int8")) for one in states]
    mask = torch.arange(max(map(len, states))) < torch.tensor([len(one) for one in states])[:, None]
    hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor([len(item.tokens) for item in items]))
    return Batch(hidden, mask, owner, branch.spec, abouts=[item.about for item in items])


def _output(loaded: Loaded, batch: Batch, seen: _Seen, number: int | None, rows: Sequence[int]) -> Output:
    """What the branch makes of a batch; of heads in one product the product is computed once a pass, for all of them.

    Layers that several branches have the same run once over the same rows, and each branch's head reads what they give.
    """
    there = batch if loaded.device.type == "cpu" else batch.to(loaded.device)
    if number is None or batch.hidden is None or (loaded.stack is None and loaded.upper.same is None):
        return loaded.upper(there)
    if loaded.stack is None:
        same = loaded.upper.same, loaded.cut, number, tuple(rows)
        if same not in seen.lifted:
            seen.lifted[same] = loaded.upper.hidden(there)
        return loaded.upper.head(seen.lifted[same], there)
    key = id(loaded.stack), number
    if key not in seen.stacked:
        found, mask = seen.passes[number]
        seen.stacked[key] = loaded.stack(found[loaded.cut or 0], mask)
    every = seen.stacked[key]
    mine = every if list(rows) == list(range(len(every))) else every[list(rows)]
    return Output(mine[:, loaded.stack.columns[loaded.version]], batch.hidden)
