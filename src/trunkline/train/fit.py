"""The one training loop. What differs between tasks and methods is passed in; whoever wants another loop wants an option here.

Every random number of step n comes from the seed and n alone, so a run that was stopped goes on bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trunkline import names
from trunkline.branch import restore, run
from trunkline.errors import OptionError, TrainingError, unknown
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS, compute
from trunkline.memory import give_back_now_and_then
from trunkline.model.network import Network
from trunkline.model.writing.language import LanguageHead
from trunkline.states.collate import Source, collate
from trunkline.train import machine
from trunkline.train.checkpoint import Checkpoints, Tensors
from trunkline.train.objectives import Objective, make
from trunkline.train.settings import Settings
from trunkline.train.signals import held
from trunkline.types import IGNORE, Batch, Item, Output

_BUCKET = 16
"""Batches are made of rows of like length: rows are shuffled, and sorted within runs of so many batches."""
_LOOKED_AT = 32  # rows by which it is judged how much the states vary that the head reads
_LITTLE, _SPREAD, _FASTEST = 0.06, 0.15, 32.0
"""The standard deviation over texts of a pooled state, mean over its dimensions: what is little (e5-small has 0.07, where a faster head was no better, t5-small
0.03, where it was by 5 to 24 points), what the usual rate is for (minilm 0.18), and how much faster a head may learn."""
_TOKENS_AT_ONCE, _TOKENS_ON_A_GPU = {"cpu": 2048}, 65_536
"""Tokens of a part of a step: more gain nothing on a processor and take memory; with fewer, weights are rounded to bfloat16 more often."""
_BAD_STEPS_IN_A_ROW = 3
_BAD_STEPS_IN_A_THOUSAND = 10


@dataclass(frozen=True)
class Data:
    """What the loop reads: items, where their states come from, and what the task needs to know.

    loss: instead of the task's; order: the batches of an epoch as index arrays, as many in each, instead of those of `batches`;
    before: items of an earlier task, for an objective that asks for them
    """

    train: Sequence[Item]
    validation: Sequence[Item]
    source: Source | None
    spec: Any
    pad_id: int = 0
    loss: Callable[[Output, Batch], torch.Tensor] | None = None
    order: Callable[[int], list[np.ndarray]] | None = None
    before: Sequence[Item] = ()

    def batch(self, indices: np.ndarray) -> Batch:
        """The training items of these indices (B,) as a batch."""
        return collate([self.train[i] for i in indices], self.source, self.spec, self.pad_id)

    def measure(self, network: Network, metric: str) -> dict[str, float]:
        """The metric on the validation rows, by its name; where there are several values, their mean is what is watched."""
        answers = run(network, self.spec, self.validation, self.source, self.pad_id)
        return {metric: float(compute([metric], *truth_and_scores(self.spec, self.validation, answers))[metric])}


@dataclass
class Progress:
    """Where a run stands: everything a checkpoint keeps beside tensors."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    factor: float = 1.0
    bad: list[int] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False


def fit(
    network: Network, data: Data, settings: Settings, *, learning_rate: float, seed: int, checkpoints: Checkpoints | None = None,
    on_step: Callable[[Progress, int], None] | None = None, solved: bool = False,
) -> Progress:  # fmt: skip
    """Train the network; it ends with the weights that were best on the validation rows.

    solved: the weights as they come are the solution already (start.py): they are measured, and no step is taken
    on_step: called with the progress and the number of steps planned, after each step.
    Raises: TrainingError when the loss or the gradient is not a finite number three steps in a row, or in more than 1% of the last 1,000.
    """
    loop = _Loop(network, data, settings, learning_rate, seed, checkpoints)
    loop.resume()
    if solved:
        loop.evaluate()
        loop.progress.done = True
    try:
        while not loop.progress.done:
            loop.step()
            if on_step:
                on_step(loop.progress, loop.steps)
    except KeyboardInterrupt:
        loop.save()
        raise
    restore(network, loop.best, "best weights")
    return loop.progress


def epochs(settings: Settings, rows: int) -> int:
    """Passes over the rows: as told, or as many as make about 2,000 steps, at least 3 and at most 12."""
    if settings.epochs is not None:
        return settings.epochs
    return max(3, min(12, round(2000 * settings.batch_size / max(rows, 1))))


