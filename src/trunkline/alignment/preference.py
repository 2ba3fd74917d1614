"""What the goals that learn from preferences share: items of two answers, the reference's log-probabilities, and a run of the one loop.

The reference reads each answer once, from the stored states, and what it gives is kept with the items (and in the run's folder): no later
step runs it again. A goal (dpo.py, ipo.py, kto.py, orpo.py) adds its loss, and has the five names of a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from trunkline import names, storage
from trunkline.alignment.roles import WRITES, log_probabilities, of_rows, policy_from, token_log_probabilities
from trunkline.branch import Branch, identity, savable
from trunkline.choices import between
from trunkline.data import quality
from trunkline.data.split import Split
from trunkline.errors import DataError
from trunkline.evaluation.baselines.preferences import lengths
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.model.writing.language import LanguageHead
from trunkline.progress import Bar, timed
from trunkline.states.collate import Source
from trunkline.train import machine
from trunkline.train.account import Run, report_of
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import Data, Progress, epochs, fit
from trunkline.train.settings import Settings
from trunkline.train.tune import stored
from trunkline.types import IGNORE, Answer, Batch, Item, Output, Row, Rows, Spec

METRICS = ("pair_accuracy", "pair_loss")
STEP = 0.1
"""The learning rate where none is told, as a share of the method's own: a policy is moved, not taught anew."""


