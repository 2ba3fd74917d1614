"""What a training step minimises: the task's plain loss, or that and more, as in `--objective rdrop:alpha=1`. One class an objective.

Its fields are its options; `ready` is asked once a run, does what needs a pass over the rows (a teacher's answers, Fisher's
information), and gives the loss of a step: a function of the network's pass, the batch and which training items (B,) the batch holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.nn import functional

from trunkline import choices
from trunkline.branch import load
from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.model.heads.pooling import Pooling
from trunkline.model.network import Network
from trunkline.states.collate import Source, collate
from trunkline.types import Batch, Item, Output

Plain = Callable[[Output, Batch], torch.Tensor]
Pass = Callable[[Batch], Output]
Step = Callable[[Pass, Batch, np.ndarray], torch.Tensor]
_TEMPERATURE = 0.07
_FISHER_ROWS = 200
_VALUED = ("single", "multi", "number")
"""Kinds whose answer is one vector a text, so that two answers can be compared or mixed."""


class Known(Protocol):
    """What an objective may ask of a run. before: items of an earlier task, where the user gave some."""

    @property
    def train(self) -> Sequence[Item]: ...
    @property
    def before(self) -> Sequence[Item]: ...
    @property
    def source(self) -> Source | None: ...
    @property
    def spec(self) -> Any: ...
    @property
    def pad_id(self) -> int: ...


@dataclass(frozen=True)
class Objective:
    """The task's loss and nothing else. kinds: the kinds of answers (evaluation/kinds/) that it can work on; empty: all."""

    kinds: ClassVar[tuple[str, ...]] = ()

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        """The loss of a step, a scalar. Raises: OptionError where this run has not what it needs."""
        return lambda run, batch, indices: plain(run(batch), batch)


@dataclass(frozen=True)
class RDrop(Objective):
    """Two passes with other dropout whose answers must agree: the mean of both losses, plus alpha times how far apart they are.

    Source: Wu et al. 2021 (R-Drop), equations 2 to 4; for numbers, as its authors did, the squared distance.
    """

    alpha: float = 1.0
    kinds: ClassVar[tuple[str, ...]] = _VALUED

    def __post_init__(self) -> None:
        between("alpha", self.alpha, 0.0, 100.0)

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        def step(run: Pass, batch: Batch, indices: np.ndarray) -> torch.Tensor:
            one, two = run(batch), run(batch)
            apart = disagreement(one.logits.float(), two.logits.float(), batch.spec.kind)
            return (plain(one, batch) + plain(two, batch)) / 2 + self.alpha * apart

        return step


@dataclass(frozen=True)
class Mixup(Objective):
    """The states of each text are mixed with those of another one of the batch, and the losses to both targets in the same shares.

    The share is drawn once a batch from Beta(alpha, alpha), and the text itself has the larger part.
    Source: Zhang et al. 2018 (mixup), equation 1, on hidden states as in Chen et al. 2020 (MixText), section 3.1: here at the cut.
    """

    alpha: float = 0.2
    kinds: ClassVar[tuple[str, ...]] = _VALUED

    def __post_init__(self) -> None:
        between("alpha", self.alpha, 0.001, 100.0)

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        if data.source is None:
            raise OptionError(
                "objective mixup: it mixes stored states, and at depth 'all' there are none. Give a depth, or another objective."
            )

        def step(run: Pass, batch: Batch, indices: np.ndarray) -> torch.Tensor:
            share, other = self.draw(len(batch.targets), batch.mask.device)
            texts = len(batch.mask) // len(other)  # two of each row, where pairs are read apart
            rows = (texts * other[:, None] + torch.arange(texts, device=other.device)).flatten()
            hidden = share * batch.hidden + (1 - share) * batch.hidden[rows]  # type: ignore[index, operator]
            out = run(replace(batch, hidden=hidden, mask=batch.mask | batch.mask[rows]))
            return share * plain(out, batch) + (1 - share) * plain(out, replace(batch, targets=batch.targets[other]))

        return step

    def draw(self, rows: int, device: torch.device) -> tuple[float, torch.Tensor]:
        """The share of the text itself, and with which row (B,) each is mixed; from torch's stream, so that a resumed run draws the same."""
        drawn = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        return max(drawn, 1 - drawn), torch.randperm(rows).to(device)


