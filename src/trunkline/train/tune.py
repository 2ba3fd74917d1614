"""The verb `tune`: from rows to a tuned, measured branch. It calls the stages in their order and keeps the time of each.

split -> check -> backbone -> items -> states -> fit (once a seed) -> calibrate -> measure beside baselines -> report
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trunkline import choices, names, storage
from trunkline.branch import Branch, identity, load, restore, savable
from trunkline.data import quality
from trunkline.data.split import Split, in_parts
from trunkline.errors import OptionError
from trunkline.evaluation.kinds.texts import usable
from trunkline.memory import give_back
from trunkline.model.backbone import ALL, AUTO, Backbone, Depth, load_backbone
from trunkline.model.standard import standard, why
from trunkline.progress import Bar, timed
from trunkline.states.collate import Source
from trunkline.states.encode import EncodeReport, encode
from trunkline.states.store import States
from trunkline.train import few, machine, rounding
from trunkline.train.account import Run, account
from trunkline.train.checkpoint import Checkpoints, lock
from trunkline.train.depth import Search
from trunkline.train.fit import Data, Progress, epochs, fit
from trunkline.train.pairs import Reading, search, ways
from trunkline.train.settings import PLAIN, Settings
from trunkline.train.start import solve_head
from trunkline.types import Item, Rows


def tune(
    rows: Rows | Split, model: str | Path | Backbone | None = None, *, method: str = "full", depth: Depth = AUTO, settings: Settings | None = None,
    out: str | Path | None = None, start: str | Path | Branch | None = None, before: Rows | None = None,
) -> Branch:  # fmt: skip
    """A branch tuned on `rows`, with its report; saved in the folder `out` when one is given.

    rows: split here as the settings say, or already split (`trunkline.split`)
    model: a name (`trunkline models`), a folder, a hub id, or a backbone that is loaded; none: "minilm", "e5-small" where the texts are not
        in Latin letters, or for a task that writes "smollm2" or "t5-small" (model/standard.py)
    method: "full", "lora", "adapter", ... (docs/methods.md), with options as in "lora:rank=8:dropout=0.1"
    depth: how many top layers are tuned: 0 (the head alone) to the number of layers, "all" (embeddings too, no stored states), or
        "auto": the smallest that is about as good as the best, by trials on validation rows (depth.py)
    out: also where the run keeps its checkpoints: after a crash the same call goes on from the last one
    start: a branch, or its folder, to go on from: with its model, labels, method and depth
    before: rows that the start was tuned on, so that they are not forgotten: they are trained on with the new ones (none is
        measured on); with the objective "ewc" they say instead which weights matter

    The branch of the seed that is best on the validation rows is the one returned; the report has the test figures of all.
    Raises: OptionError, DataError, ModelError, ArtefactError, TrainingError (see errors.py).
    """
    job = Job(settings or Settings(), Path(out) if out else None)
    if job.out:
        savable(job.out)
    weighing = before is not None and job.settings.objective.startswith("ewc")
    with timed(job.seconds, "read"):
        parts, findings = checked(rows, job.settings, None if weighing else before)
        if lacking := usable(names.task(parts.train.task).METRICS)[1]:
            raise OptionError(" ".join(lacking))  # now, and not at the end when the branch is to be measured
    with timed(job.seconds, "load model"):
        machine.use_threads(job.settings.threads)
        old = begun(start, parts.train.task, method, depth, job.settings) if start is not None else None
        backbone, parts = (old.backbone, parts) if old else opened(model, parts, job.settings)
        job.settings = replace(job.settings, states=number_format(old.states if old else job.settings.states, backbone))
        method, depth = (old.method, old.depth) if old else (method, depth)
        if depth != AUTO:
            backbone.check_depth(depth)
    with timed(job.seconds, "read"):
        readings = _readings(backbone, parts, method, depth, job.settings) if not old else {"": _read(parts, _going_on(old), depth)}
        reading = next(iter(readings.values()))
        earlier = reading.make(depth if old else 0, 0).prepare(before) if before is not None and weighing else []
    about: dict[str, Any] = {
        "rows": [part.fingerprint for part in parts.parts().values()],
        "method": method,
        "depth": depth,
        "backbone": backbone.id,
    }
    about |= {"start": identity(old), "before": before and before.fingerprint} if old else {}
    with job.alone():
        found = None
        if depth == AUTO:
            with timed(job.seconds, "search"):
                found = job.search(backbone, readings, about)
            depth = about["depth"] = found.depth
            if found.pairs:
                reading, about["pairs"] = readings[found.pairs], found.pairs
        make, items = reading.make, reading.items
        if job.settings.branch_precision == "int8":
            rounding.require(make(depth, 0))
        with timed(job.seconds, "encode"):
            source, encoded = stored(backbone, depth, {**items, "before": earlier}, job.settings.states)
        with timed(job.seconds, "tune"):
            fresh = partial(make, depth)
            data = Data(items["train"], items["validation"], source, fresh(0).spec, backbone.tokenizer.pad_id, before=earlier)
            fitted = [found.fitted] if found and found.fitted else []
            fitted += [job.fit(fresh, data, job.settings.seed + number, found, about) for number in range(len(fitted), job.settings.seeds)]
        result = account(Run(parts, findings, items, source, encoded, fitted, job.settings, method, job.seconds, command(), found))
        if job.out:
            result.save(job.out)
            job.forget_checkpoints()
    return result


def begun(start: str | Path | Branch, task: str, method: str, depth: Depth, settings: Settings) -> Branch:
    """The branch to go on from. Raises: OptionError where another task, method or depth was asked for than it has."""
    old = start if isinstance(start, Branch) else load(start, device=machine.device(settings.device))
    asked = {"task": (task, old.task), "method": (choices.split_choice(method)[0], old.method), "depth": (depth, old.depth)}
    for name, (wanted, there) in asked.items():
        if wanted != there and (name, wanted) not in (("method", "full"), ("depth", AUTO)):  # those stand for "nothing was said"
            raise OptionError(
                f"{name}={wanted!r}: start={str(start)!r} is a branch with {name}={there!r}, and is gone on with as it is. Leave {name} out."
            )
    if old.method == "probe" or not old.network.learned():
        raise OptionError(
            f"start={str(start)!r}: only its head was learned, and that is solved anew in seconds. Tune all the rows together."
        )
    return old


def _going_on(old: Branch) -> Callable[[Depth, int], Branch]:
    learned = {name: p.detach().clone() for name, p in old.network.learned().items()}
    fresh = {f.name: f.default for f in fields(old.spec) if f.name == "temperature" and f.metadata.get("learned")}
    spec = replace(old.spec, **fresh)  # calibrated anew

    def make(depth: Depth, seed: int) -> Branch:
        branch = Branch.new(old.backbone, spec, old.method, old.config, depth, old.states)
        restore(branch.network, learned, "start")
        return branch

    return make


def opened(model: str | Path | Backbone | None, parts: Split, settings: Settings) -> tuple[Backbone, Split]:
    """The backbone as the task sees it, of the model, or where none is named of one for the texts; and the parts, with a note where that is not the usual one."""
    kinds = names.task(parts.train.task).TaskSpec.backbones
    if model is None:
        model = standard(kinds[0], parts.train)
        parts = replace(parts, notes=(*parts.notes, *filter(None, [why(model)])))
    return loaded(model, settings).seen_by(kinds), parts


def loaded(model: str | Path | Backbone, settings: Settings) -> Backbone:
    """The backbone on the device and in the number format that the settings say. Raises: OptionError where one that is given is in another."""
    if isinstance(model, Backbone):
        if model.trunk_precision != settings.trunk_precision:
            raise OptionError(
                f"trunk_precision={settings.trunk_precision!r}: the backbone that was given has {model.trunk_precision!r}. "
                "Give the model's name, or the settings of the backbone."
            )
        return model
    return load_backbone(model, device=machine.device(settings.device), trunk_precision=settings.trunk_precision)


def number_format(wanted: str, backbone: Backbone) -> str:
    """The number format of stored states. The states of T5's encoder go past 65,504, the largest number of float16."""
    if wanted != "auto":
        return wanted
    return "float32" if backbone.family.kind == "encoder-decoder" else "float16"