@dataclass(frozen=True)
class PairSpec(Spec):
    """What goals on pairs may be told. beta: how close to the reference the policy is held, the larger the closer.

    average: log-probabilities of an answer are means over its tokens, and not sums, so that a long answer counts no more
    samples: so many prompts of the measured rows are answered before and after, to be read
    policy: the spec of the start, which says how prompts and answers become tokens
    """

    kind: ClassVar[str] = "preferences"
    backbones: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder")
    beta: float = 0.1
    average: bool = False
    samples: int = 4
    policy: Any = field(default=None, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        between("beta", self.beta, 1e-6, 100.0)
        between("samples", self.samples, 0, 100)


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of answers, each (B, 2): under the policy, with its gradient, and under the reference. tokens: (B, 2) of each answer.

    liked: (B,) bool, of goals whose first answer may be a bad one
    """

    policy: torch.Tensor
    reference: torch.Tensor
    tokens: torch.Tensor
    liked: torch.Tensor

    @property
    def ratios(self) -> torch.Tensor:
        """(B, 2): log of policy over reference."""
        return self.policy - self.reference

    @property
    def change(self) -> torch.Tensor:
        """(B,): by how much more the policy prefers the first answer to the second than the reference does. Rafailov et al. 2023, equation 7."""
        return self.ratios[:, 0] - self.ratios[:, 1]


def prepare(row: Row, tokenizer: Any, spec: PairSpec) -> Item:
    """The better and the worse answer to a prompt as two `Tokens`; target (2, T): their ids where they count, IGNORE elsewhere."""
    task, prompt = names.task(spec.policy.task), {k: v for k, v in row.items() if k not in ("text_b", "rejected")}
    found = [task.prepare({**prompt, "label": answer}, tokenizer, spec.policy) for answer in (row["text_b"], row["rejected"])]
    return two(*found)


def two(one: Item, other: Item, liked: bool = True) -> Item:
    """Two items of one sequence each as one of two. about: `reference` (2,) once it is known, and whether the first answer is a good one."""
    target = np.full((2, max(len(one.target), len(other.target))), IGNORE, dtype=np.int64)
    for line, item in zip(target, (one, other)):
        line[: len(item.target)] = item.target
    return Item((*one.tokens, *other.tokens), target, one.was_cut or other.was_cut, {"reference": np.zeros(2), "liked": liked})


def head(width: int, spec: PairSpec) -> nn.Module:
    """That of the policy."""
    return LanguageHead()


def pairs(out: Output, batch: Batch) -> Pairs:
    """What a batch of two answers an item says, with the reference's part from the items."""
    count = len(batch.abouts)
    sums, tokens = of_rows(out.logits, out.extra["rows"], 2 * count)
    policy, counted = sums.reshape(count, 2), tokens.reshape(count, 2)
    reference = torch.as_tensor(np.stack([about["reference"] for about in batch.abouts])).to(policy)
    liked = torch.tensor([about["liked"] for about in batch.abouts], device=policy.device)
    if batch.spec.average:
        policy, reference = policy / counted.clamp(min=1), reference / counted.clamp(min=1)
    return Pairs(policy, reference, counted, liked)


def answers(margins: torch.Tensor) -> list[Answer]:
    """margins (B,) -> what metrics of preferences read: above 0 where the policy moved the right way."""
    return [Answer(float(one), np.float64(one)) for one in margins.double().cpu().numpy()]


Make = Callable[[Sequence[Row], Branch, PairSpec], list[Item]]


@dataclass(frozen=True)
class PairGoal:
    """What a goal hands to `run`: how rows become items (two sequences each), and whether its loss reads the reference."""

    make: Make
    has_reference: bool = True


def make(rows: Sequence[Row], start: Branch, spec: PairSpec) -> list[Item]:
    """The items of rows with two answers each. Raises: DataError for one without."""
    lacking = next((row for row in rows if not row.get("text_b") or not row.get("rejected")), None)
    if lacking is not None:
        raise DataError(
            f"the prompt {lacking['text'][:60]!r} has no pair of answers. Each row needs a better one (`text_b`) and a worse one."
        )
    return [prepare(row, start.backbone.tokenizer, spec) for row in rows]


def run(goal: PairGoal, start: Branch, parts: Split, spec: PairSpec, settings: Settings, out: Path | None = None) -> Branch:
    """The policy's branch, trained on the training rows from the start on, with its report; saved in `out` where one is given.

    A run that was stopped goes on from `out`.checkpoints. Raises: DataError, OptionError, ArtefactError, TrainingError.
    """
    job = Job(goal, start, replace(spec, policy=start.spec, max_tokens=start.spec.max_tokens), settings, savable(out) if out else None)
    with timed(job.seconds, "read"):
        findings = quality.check(parts)
        quality.require(findings)
        items = {name: goal.make(part, start, job.spec) for name, part in parts.parts().items()}
    with ExitStack() as stack:
        kept = stack.enter_context(Checkpoints(job.folder, job.about(parts), force=settings.force)) if job.folder else None
        with timed(job.seconds, "encode"):
            source, encoded = stored(start.backbone, start.depth, items, start.states)
        with timed(job.seconds, "reference"):
            items = job.with_reference(items, source, start)
        with timed(job.seconds, "align"):
            policy, progress = job.fit(items, source, kept)
        done = Run(
            parts, findings, items, source, encoded, [(policy, progress)], settings, start.method, job.seconds, f"align({job.spec.task})"
        )
        policy = job.measured(done, policy)
        if out:
            policy.save(out)
    if job.folder:
        storage.remove_folder(job.folder)
    return policy


@dataclass
class Job:
    """One run of a goal: what is fixed in it, and the seconds of its stages."""

    goal: PairGoal
    start: Branch
    spec: PairSpec
    settings: Settings
    out: Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        return self.out.with_name(f"{self.out.name}.checkpoints") if self.out else None

    def about(self, parts: Split) -> dict[str, Any]:
        """What must be the same for a run to go on from a checkpoint."""
        free = ("checkpoint_seconds", "force", "threads", "device")
        told = {f"settings.{name}": value for name, value in asdict(self.settings).items() if name not in free}
        rows = [part.fingerprint for part in parts.parts().values()]
        return {"goal": self.spec.task, "spec": self.spec.to_json(), "rows": rows, "start": identity(self.start), **told}

    def with_reference(self, items: dict[str, list[Item]], source: Source | None, reference: Branch) -> dict[str, list[Item]]:
        """The items with what the reference says of them: in the precision of the loop for training rows, in that of measuring for others.

        Kept in the run's folder, so that one that was stopped does not compute it again.
        """
        if not self.goal.has_reference:
            return items
        path = self.folder / "reference.safetensors" if self.folder else None
        key = hashlib.sha256("".join(one.key.hex() for part in items.values() for item in part for one in item.tokens).encode())
        told = f"{key.hexdigest()}-{identity(reference)}-{self.precision}"
        found = _kept(path, told)
        if found is None:
            found = {}
            for name, part in items.items():
                precision = self.precision if name == "train" else torch.float32
                values = token_log_probabilities(reference, [one for item in part for one in _apart(item)], source, precision=precision)
                found[name] = log_probabilities(values).reshape(-1, 2)
            if path:
                storage.write_file(path, safetensors.numpy.save(found, {"of": told}))
        return {
            name: [replace(item, about={**item.about, "reference": said}) for item, said in zip(part, found[name])]
            for name, part in items.items()
        }

    @property
    def precision(self) -> torch.dtype:
        return machine.precision(self.settings.precision, self.start.backbone.device)

    def fit(self, items: dict[str, list[Item]], source: Source | None, kept: Checkpoints | None) -> tuple[Branch, Progress]:
        policy = policy_from(self.start)
        data = Data(items["train"], items["validation"], source, self.spec, policy.backbone.tokenizer.pad_id)
        rate = self.settings.learning_rate or STEP * policy.config.learning_rate
        every = epochs(self.settings, len(data.train)) * len(data.train)
        with Bar(f"align ({self.spec.task})", unit="rows") as bar:

            def show(progress: Progress, steps: int) -> None:
                bar.to(min(progress.step * self.settings.batch_size, every), every)

            progress = fit(policy.network, data, self.settings, learning_rate=rate, seed=self.settings.seed, checkpoints=kept, on_step=show)
        return policy, progress

    def measured(self, done: Run, policy: Branch) -> Branch:
        """The policy with its report: which answer it prefers, beside the start and the lengths; how likely both are now; some answers.

        "tuned" is the goal's own margin; "before" and "after" are by which answer the start, and the policy, finds likelier.
        """
        part = "test" if len(done.items["test"]) else "validation"
        items, rows = done.items[part], done.parts.parts()[part]
        notes: list[str] = []
        with timed(self.seconds, "measure"):
            truth, scores = truth_and_scores(self.spec, items, replace(policy, spec=self.spec).answers(items, done.source))
            found = {"tuned": scores}
            if self.goal.has_reference:
                values = token_log_probabilities(policy, [one for item in items for one in _apart(item)], done.source)
                was, now = np.stack([item.about["reference"] for item in items]), log_probabilities(values).reshape(-1, 2)
                notes.append(_moved((now - was) / np.maximum(1, [len(one) for one in values]).reshape(-1, 2), items))
                if all("text_b" in row for row in rows):
                    likelier = {"before": list(was[:, 0] - was[:, 1]), "after": list(now[:, 0] - now[:, 1])}
                    found = {"length": lengths(done.parts.train, rows).test, **likelier, **found}
            results = [{"name": name, "metrics": bootstrap(METRICS, truth, one), "seconds": None} for name, one in found.items()]
            compared = (
                [{"before": "before", "after": "after", **asdict(paired(METRICS[0], truth, found["before"], found["after"]))}]
                if "after" in found
                else []
            )
            shown = self.samples(rows, policy)
        report = report_of(done, policy, part, {"results": results, "comparisons": compared, "samples": shown})
        return replace(policy, report=replace(report, task=self.spec.task, data={**report.data, "notes": [*report.data["notes"], *notes]}))

    def samples(self, rows: Sequence[Row], policy: Branch) -> list[dict[str, Any]]:
        asked = [{k: v for k, v in row.items() if k not in ("label", "text_b", "rejected")} for row in rows[: self.spec.samples]]
        if not asked:
            return []
        before, after = ([answer.value for answer in branch.answers(branch.prepare(asked))] for branch in (self.start, policy))
        right = [row.get("text_b") or row.get("label") or "" for row in rows]
        return [
            {"text": row["text"], "label": best, "before": was, "predicted": said}
            for row, best, was, said in zip(asked, right, before, after)
        ]


def written(rows: Rows, task: str) -> Rows:
    """Rows as a task that writes reads them: the better answer is what is to be written."""
    if task not in WRITES:
        raise ValueError(f"{task} does not write")
    made = [
        {k: v for k, v in row.items() if k not in ("text_b", "rejected")} | {"label": row.get("text_b") or row.get("label")} for row in rows
    ]
    return replace(rows, task=task, rows=tuple({k: v for k, v in row.items() if v is not None} for row in made))


def _moved(each: np.ndarray, items: Sequence[Item]) -> str:
    """How far the policy has moved from the reference: each (N, 2), nats a token; of items whose answers were liked or not, by which."""
    liked = np.array([item.about["liked"] for item in items])
    better, worse = (each[:, 0], each[:, 1]) if liked.all() else (each[liked, 0], each[~liked, 0])
    told = " and ".join(f"{one.mean():+.3f} for the {name} answers" for name, one in (("better", better), ("worse", worse)) if len(one))
    return f"log-probability a token under the policy less that under the reference: {told}"


def _apart(item: Item) -> list[Item]:
    """An item of two sequences as two of one each."""
    return [Item((tokens,), np.trim_zeros(line - IGNORE, "b") + IGNORE) for tokens, line in zip(item.tokens, item.target)]


def _kept(path: Path | None, told: str) -> dict[str, np.ndarray] | None:
    """What was computed before, where it is of the same answers and the same reference."""
    if path is None or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("of") != told:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except (OSError, safetensors.SafetensorError):
        return None