@dataclass(frozen=True)
class Contrast(Objective):
    """1 - weight times the plain loss, and weight times the supervised contrastive loss of the pooled states after the branch's layers.

    Source: Gunel et al. 2021, equation 1.
    """

    weight: float = 0.3
    kinds: ClassVar[tuple[str, ...]] = ("single",)

    def __post_init__(self) -> None:
        between("weight", self.weight, 0.0, 1.0)

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        if data.spec.apart:
            raise OptionError(
                "objective contrast: it draws the texts of a class together, and pairs=apart has two in each row. Use pairs=together."
            )

        def step(run: Pass, batch: Batch, indices: np.ndarray) -> torch.Tensor:
            out = run(batch)
            pooled = Pooling(out.hidden.shape[-1], "mean")(out.hidden.float(), batch.mask)
            return (1 - self.weight) * plain(out, batch) + self.weight * contrast(pooled, batch.targets)

        return step


@dataclass(frozen=True)
class Distil(Objective):
    """1 - weight times the plain loss, and weight times the distance to the answers of a teacher, which is asked once a row.

    teacher: the folder of a larger branch, tuned on the same task, labels and backbone
    Source: Hinton et al. 2015, section 2: the divergence at `temperature`, times its square; for numbers the squared distance.
    """

    teacher: str = ""
    weight: float = 0.5
    temperature: float = 2.0
    kinds: ClassVar[tuple[str, ...]] = _VALUED

    def __post_init__(self) -> None:
        between("weight", self.weight, 0.0, 1.0)
        between("temperature", self.temperature, 0.1, 100.0)
        if not self.teacher:
            raise OptionError("objective distil: it has no teacher. Write distil:teacher=FOLDER, with the folder of a tuned branch.")

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        taught = self.ask(network, data)

        def step(run: Pass, batch: Batch, indices: np.ndarray) -> torch.Tensor:
            out = run(batch)
            apart = self.distance(out.logits.float(), taught[torch.from_numpy(indices)].to(out.logits.device), batch.spec)
            return (1 - self.weight) * plain(out, batch) + self.weight * apart

        return step

    def ask(self, network: Network, data: Known) -> torch.Tensor:
        """The teacher's answers to the training rows (N, K): probabilities, or numbers (N, 1)."""
        teacher, where = load(self.teacher), f"objective distil: teacher={self.teacher!r}"
        if teacher.backbone.id != network.backbone.id:
            raise OptionError(f"{where} stands on {teacher.backbone.name!r}, not on {network.backbone.name!r}. Tune both on one backbone.")
        if teacher.task != data.spec.task or getattr(teacher.spec, "labels", ()) != getattr(data.spec, "labels", ()):
            raise OptionError(f"{where} has another task or other labels than these rows. Tune it on rows with the same labels.")
        if teacher.spec.apart != data.spec.apart:
            way = "apart" if teacher.spec.apart else "together"
            raise OptionError(f"{where} reads pairs {way}. Tune this branch with pairs={way} too.")
        scores = [np.atleast_1d(answer.scores) for answer in teacher.answers([replace(item, target=None) for item in data.train])]
        return torch.from_numpy(np.stack(scores)).float()

    def distance(self, logits: torch.Tensor, taught: torch.Tensor, spec: Any) -> torch.Tensor:
        """logits (B, K) and what `ask` gave of these rows (B, K) -> scalar."""
        if spec.kind == "number":
            return functional.mse_loss(logits, (taught - spec.mean) / spec.std)
        if spec.kind == "multi":
            soft = (taught.clamp(1e-6, 1 - 1e-6).logit() / self.temperature).sigmoid()
            return functional.binary_cross_entropy_with_logits(logits / self.temperature, soft) * self.temperature**2
        soft = (taught.clamp_min(1e-9).log() / self.temperature).softmax(1)
        return functional.kl_div((logits / self.temperature).log_softmax(1), soft, reduction="batchmean") * self.temperature**2