def schedule(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of step 0..steps-1 as a share of its top: a linear rise, then linear, cosine or no decay to zero."""
    rise = int(settings.warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    left = (steps - step) / max(1, steps - rise)
    if settings.schedule == "linear":
        return left
    return 0.5 * (1 - math.cos(math.pi * left)) if settings.schedule == "cosine" else 1.0


def batches(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The index arrays of one epoch: shuffled by seed and epoch, rows of like length together.

    >>> [len(b) for b in batches(np.ones(10), 4, seed=0, epoch=0)]
    [4, 4, 2]
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    made: list[np.ndarray] = []
    for start in range(0, len(order), size * _BUCKET):
        run_ = order[start : start + size * _BUCKET]
        run_ = run_[np.argsort(lengths[run_], kind="stable")]
        made += [run_[i : i + size] for i in range(0, len(run_), size)]
    full, rest = [b for b in made if len(b) == size], [b for b in made if len(b) < size]
    return [full[i] for i in generator.permutation(len(full))] + rest


class _Loop:
    """The state of one run of the loop, with one method for each thing that happens in it."""

    def __init__(
        self, network: Network, data: Data, settings: Settings, learning_rate: float, seed: int, checkpoints: Checkpoints | None
    ) -> None:  # fmt: skip
        self.network, self.data, self.settings, self.seed, self.checkpoints = network, data, settings, seed, checkpoints
        self.task = names.task(data.spec.task)
        self.device = next(network.parameters()).device
        self.precision = machine.precision(settings.precision, self.device)
        # where the passages of a batch are each other's wrong answers, rows of one passage (all of one length) must not come together
        alike = data.spec.kind == "ranks"
        self.lengths = np.array([0 if alike else max(map(len, item.tokens)) for item in data.train])
        self.per_epoch = len(data.order(0)) if data.order else math.ceil(len(data.train) / settings.batch_size)
        self.steps = epochs(settings, len(data.train)) * self.per_epoch
        self.every = settings.evaluate_every or self.per_epoch
        self.metric = settings.metric or self.task.METRICS[0]
        if self.metric not in self.task.METRICS:
            raise unknown("metric", self.metric, self.task.METRICS)
        if not data.train or not data.validation:
            raise OptionError(f"{len(data.train)} training and {len(data.validation)} validation rows: at least one of each is needed.")
        self.learned = network.learned()
        if not self.learned:
            raise OptionError(
                f"task={data.spec.task!r} at depth {network.depth}: this method has nothing to learn there, because the task's output layer is the "
                "model's own and stays as it is. Use 'full' or 'lora', and a depth of 1 or more."
            )
        objective = Objective() if data.loss else make(settings.objective, data.spec.kind)
        self.together = alike or data.spec.together or data.loss is not None or type(objective) is not Objective
        self.tokens = np.array([sum(map(len, item.tokens)) for item in data.train])
        self.most_tokens = _TOKENS_AT_ONCE.get(self.device.type, _TOKENS_ON_A_GPU)
        self.weights = _weights(network, data)
        self.loss = objective.ready(network, data, data.loss or self.task.loss)
        faster = 1.0 if settings.head_learning_rate else head_pace(network, data)
        self.optimizer, self.rates = _optimizer(self.learned, settings, learning_rate, network.guide.rate, faster)
        self.progress = Progress()
        self.best: Tensors = {}
        self.losses: list[float] = []
        self.order: tuple[int, list[np.ndarray]] = (-1, [])
        self.saved_at = time.monotonic()
        _set_dropout(network, settings.dropout)

    def resume(self) -> None:
        found = self.checkpoints.latest() if self.checkpoints else None
        if not found:
            self.network.guide.begin(self.network, self.texts())
            self.keep_best()
            return
        groups, state = found
        restore(self.network, groups["weights"], "checkpoint")
        self.best = groups["best"]
        restore_optimizer(self.optimizer, self.learned, groups["optimizer"])
        self.network.guide.restore(groups.get("guide", {}), self.device)
        self.progress = Progress(**state["progress"])
        self.losses = state["losses"]

    def step(self) -> None:
        """One step, and the evaluation where one is due; stopped within an evaluation, the run goes on with that evaluation."""
        progress, started = self.progress, time.perf_counter()
        if not self.due():
            epoch, at = divmod(progress.step, self.per_epoch)
            if self.order[0] != epoch:
                self.order = (epoch, self.data.order(epoch) if self.data.order else self.shuffled(epoch))
            with held():
                self.learn(self.order[1][at])
                progress.step += 1
        give_back_now_and_then()
        if self.due():
            self.evaluate()
        progress.done |= progress.step >= self.steps
        progress.seconds += time.perf_counter() - started
        if progress.done or time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds:
            self.save()

    def texts(self) -> Iterator[Batch]:
        """Each text of the training rows by itself, in the order of the first epoch; a row's target stays only where it has one text."""
        data = self.data
        for index in np.concatenate(self.shuffled(0)):
            item = data.train[index]
            for tokens in item.tokens:
                alone = replace(item, tokens=(tokens,), target=item.target if len(item.tokens) == 1 else None)
                yield collate([alone], data.source, data.spec, data.pad_id).to(self.device)

    def shuffled(self, epoch: int) -> list[np.ndarray]:
        return batches(self.lengths, self.settings.batch_size, self.seed, epoch)

    def due(self) -> bool:
        """Whether the weights of this step are still to be measured on the validation rows."""
        step, history = self.progress.step, self.progress.history
        measured = history[-1]["step"] if history else 0
        return step != measured and (step % self.every == 0 or step == self.steps)

    def learn(self, indices: np.ndarray) -> None:
        """One optimizer step on the rows of `indices`; skipped and counted when the loss or gradient is not finite."""
        progress = self.progress
        share = schedule(self.settings, progress.step, self.steps) * progress.factor
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * share
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + progress.step)
            for part in self.parts(indices):
                total += self.backward(part, float(self.weights[part].sum() / max(1, self.weights[indices].sum())))
        norm = torch.nn.utils.clip_grad_norm_(self.learned.values(), self.settings.clip or math.inf, foreach=True)
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.network.guide.after_step(self.network, progress.step + 1, self.steps)
            self.losses.append(total)
        else:
            self.count_bad()

    def parts(self, indices: np.ndarray) -> list[np.ndarray]:
        """The rows of a step, in as many parts as were told, or as keep each to so many tokens; never where rows of a batch look at each other."""
        told = self.settings.accumulate or (1 if self.together else math.ceil(self.tokens[indices].sum() / self.most_tokens))
        return np.array_split(indices, min(max(1, told), len(indices)))

    def backward(self, part: np.ndarray, weight: float) -> float:
        batch = self.data.batch(part).to(self.device)
        loss = (self.loss(self.run, batch, part) + self.network.guide.penalty(self.network)) * weight
        loss.backward()
        return float(loss.detach())

    def run(self, batch: Batch) -> Output:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            out: Output = self.network(batch)
        return out

    def count_bad(self) -> None:
        bad = self.progress.bad
        bad.append(self.progress.step)
        row = len(bad) >= _BAD_STEPS_IN_A_ROW and bad[-1] - bad[-_BAD_STEPS_IN_A_ROW] == _BAD_STEPS_IN_A_ROW - 1
        if row or sum(s > self.progress.step - 1000 for s in bad) > _BAD_STEPS_IN_A_THOUSAND:
            raise TrainingError(
                f"step {self.progress.step}: the loss or its gradient is not a finite number, for the {len(bad)}th time; no such step was taken. "
                "Use a smaller learning rate, or look for extreme values in the rows."
            )

    def evaluate(self) -> None:
        values = self.data.measure(self.network, self.metric)
        with held():
            self.judge(values)

    def judge(self, values: dict[str, float]) -> None:
        """Note the values of the watched metric, keep the weights where their mean is the best so far, and say when to stop."""
        progress, metric, value = self.progress, METRICS[self.metric], sum(values.values()) / len(values)
        loss = float(np.mean(self.losses)) if self.losses else None
        epoch = progress.step / self.per_epoch
        progress.history.append({"step": progress.step, "epoch": epoch, "seconds": progress.seconds, "train_loss": loss, "metrics": values})
        self.losses = []
        if not self.network.guide.settled(progress.step, self.steps):
            return
        if progress.best is None or (value > progress.best if metric.higher_is_better else value < progress.best):
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            self.keep_best()
            return
        progress.waited += 1
        if self.settings.schedule == "plateau":
            progress.factor *= 0.5
        progress.done = self.settings.patience is not None and progress.waited >= self.settings.patience

    def keep_best(self) -> None:
        self.best = {name: p.detach().cpu().clone() for name, p in self.learned.items()}

    def save(self) -> None:
        if not self.checkpoints:
            return
        weights = {name: p.detach().cpu().contiguous() for name, p in self.learned.items()}
        groups = {"weights": weights, "best": self.best, "optimizer": optimizer_tensors(self.optimizer, self.learned)}
        groups["guide"] = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.guide.tensors().items()}
        self.checkpoints.save(self.progress.step, groups, {"progress": asdict(self.progress), "losses": self.losses})
        self.saved_at = time.monotonic()


