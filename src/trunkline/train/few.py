"""Few rows a class: the top layers are tuned on pairs, then the head is solved; or the head alone, where that is as good.

With a handful of rows a class there is nothing to choose by but these rows themselves, so everything is chosen by cross-validation on
them and no answer depends on the validation rows. Two ways are compared: the exact linear head on the untuned states (start.py), and the
same head after the layers above the cut were tuned so that texts of one class lie close and others apart, which is what SetFit does to
a whole sentence encoder (Tunstall et al. 2022); here the text goes through the trunk once, and the loss looks at all pairs of a batch
(Khosla et al. 2020, equation 2) instead of at one. What comes out is a branch like every other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trunkline.branch import Branch
from trunkline.choices import duration
from trunkline.evaluation.linear import fit_linear
from trunkline.model.backbone import Backbone, Depth
from trunkline.model.batches import by_length
from trunkline.model.heads.pooling import PooledHead, Pooling
from trunkline.progress import Bar
from trunkline.states.collate import Source, collate
from trunkline.train.depth import Few, Search, Trial
from trunkline.train.fit import Data, fit
from trunkline.train.objectives import contrast
from trunkline.train.settings import Settings
from trunkline.train.start import put
from trunkline.types import Batch, Item, Output

ROWS = 64
"""Up to so many training rows a class, on average, this way is gone."""
STRENGTHS = (0.01, 0.03, 0.1, 1.0)
DEPTH = 2
BATCH = 64
RATE = 3e-4
_BUCKET = 4
"""Pairs are sorted by length within runs of so many batches: half the padding, and other neighbours in each pass all the same."""
_PASSES, _ROW_PASSES = (3, 5), 10_000
"""Of tuning on pairs: so many passes over the rows, at least and at most, and in between as many as make so many rows."""
_FOLDS, _ONE_FOLD_FROM = 3, 2000
"""The rows are divided in so many parts, held out in turn until the difference is clear; of so many rows one part tells enough."""


def suits(branch: Branch, items: Mapping[str, Sequence[Item]]) -> bool:
    """Whether there are few rows for each class, and a plain linear head on pooled states is what the task wants."""
    spec, head = branch.spec, branch.network.head
    plain = spec.kind == "single" and branch.method == "full" and type(head) is PooledHead and head.pooling.query is None
    weighted = bool(getattr(spec, "weights", ())) or bool(getattr(spec, "focal_gamma", 0.0))
    if not plain or weighted or branch.backbone.family.whole_only:
        return False
    return len(items["train"]) <= ROWS * len(spec.labels)


def search(
    backbone: Backbone, items: Mapping[str, Sequence[Item]], make: Callable[[Depth, int], Branch], states: Callable[[Depth, list[Item]], Source | None],
    settings: Settings,
) -> Search:  # fmt: skip
    """The head alone, or with layers tuned on pairs: what is better on training rows that were held out. As `depth.search`, without its rates."""
    started, budget, train = time.perf_counter(), duration("budget", settings.budget), items["train"]
    depth = min(DEPTH, backbone.layers)
    fresh = make(depth, settings.seed)
    data = Data(train, items["validation"], states(depth, [*train, *items["validation"][:1]]), fresh.spec, backbone.tokenizer.pad_id)
    targets, vectors = _targets(train), _vectors(fresh, data)
    alone, tuned, spent = _Tried(targets, fresh.spec), _Tried(targets, fresh.spec), [0.0, 0.0]
    for number, (kept, held) in enumerate(folds(targets, settings.seed)):
        if number and (_clear(alone, tuned) or (time.perf_counter() - started) * (number + 1) / number > budget):
            break
        began = time.perf_counter()
        alone.add(vectors, kept, held)
        spent[0] += time.perf_counter() - began
        branch = make(depth, settings.seed)
        tune_on_pairs(branch, replace(data, train=[train[i] for i in kept]), settings, settings.seed)
        tuned.add(_vectors(branch, data), kept, held)
        spent[1] += time.perf_counter() - began
    rate = settings.learning_rate or RATE
    trials = Trial(0, rate, float(alone.right.mean()), spent[0]), Trial(depth, rate, float(tuned.right.mean()), spent[1])
    pairs = _better(alone, tuned)
    told = "layers tuned on pairs of texts are better than the head alone" if pairs else "layers tuned on pairs of texts are no better"
    why = f"{told}; {len(train) / len(fresh.spec.labels):.0f} rows a class are few, so it was tried on training rows that were held out"
    chosen = Few((tuned if pairs else alone).strength, pairs)
    rows = len(train) - len(held), len(alone.right)
    return Search(depth if pairs else 0, rate, "accuracy", trials, rows, time.perf_counter() - started, why, few=chosen)


def start(branch: Branch, data: Data, few: Few, settings: Settings, seed: int) -> None:
    """Make the branch as the search chose: tune its layers on pairs where that is better, then solve its head on all training rows."""
    if few.pairs:
        tune_on_pairs(branch, data, settings, seed)
    put(branch, fit_linear(_vectors(branch, data), _targets(data.train), branch.spec, strengths=(few.strength,)))


def tune_on_pairs(branch: Branch, data: Data, settings: Settings, seed: int) -> None:
    """Tune the layers above the cut so that the pooled states of one class lie close together, and apart from others. The head stays."""
    pooling, targets = Pooling(branch.backbone.width, branch.spec.pooling), _targets(data.train)

    def loss(out: Output, batch: Batch) -> torch.Tensor:
        return contrast(pooling(out.hidden.float(), batch.mask), batch.targets)

    least, most = _PASSES
    passes = settings.epochs or max(least, min(most, _ROW_PASSES // len(targets)))
    told = replace(settings, epochs=passes, batch_size=BATCH, accumulate=1, evaluate_every=10**9, patience=None, metric=None)
    lengths = np.array([len(item.tokens[0]) for item in data.train])

    def order(epoch: int) -> list[np.ndarray]:
        return pairs_of(targets, lengths, BATCH, seed, epoch)

    learned = replace(data, validation=data.validation[:1], loss=loss, order=order)
    with Bar(f"pairs (seed {seed})", unit="steps") as bar:
        rate = settings.learning_rate or RATE
        fit(branch.network, learned, told, learning_rate=rate, seed=seed, on_step=lambda progress, steps: bar.to(progress.step, steps))


def pairs_of(targets: np.ndarray, lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The index arrays of one epoch, about `size` rows each: the rows of each class two by two, in random order, like lengths together.

    Each row is there once; of a class with an odd number one is left over, and comes alone.

    >>> sorted(map(len, pairs_of(np.array([0, 0, 1, 1, 1]), np.ones(5), 4, seed=0, epoch=0)))
    [2, 3]
    """
    generator = np.random.default_rng((seed, epoch))
    twos: list[np.ndarray] = []
    for label in np.unique(targets):
        places = generator.permutation(np.flatnonzero(targets == label))
        twos += [places[at : at + 2] for at in range(0, len(places), 2)]
    order, run = generator.permutation(len(twos)), _BUCKET * size // 2
    longest = np.array([lengths[two].max() for two in twos])
    order = np.concatenate([part[np.argsort(longest[part], kind="stable")] for part in np.split(order, range(run, len(order), run))])
    made = [np.concatenate([twos[at] for at in part]) for part in np.array_split(order, -(-len(targets) // size))]
    return [made[at] for at in generator.permutation(len(made))]


def folds(targets: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which rows are kept and which are held out, each row once (of many rows, one part only); classes in the same shares everywhere."""
    generator, part, at = np.random.default_rng(seed), np.empty(len(targets), dtype=int), 0
    for label in np.unique(targets):
        places = generator.permutation(np.flatnonzero(targets == label))
        part[places] = (at + np.arange(len(places))) % _FOLDS
        at += len(places)
    for number in range(1 if len(targets) >= _ONE_FOLD_FROM else _FOLDS):
        yield np.flatnonzero(part != number), np.flatnonzero(part == number)


class _Tried:
    """One way, on the rows that were held out: which of them it gets right with each strength."""

    def __init__(self, targets: np.ndarray, spec: Any) -> None:
        self.targets, self.spec = targets, spec
        self.each = {strength: np.empty(0, dtype=bool) for strength in STRENGTHS}

    def add(self, vectors: np.ndarray, kept: np.ndarray, held: np.ndarray) -> None:
        for strength in STRENGTHS:
            solved = fit_linear(vectors[kept], self.targets[kept], self.spec, strengths=(strength,))
            right = solved.scores(vectors[held]).argmax(1) == self.targets[held]
            self.each[strength] = np.concatenate([self.each[strength], right])

    @property
    def strength(self) -> float:
        return max(STRENGTHS, key=lambda strength: float(self.each[strength].mean()))

    @property
    def right(self) -> np.ndarray:
        """(N,) bool, with the strength that is best."""
        return self.each[self.strength]


def _better(alone: _Tried, tuned: _Tried) -> bool:
    """Whether tuning on pairs is worth it: any gain is, as with all rows it has more to learn from than it had here."""
    return bool(tuned.right.mean() > alone.right.mean())


def _clear(alone: _Tried, tuned: _Tried) -> bool:
    """Whether the two differ by more than two standard errors of their difference, so that no further rows need to be held out."""
    difference = tuned.right.astype(float) - alone.right
    return bool(abs(difference.mean()) > 2 * difference.std() / np.sqrt(len(difference)))


def _targets(items: Sequence[Item]) -> np.ndarray:
    return np.array([item.target for item in items])


@torch.no_grad()
def _vectors(branch: Branch, data: Data) -> np.ndarray:
    """(N, D) float32: the pooled states of the training rows after the branch's layers."""
    network, pooling = branch.network.eval(), Pooling(branch.backbone.width, branch.spec.pooling)
    found = np.empty((len(data.train), branch.backbone.width), dtype=np.float32)
    for indices in by_length([len(item.tokens[0]) for item in data.train]):
        batch = collate([data.train[i] for i in indices], data.source, data.spec, data.pad_id).to(branch.backbone.device)
        found[indices] = pooling(network(batch).hidden, batch.mask).float().cpu().numpy()
    return found