@dataclass(frozen=True)
class Ewc(Objective):
    """The plain loss, and strength / 2 times the squared way of the weights from where they started, so that little is forgotten.

    weighing: "fisher": each weight by its Fisher information on rows of before; "none": all alike
    Source: Kirkpatrick et al. 2017 (EWC), equation 3; Li et al. 2018 (L2-SP), equation 2, for "none".
    """

    strength: float = 100.0
    weighing: str = "fisher"

    def __post_init__(self) -> None:
        between("strength", self.strength, 0.0, 1e9)
        one_of("weighing", self.weighing, ("fisher", "none"))

    def ready(self, network: Network, data: Known, plain: Plain) -> Step:
        origin = {name: p.detach().clone() for name, p in network.learned().items()}
        weights = {name: torch.ones_like(p) for name, p in origin.items()}
        if self.weighing == "fisher":
            if not data.before:
                raise OptionError(
                    "objective ewc: it weighs by rows of before, and none were given. Give --before FILE, or write ewc:weighing=none."
                )
            weights = fisher(network, data, plain)

        def step(run: Pass, batch: Batch, indices: np.ndarray) -> torch.Tensor:
            gone = [(weights[name] * (p - origin[name]).square()).sum() for name, p in network.learned().items()]
            return plain(run(batch), batch) + self.strength / 2 * torch.stack(gone).sum()

        return step


OBJECTIVES: dict[str, type[Objective]] = {
    "plain": Objective, "rdrop": RDrop, "mixup": Mixup, "contrast": Contrast, "distil": Distil, "ewc": Ewc,
}  # fmt: skip


def make(choice: str, kind: str) -> Objective:
    """The objective that a text such as "rdrop:alpha=1" asks for. Raises: OptionError, also where answers of this kind are not for it."""
    name, options = choices.split_choice(choice)
    one_of("objective", name, OBJECTIVES)
    made = choices.build(OBJECTIVES[name], options, f"objective {name!r}")
    if made.kinds and kind not in made.kinds:
        raise OptionError(f"objective {name!r}: the answers of this task are of the kind {kind!r}, and it is for {', '.join(made.kinds)}.")
    return made


def disagreement(one: torch.Tensor, two: torch.Tensor, kind: str) -> torch.Tensor:
    """Half the sum of both Kullback-Leibler divergences of two answers (B, K), mean over rows; of numbers the squared distance."""
    if kind == "number":
        return functional.mse_loss(one, two)
    if kind == "multi":  # K coins instead of one die: the logits of "no" are 0
        one, two = (torch.stack([logits, torch.zeros_like(logits)], -1).flatten(0, 1) for logits in (one, two))
    first, second = one.log_softmax(-1), two.log_softmax(-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(-1).mean() / 2


def contrast(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """vectors (B, D), targets (B,) -> mean over the rows of minus log of the share that the other rows of its class have of its likeness to all.

    A row whose class has no other in the batch counts as 0. Source: Khosla et al. 2020, equation 2, temperature 0.07.
    """
    unit = functional.normalize(vectors, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    likeness = (unit @ unit.T / _TEMPERATURE).masked_fill(itself, float("-inf"))
    shares = likeness - likeness.logsumexp(1, keepdim=True)
    same = (targets[:, None] == targets[None]) & ~itself
    return -(shares.masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1)).mean()


def fisher(network: Network, data: Known, plain: Plain) -> dict[str, torch.Tensor]:
    """The diagonal of the empirical Fisher information of the learned weights: the mean of squared gradients, a row of before at a time."""
    learned, network = network.learned(), network.eval()
    total = {name: torch.zeros_like(p) for name, p in learned.items()}
    rows = data.before[:: max(1, len(data.before) // _FISHER_ROWS)][:_FISHER_ROWS]
    for row in rows:
        batch = collate([row], data.source, data.spec, data.pad_id).to(next(iter(learned.values())).device)
        found = torch.autograd.grad(plain(network(batch), batch), list(learned.values()), allow_unused=True)
        for sums, gradient in zip(total.values(), found):
            sums += 0 if gradient is None else gradient.square()
    return {name: sums / len(rows) for name, sums in total.items()}