def _weights(network: Network, data: Data) -> np.ndarray:
    """(N,) how much each row weighs in the loss of a batch: all alike (pairs of answers too), or by the tokens that count where the loss is their mean."""
    head: Any = network.head
    if not isinstance(head, LanguageHead) or data.spec.kind != "likelihood" or data.loss is not None:
        return np.ones(len(data.train))
    moved = 1 if head.model is not None and head.model.kind == "decoder" else 0  # nothing stands before the first
    return np.array([np.count_nonzero(np.asarray(item.target)[..., moved:] != IGNORE) for item in data.train])


@torch.no_grad()
def head_pace(network: Network, data: Data) -> float:
    """How many times as fast as usual a linear head has to learn: where what it reads varies little from text to text (the encoder of T5: a fifth of
    minilm's), its weights have so much further to go. 1 for all other heads, and where it varies as usual or more.
    """
    linear = getattr(network.head, "linear", None)
    if not isinstance(linear, torch.nn.Linear) or len(data.train) < 2:
        return 1.0
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    training = network.training
    try:
        network.eval()(data.batch(np.arange(min(_LOOKED_AT, len(data.train)))).to(linear.weight.device))
    finally:
        hook.remove()
        network.train(training)
    spread = float(seen[0].flatten(0, -2).var(0).mean().sqrt())
    return 1.0 if not spread < _LITTLE else min(_SPREAD / max(spread, 1e-9), _FASTEST)


