"""Several tasks on one set of layers above the cut, tuned in one run: a head each, and in the end a branch each. Beside `tune`.

rows of each part -> split, check, items (as `tune`) -> one store, one loop, batches of one part after another -> a branch a part

Each branch is an ordinary one, in a folder of its own. Source: Caruana 1997, hard parameter sharing; on a pre-trained encoder Liu et al. 2019 (MT-DNN),
algorithm 1, where a step is on a batch of one task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trunkline import choices, names, storage
from trunkline.branch import Branch, savable
from trunkline.data.quality import Finding
from trunkline.data.split import Split
from trunkline.errors import ArtefactError, OptionError
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import suited
from trunkline.model.backbone import AUTO, Backbone, Depth
from trunkline.model.network import Heads, Network
from trunkline.model.standard import standard, why
from trunkline.progress import timed
from trunkline.states.collate import Source, collate
from trunkline.train import machine
from trunkline.train.account import Run, account
from trunkline.train.fit import Data, Progress, batches
from trunkline.train.settings import PLAIN, Settings
from trunkline.train.tune import Job, checked, command, loaded, number_format, spec_for, stored, tune
from trunkline.types import Batch, Item, Items, Output, Rows

TASKS = ("classify", "regress", "tag", "span", "rank")
"""Tasks whose head is their own, and whose first metric is better the higher it is, up to 1: their mean says something."""
SAMPLINGS = ("root", "rows")
_LEAST = 8
"""Training rows of the smallest part: fewer are no task."""


@dataclass(frozen=True)
class _Part:
    """One task of the run: its rows and items by the part of the split, and what it learned from them."""

    name: str
    rows: Split
    findings: list[Finding]
    spec: Any
    items: Mapping[str, Sequence[Item]]


def tune_together(
    rows: Mapping[str, Rows | Split], model: str | Path | Backbone | None = None, *, method: str = "full", depth: Depth = 2, sampling: str = "root",
    settings: Settings | None = None, out: str | Path | None = None, alone: bool = False,
) -> dict[str, Branch]:  # fmt: skip
    """A branch for each part of `rows`, all with the same layers above the cut, tuned together; saved in `out`/NAME when `out` is given.

    rows: by name, two parts or more; each is split as `tune` does it, so a text falls on the same side in every part (unless a rare label needs it)
    depth: 1 or more, or "all": at depth 0 there is nothing to share
    sampling: how often a part comes up: "rows", each row once an epoch; "root", in proportion to the square root of its rows, so
        that a small part is seen more often
    alone: tune each part by itself too, in the same way, and put it beside in the report
    settings: task_options are those of every part; what is watched is the mean of the parts' metrics

    A run that was stopped goes on by the same call, bit for bit. Raises: as `tune`.
    """
    job = Job(settings or Settings(), Path(out) / "together" if out else None)
    _require(rows, method, depth, sampling, job.settings)
    folders = _folders(Path(out), rows) if out else {}
    backbone, parts = _ready(rows, model, depth, job)
    every = {f"{at}{name}": some for at, part in enumerate(parts) for name, some in part.items.items()}
    about = {
        "parts": {part.name: [one.fingerprint for one in part.rows.parts().values()] for part in parts},
        "method": method,
        "depth": depth,
        "sampling": sampling,
        "backbone": backbone.id,
    }
    with job.alone():
        with timed(job.seconds, "encode"):
            source, encoded = stored(backbone, depth, every, job.settings.states)
        with timed(job.seconds, "tune"):
            make, fitted = partial(_joint, backbone, parts, method, depth, job.settings), []
            for seed in range(job.settings.seed, job.settings.seed + job.settings.seeds):
                fitted.append(
                    job.fit(make, _data(parts, source, backbone.tokenizer.pad_id, sampling, job.settings, seed), seed, None, about)
                )
        done: dict[str, Branch] = {}
        for at, part in enumerate(parts):
            own = [(_of(branch, at, part), _progress(progress, part, job.settings)) for branch, progress in fitted]
            run = Run(part.rows, part.findings, part.items, source, encoded, own, job.settings, method, dict(job.seconds), command())
            done[part.name] = account(run)
            if alone:
                by_itself = tune(part.rows, backbone, method=method, depth=depth, settings=job.settings)
                done[part.name] = _beside(done[part.name], by_itself, part.items, source)
        for name, folder in folders.items():
            done[name].save(folder)
        job.forget_checkpoints()
    return done


def order(lengths: Sequence[np.ndarray], size: int, sampling: str, seed: int, epoch: int) -> list[np.ndarray]:
    """The index arrays of one epoch over the rows of all parts, behind each other: each array of one part, in mixed order.

    lengths: (N,) tokens of each row, by part. A part's rows all come before any comes again, also over epochs.

    >>> [len(order([np.ones(4), np.ones(64)], 4, sampling, 0, 0)) for sampling in ("rows", "root")]
    [17, 17]
    >>> [sum(int(b[0] < 4) for b in order([np.ones(4), np.ones(64)], 4, sampling, 0, 0)) for sampling in ("rows", "root")]
    [1, 3]
    """
    whole = [math.ceil(len(part) / size) for part in lengths]
    roots = np.sqrt([len(part) for part in lengths])
    counts = whole if sampling == "rows" else [max(1, round(sum(whole) * share)) for share in roots / roots.sum()]
    made: list[np.ndarray] = []
    for part, (each, count) in enumerate(zip(whole, counts)):
        start = sum(map(len, lengths[:part]))
        passes: dict[int, list[np.ndarray]] = {}
        for number in range(epoch * count, (epoch + 1) * count):
            turn, at = divmod(number, each)
            if turn not in passes:
                passes[turn] = batches(lengths[part], size, seed, turn)
            made.append(start + passes[turn][at])
    return [made[at] for at in np.random.default_rng((seed, epoch, 1)).permutation(len(made))]


@dataclass(frozen=True)
class _Data(Data):
    """What the loop reads where tasks share layers: the items of all parts behind each other, and how each is measured."""

    parts: Sequence[_Part] = ()
    metrics: Sequence[str] = ()

    def batch(self, indices: np.ndarray) -> Batch:
        """The training items of these indices (B,), all of one part, as a batch for its head."""
        ends = np.cumsum([len(part.items["train"]) for part in self.parts])
        at = int(np.searchsorted(ends, indices[0], side="right"))
        return replace(collate([self.train[i] for i in indices], self.source, self.parts[at].spec, self.pad_id), part=at)

    def measure(self, network: Network, metric: str) -> dict[str, float]:
        """By name of the part: its metric on its validation rows."""
        heads: Any = network.head
        found = {}
        for part, watched, head in zip(self.parts, self.metrics, heads.each):
            own = Data((), part.items["validation"], self.source, part.spec, self.pad_id)
            found[part.name] = own.measure(network.under(head), watched)[watched]
        return found


def _require(rows: Mapping[str, Rows | Split], method: str, depth: Depth, sampling: str, settings: Settings) -> None:
    """Raises: OptionError for what cannot be tuned together."""
    choices.one_of("sampling", sampling, SAMPLINGS)
    if len(rows) < 2:
        raise OptionError(f"{len(rows)} part(s) to tune together: {', '.join(rows)}. Give two or more, or use `tune`.")
    for name, part in rows.items():
        task = (part.train if isinstance(part, Split) else part).task
        if not name or name.startswith(".") or Path(name).name != name:
            raise OptionError(f"part {name!r}: its name is that of its folder. Use one without slashes that does not begin with a dot.")
        if task not in TASKS:
            raise OptionError(f"part {name!r}: task={task!r} does not share layers. Use {', '.join(TASKS)}, or tune it by itself.")
        if settings.metric and settings.metric not in names.task(task).METRICS:
            raise OptionError(
                f"metric={settings.metric!r}: part {name!r} does not have it. Leave it out: each part is watched by its first."
            )
    if len({name.casefold() for name in rows}) < len(rows):
        raise OptionError(f"parts {', '.join(rows)}: two would be saved in the same folder. Give each a name of its own.")
    if depth in (0, AUTO) or choices.split_choice(method)[0] == "probe":
        raise OptionError(
            f"depth={depth!r}, method={method!r}: parts share the layers that are tuned, and no depth is searched for them. Give a depth of 1 or "
            "more, or 'all', and a method that tunes layers. Heads alone share nothing but the stored states: use `tune` for each."
        )
    if settings.objective != PLAIN:
        raise OptionError(f"objective={settings.objective!r}: parts are tuned together by the plain losses of their tasks. Leave it out.")


def _folders(out: Path, rows: Iterable[str]) -> dict[str, Path]:
    """The folder of each part. Raises: ArtefactError where a branch is in the way, or something else."""
    if (out / storage.MANIFEST).is_file():
        raise ArtefactError(f"{out}: is a saved branch, and the branches of several parts get folders of their own. Choose another folder.")
    return {name: savable(out / name) for name in rows}


def _ready(rows: Mapping[str, Rows | Split], model: str | Path | Backbone | None, depth: Depth, job: Job) -> tuple[Backbone, list[_Part]]:
    """The backbone, and the parts as items for it; the job's settings then name the number format of the states."""
    with timed(job.seconds, "read"):
        split = {name: checked(part, job.settings) for name, part in rows.items()}
    with timed(job.seconds, "load model"):
        machine.use_threads(job.settings.threads)
        note = None
        if model is None:
            model = standard("encoder", [row for part, _ in split.values() for row in part.train])
            note = why(model)
        backbone = loaded(model, job.settings)
        backbone.check_depth(depth)
        job.settings = replace(job.settings, states=number_format(job.settings.states, backbone))
    with timed(job.seconds, "read"):
        return backbone, [_part(name, *found, backbone, job.settings) for name, found in _noted(split, note).items()]


