"""The verb `tune`: from rows to a tuned, measured branch. It calls the stages in their order and keeps the time of each.

split -> check -> backbone -> items -> states -> fit (once a seed) -> calibrate -> measure beside baselines -> report
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from trunkline import choices, names, storage
from trunkline.branch import Branch
from trunkline.data import quality
from trunkline.data.split import Split, split
from trunkline.model.backbone import ALL, Backbone, Depth, load_backbone
from trunkline.progress import Bar
from trunkline.states.collate import Source
from trunkline.states.encode import EncodeReport, encode
from trunkline.states.store import States
from trunkline.train import machine
from trunkline.train.account import Run, account
from trunkline.train.checkpoint import Checkpoints
from trunkline.train.fit import Data, Progress, epochs, fit
from trunkline.train.settings import Settings
from trunkline.types import Item, Rows


def tune(
    rows: Rows | Split, model: str | Path = "minilm", *, method: str = "full", depth: Depth = 2, settings: Settings | None = None,
    out: str | Path | None = None,
) -> Branch:  # fmt: skip
    """A branch tuned on `rows`, with its report; saved in the folder `out` when one is given.

    rows: split here as the settings say, or already split (`trunkline.split`)
    model: a name (`trunkline models`), a folder, or a hub id
    method: "full", "lora", "bitfit" or "probe", with options as in "lora:rank=8:dropout=0.1"
    depth: how many top layers are tuned: 0 (the head alone) to the number of layers, or "all" (embeddings too, no stored states)
    out: also where the run keeps its checkpoints: after a crash the same call goes on from the last one

    The branch of the seed that is best on the validation rows is the one returned; the report has the test figures of all.
    Raises: OptionError, DataError, ModelError, ArtefactError, TrainingError (see errors.py).
    """
    settings = settings or Settings()
    job = _Job(settings, Path(out) if out else None)
    with job.timed("read"):
        parts = (
            rows
            if isinstance(rows, Split)
            else split(rows, validation=settings.validation, test=settings.test, by=settings.split, seed=settings.seed)
        )
        findings = quality.check(parts)
        quality.require(findings)
    task_options = choices.split_choice(f"{parts.train.task}:{settings.task_options}" if settings.task_options else parts.train.task)[1]
    method_name, method_options = choices.split_choice(method)
    config = choices.build(names.method(method_name).Config, method_options, f"method {method_name!r}")
    task = names.task(parts.train.task)
    spec = choices.build(task.TaskSpec, task_options, f"task {parts.train.task!r}")
    where = machine.device(settings.device)
    machine.use_threads(settings.threads)
    with job.timed("load model"):
        backbone = load_backbone(model, device=where)
        backbone.check_depth(depth)
    spec = replace(
        spec,
        **spec.learned_from(parts.train),
        max_tokens=min(spec.max_tokens, backbone.max_tokens),
        **_pooling(spec, task_options, backbone),
    )
    make = lambda seed: _seeded(seed, lambda: Branch.new(backbone, spec, method_name, config, depth, settings.states))  # noqa: E731
    with job.timed("read"):
        items = {name: make(0).prepare(part) for name, part in parts.parts().items()}
    with job.timed("encode"):
        source, encoded = _states(backbone, depth, items, settings.states)
    data = Data(items["train"], items["validation"], source, spec, backbone.tokenizer.pad_id)
    with job.timed("tune"):
        fitted = [
            job.fit(make, data, config, settings.seed + number, {"rows": parts, "method": method, "depth": depth, "backbone": backbone})
            for number in range(settings.seeds)
        ]
    result = account(Run(parts, findings, items, source, encoded, fitted, settings, method, job.seconds, _command()))
    if job.out:
        result.save(job.out)
        job.forget_checkpoints()
    return result


def _pooling(spec: Any, told: dict[str, str], backbone: Backbone) -> dict[str, str]:
    """A decoder's last token has seen the whole text; where the user says nothing, that is what is pooled."""
    return {} if "pooling" in told or backbone.family.kind != "decoder" else {"pooling": "last"}


def _seeded(seed: int, make: Callable[[], Branch]) -> Branch:
    """A fresh branch whose new weights come from `seed` and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _states(backbone: Backbone, depth: Depth, items: dict[str, list[Item]], dtype: str) -> tuple[Source | None, EncodeReport | None]:
    """The store with the states of all items, filled where it lacks some; nothing at depth "all"."""
    if depth == ALL:
        return None, None
    trunk = backbone.trunk(depth)
    folder = storage.cache_folder() / "states" / f"{trunk.id[:24]}-{dtype}"
    store = States.open(folder, trunk_id=trunk.id, width=trunk.width, dtype=dtype)
    tokens = [tokens for part in items.values() for item in part for tokens in item.tokens]
    return store, encode(tokens, trunk, store)


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if Path(sys.argv[0]).name == "trunkline" else "trunkline.tune(...)"


@dataclass
class _Job:
    """What goes on through a call of `tune`: the settings, where to keep things, the seconds of each stage."""

    settings: Settings
    out: Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started

    @property
    def checkpoints(self) -> Path | None:
        return self.out.with_name(f"{self.out.name}.checkpoints") if self.out else None

    def fit(self, make: Callable[[int], Branch], data: Data, config: Any, seed: int, about: dict[str, Any]) -> tuple[Branch, Progress]:
        """One run of the loop, with checkpoints where there is a folder, and a bar of its steps."""
        branch = make(seed)
        rate = self.settings.learning_rate or config.learning_rate
        with ExitStack() as stack:
            folder = self.checkpoints
            kept = (
                stack.enter_context(Checkpoints(folder / f"seed-{seed}", self._about(about), force=self.settings.force)) if folder else None
            )
            bar = stack.enter_context(Bar(f"tune (seed {seed})", unit="rows"))
            seen = epochs(self.settings, len(data.train)) * len(data.train)

            def show(progress: Progress, steps: int) -> None:
                bar.to(min(progress.step * self.settings.batch_size, seen), seen, _best(progress))

            progress = fit(branch.network, data, self.settings, learning_rate=rate, seed=seed, checkpoints=kept, on_step=show)
        return branch, progress

    def _about(self, about: dict[str, Any]) -> dict[str, Any]:
        """What must be the same for a run to go on from a checkpoint, and (as "machine.") what should be."""
        told = {
            f"settings.{k}": v
            for k, v in asdict(self.settings).items()
            if k not in ("seeds", "checkpoint_seconds", "force", "threads", "device")
        }
        rows = json.dumps([part.fingerprint for part in about["rows"].parts().values()])
        here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}
        return {
            **told,
            "rows": hashlib.sha256(rows.encode()).hexdigest(),
            "method": about["method"],
            "depth": about["depth"],
            "backbone": about["backbone"].id,
            **{f"machine.{k}": v for k, v in here.items()},
        }

    def forget_checkpoints(self) -> None:
        if self.checkpoints:
            storage.remove_folder(self.checkpoints)


def _best(progress: Progress) -> str:
    if not progress.history:
        return ""
    (name, value), *_ = progress.history[-1]["metrics"].items()
    return f"{name} {value:.3f}, best {progress.best:.3f}"