def checked(rows: Rows | Split, settings: Settings, before: Rows | None = None) -> tuple[Split, list[quality.Finding]]:
    """The rows in three parts (those of before with the training rows), and what was noticed. Raises: DataError for what cannot be trained on."""
    parts = in_parts(rows, settings)
    if before is not None:
        note = f"{len(before)} rows of before are trained on too"
        parts = replace(parts, train=replace(parts.train, rows=(*parts.train, *before), notes=(*parts.train.notes, note)))
    findings = quality.check(parts)
    quality.require(findings)
    return parts, findings


def spec_for(backbone: Backbone, train: Rows, task_options: str = "") -> Any:
    """The spec of the rows' task: what it was told, what it learns from the training rows, and what the model can read. Raises: DataError, OptionError."""
    task, told = choices.split_choice(f"{train.task}:{task_options}" if task_options else train.task)
    if backbone.family.kind == "decoder":
        told.setdefault("pooling", "last")  # a decoder's last token is the one that has seen the whole text
    spec: Any = choices.build(names.task(task).TaskSpec, told, f"task {task!r}")
    return replace(spec, **spec.learned_from(train), max_tokens=min(spec.max_tokens, backbone.max_tokens))


def _readings(backbone: Backbone, parts: Split, method: str, depth: Depth, settings: Settings) -> dict[str, Reading]:
    """The rows in each of the ways that come into question: one, or where a depth is searched for pairs both."""
    both = ways(spec_for(backbone, parts.train, settings.task_options), depth, settings)
    return {way: _read(parts, maker(backbone, parts, method, settings, way), 0) for way in both}