def _noted(split: dict[str, tuple[Split, list[Finding]]], more: str | None) -> dict[str, tuple[Split, list[Finding]]]:
    """Each part with a note for its report: which others it shares its layers with, and one more."""
    noted = {}
    for name, (rows, findings) in split.items():
        others = ", ".join(f"{other} ({len(them.train):,} training rows)" for other, (them, _) in split.items() if other != name)
        notes = filter(None, [f"the layers above the cut were tuned together with {others}", more])
        noted[name] = replace(rows, notes=(*rows.notes, *notes)), findings
    return noted


def _part(name: str, rows: Split, findings: list[Finding], backbone: Backbone, settings: Settings) -> _Part:
    """The part made ready. Raises: OptionError where it is too small, or its task cannot stand on the model."""
    if len(rows.train) < _LEAST or not len(rows.validation):
        raise OptionError(
            f"part {name!r}: {len(rows.train)} training and {len(rows.validation)} validation rows. It needs {_LEAST} and 1 at the least. "
            "Give it more rows, or leave it out."
        )
    spec = spec_for(backbone, rows.train, settings.task_options)
    if backbone.family.kind not in spec.backbones:
        raise OptionError(
            f"part {name!r}: task={spec.task!r} needs a model of kind {' or '.join(spec.backbones)}, and {backbone.name!r} is none."
        )
    prepare = names.task(spec.task).prepare
    items = {each: Items(prepare(row, backbone.tokenizer, spec) for row in part) for each, part in rows.parts().items()}
    return _Part(name, rows, findings, spec, items)