def _optimizer(
    learned: dict[str, torch.nn.Parameter], settings: Settings, rate: float, factor: Callable[[str], float], faster: float = 1.0
) -> tuple[torch.optim.Optimizer, list[float]]:  # fmt: skip
    """The optimizer and the top learning rate of each of its groups: layers (times what the method says) and head, with and without decay."""
    head_rate = settings.head_learning_rate or faster * max(5 * rate, 5e-3)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in learned.items():
        decay = settings.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((head_rate if name.startswith("head.") else rate * factor(name), decay), []).append(parameter)
    given = [{"params": parameters, "lr": lr, "weight_decay": decay} for (lr, decay), parameters in groups.items()]
    made: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        made = torch.optim.SGD(given, momentum=0.9)
    elif settings.optimizer == "rmsprop":
        made = torch.optim.RMSprop(given)
    else:
        made = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer](given, fused=True)
    return made, [float(group["lr"]) for group in made.param_groups]


def optimizer_tensors(optimizer: torch.optim.Optimizer, learned: dict[str, torch.nn.Parameter]) -> Tensors:
    """The optimizer's state as flat tensors named `parameter|entry`."""
    names_of = {id(p): name for name, p in learned.items()}
    flat: Tensors = {}
    for parameter, entries in optimizer.state.items():
        for entry, value in entries.items():
            flat[f"{names_of[id(parameter)]}|{entry}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
    return flat


def restore_optimizer(optimizer: torch.optim.Optimizer, learned: dict[str, torch.nn.Parameter], flat: Tensors) -> None:
    """Put back what `optimizer_tensors` gave, into the optimizer of the same parameters."""
    for name, tensor in flat.items():
        parameter_name, _, entry = name.rpartition("|")
        parameter = learned[parameter_name]
        optimizer.state[parameter][entry] = tensor.clone().to(parameter.device)


def _set_dropout(network: Network, share: float | None) -> None:
    """Set the dropout of every layer: modules in some families, in others a number that the attention reads."""
    if share is None:
        return
    for module in network.upper.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, share)