def _read(parts: Split, make: Callable[[Depth, int], Branch], depth: Depth) -> Reading:
    return Reading({name: make(depth, 0).prepare(part) for name, part in parts.parts().items()}, make)


def as_read(settings: Settings, spec: Any) -> Settings:
    """The settings with the way of reading pairs that this spec has, for others that are to be compared with it."""
    if not hasattr(spec, "pairs") or "pairs=" in settings.task_options:
        return settings
    return replace(settings, task_options=":".join(filter(None, [settings.task_options, f"pairs={spec.pairs}"])))


def maker(backbone: Backbone, parts: Split, method: str, settings: Settings, pairs: str = "auto") -> Callable[[Depth, int], Branch]:
    """From a depth and a seed to a fresh branch, whose new weights come from that seed and nothing else.

    pairs: how they are read, where the settings leave it open
    """
    name, options = choices.split_choice(method)
    config = choices.build(names.method(name).Config, options, f"method {name!r}")
    spec = spec_for(backbone, parts.train, settings.task_options)
    if getattr(spec, "pairs", None) == "auto" and pairs != "auto":
        spec = replace(spec, pairs=pairs)

    def make(depth: Depth, seed: int) -> Branch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Branch.new(backbone, spec, name, config, depth, settings.states)

    return make


def stored(backbone: Backbone, depth: Depth, items: Mapping[str, Sequence[Item]], dtype: str) -> tuple[Source | None, EncodeReport | None]:
    """The store with the states of all items, filled where it lacks some; nothing at depth "all"."""
    if depth == ALL:
        return None, None
    trunk = backbone.trunk(depth)
    folder = storage.cache_folder() / "states" / f"{trunk.id[:24]}-{dtype}"
    store = States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=dtype)
    tokens = [tokens for part in items.values() for item in part for tokens in item.tokens]
    return store, encode(tokens, trunk, store)