def _joint(backbone: Backbone, parts: Sequence[_Part], method: str, depth: Depth, settings: Settings, seed: int) -> Branch:
    """A fresh branch of the first part whose head is that of all parts."""
    name, options = choices.split_choice(method)
    config = choices.build(names.method(name).Config, options, f"method {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = Branch.new(backbone, parts[0].spec, name, config, depth, settings.states)
        others = [names.task(part.spec.task).head(backbone.width, part.spec) for part in parts[1:]]
    branch.network.head = Heads([branch.network.head, *others]).to(backbone.device)
    return branch


def _data(parts: Sequence[_Part], source: Source | None, pad_id: int, sampling: str, settings: Settings, seed: int) -> _Data:
    train, validation = ([item for part in parts for item in part.items[name]] for name in ("train", "validation"))
    # as in the loop: rows of a ranking that are of one length may be of one passage
    lengths = [np.array([0 if part.spec.kind == "ranks" else max(map(len, item.tokens)) for item in part.items["train"]]) for part in parts]
    watched = [settings.metric or names.task(part.spec.task).METRICS[0] for part in parts]
    mixed = partial(order, lengths, settings.batch_size, sampling, seed)
    return _Data(train, validation, source, parts[0].spec, pad_id, loss=_loss, order=mixed, parts=parts, metrics=watched)


def _loss(out: Output, batch: Batch) -> torch.Tensor:
    return names.task(batch.spec.task).loss(out, batch)


def _of(joint: Branch, at: int, part: _Part) -> Branch:
    """The branch of one part: the shared layers under its head."""
    heads: Any = joint.network.head
    return replace(joint, network=joint.network.under(heads.each[at]), spec=part.spec)


def _progress(progress: Progress, part: _Part, settings: Settings) -> Progress:
    """The run as the report of a part shows it; `best` stays that of the mean, so that all parts keep the same seed."""
    metric = settings.metric or names.task(part.spec.task).METRICS[0]
    return replace(progress, history=[{**entry, "metrics": {metric: entry["metrics"][part.name]}} for entry in progress.history])


def _beside(branch: Branch, alone: Branch, items: Mapping[str, Sequence[Item]], source: Source | None) -> Branch:
    """The branch whose report shows the one that was tuned by itself too, and whether they differ on the rows that are measured."""
    report: Any = branch.report
    measured = items["test"] or items["validation"]
    truth, tuned = truth_and_scores(branch.spec, measured, branch.answers(measured, source))
    _, other = truth_and_scores(alone.spec, measured, alone.answers(measured, source))
    wanted = suited(names.task(branch.task).METRICS, branch.spec.kind)
    seconds = next(result["seconds"] for result in alone.report.results if result["name"] == "tuned")  # type: ignore[union-attr]
    row = {"name": "alone", "metrics": bootstrap(wanted, truth, other), "seconds": seconds}
    compared = {"before": "alone", "after": "tuned", **asdict(paired(wanted[0], truth, other, tuned))}
    return replace(
        branch, report=replace(report, results=[*report.results[:-1], row, report.results[-1]], comparisons=[*report.comparisons, compared])
    )