def command() -> str:
    """What was typed, or else what was called, for the report."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if Path(sys.argv[0]).name == "trunkline" else "trunkline.tune(...)"


@dataclass
class Job:
    """What goes on through a call of `tune`: the settings, where to keep things, the seconds of each stage."""

    settings: Settings
    out: Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path | None:
        return self.out.with_name(f"{self.out.name}.checkpoints") if self.out else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other run away from `out` until the branch is saved there; clear away what a killed one left."""
        if not self.checkpoints:
            yield
            return
        with lock(self.checkpoints):
            storage.remove_leftovers(self.checkpoints.parent, self.checkpoints.name)
            yield

    def search(self, backbone: Backbone, readings: dict[str, Reading], about: dict[str, Any]) -> Search:
        """The search for a depth, or what it found before this run was stopped."""
        kept = self.checkpoints / "search.json" if self.checkpoints else None
        about_run, about = about, {k: v for k, v in self._about(about).items() if not k.startswith("machine.")}
        if kept and kept.is_file():
            before = storage.from_json(kept.read_bytes(), str(kept))
            if before["about"] == about:
                return Search.from_json(before["found"])
        elif kept:
            storage.remove_folder(self._of_seed(kept.parent, self.settings.seed))  # of a search that was stopped before it was written down

        def states(depth: Depth, some: list[Item]) -> Source | None:
            return stored(backbone, depth, {"some": some}, self.settings.states)[0]

        found = search(backbone, readings, states, self.settings)
        if kept and kept.is_file():
            found = replace(found, fitted=None)  # checkpoints of other data or settings: `fit` says so
        if kept:
            self._keep(found, kept.parent, about_run | {"depth": found.depth} | ({"pairs": found.pairs} if found.pairs else {}))
            storage.write_file(kept, storage.to_json({"about": about, "found": found.to_json()}))
        if found.fitted:  # the seconds of what is kept are those of tuning
            spent = found.fitted[1].seconds
            self.seconds["tune"], self.seconds["search"] = spent, -spent
        return found

    def _keep(self, found: Search, folder: Path, about: dict[str, Any]) -> None:
        """The run that the search kept, as a last checkpoint, so that after a stop it is gone on from bit for bit."""
        if not found.fitted:
            return
        branch, progress = found.fitted
        weights = {name: p.detach().cpu().contiguous() for name, p in branch.network.learned().items()}
        with Checkpoints(self._of_seed(folder, self.settings.seed), self._about(about), force=self.settings.force) as kept:
            kept.save(progress.step, {"weights": weights, "best": weights, "optimizer": {}}, {"progress": asdict(progress), "losses": []})

    @staticmethod
    def _of_seed(folder: Path, seed: int) -> Path:
        return folder / f"seed-{seed}"

    def fit(
        self, make: Callable[[int], Branch], data: Data, seed: int, found: Search | None, about: dict[str, Any]
    ) -> tuple[Branch, Progress]:  # fmt: skip
        """One run of the loop, with checkpoints where there is a folder, and a bar of its rows."""
        branch = make(seed)
        rate = found.learning_rate if found else self.settings.learning_rate or branch.config.learning_rate
        if found and found.few:
            few.start(branch, data, found.few, self.settings, seed)
        plain = self.settings.objective == PLAIN and "start" not in about
        solved = bool(found and found.few) or (plain and solve_head(branch, data))
        every = epochs(self.settings, len(data.train)) * len(data.train)
        with ExitStack() as stack:
            kept = None
            if self.checkpoints:
                kept = Checkpoints(self._of_seed(self.checkpoints, seed), self._about(about), force=self.settings.force)
                stack.enter_context(kept)
            bar = stack.enter_context(Bar(f"tune (seed {seed})", unit="rows"))

            def show(progress: Progress, steps: int) -> None:
                bar.to(min(progress.step * self.settings.batch_size, every), every, _best(progress))

            progress = fit(
                branch.network, data, self.settings, learning_rate=rate, seed=seed, checkpoints=kept, on_step=show, solved=solved
            )
        give_back()
        return branch, progress

    def _about(self, about: dict[str, Any]) -> dict[str, Any]:
        """What must be the same for a run to go on from a checkpoint, and (as "machine.") what should be."""
        free = ("seeds", "checkpoint_seconds", "force", "threads", "device")
        told = {f"settings.{k}": v for k, v in asdict(self.settings).items() if k not in free}
        here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
        return {**about, **told, **{f"machine.{k}": v for k, v in here.items()}}

    def forget_checkpoints(self) -> None:
        if self.checkpoints:
            storage.remove_folder(self.checkpoints)


def _best(progress: Progress) -> str:
    if not progress.history:
        return ""
    (name, value), *_ = progress.history[-1]["metrics"].items()
    return f"{name} {value:.3f}" + ("" if progress.best is None else f", best {progress.best:.3f}")  # some weights may not be kept
