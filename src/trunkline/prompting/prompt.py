"""The verb `prompt`: answers without any training, measured on the same rows, by the same metrics and in the same report as a tuned branch.

split -> template -> demonstrations -> (search on validation rows) -> score -> measure beside baselines -> report
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import names, storage
from trunkline.choices import duration, one_of
from trunkline.data.split import Split, in_parts
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.wording import language_of
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.model.standard import MODELS, standard
from trunkline.progress import timed
from trunkline.prompting.account import Run, account, truth_of
from trunkline.prompting.extract import ByExtraction, ByServerExtraction
from trunkline.prompting.likelihood import Likelihood
from trunkline.prompting.prompted import Prompted
from trunkline.prompting.prompts import with_labels
from trunkline.prompting.scorers import ByCloze, ByLikelihood, BySimilarity
from trunkline.prompting.search import race
from trunkline.prompting.server import ByServer, Server
from trunkline.prompting.settings import CALIBRATIONS, TASKS, PromptSettings
from trunkline.prompting.shots import Neighbours, Shots
from trunkline.prompting.template import Template, default_template, read_template
from trunkline.states.store import States
from trunkline.train import machine
from trunkline.types import Rows


def prompt(
    rows: Rows | Split,
    model: str | Path | None = None,
    *,
    template: Any = None,
    shots: int | Sequence[int] = 0,
    pick: str | Sequence[str] = "nearest",
    calibrate: str | Sequence[str] = "none",
    settings: PromptSettings | None = None,
) -> Prompted:
    """A model with a prompt, and its report: answers to the test rows, without any training.

    One parameter more than usual: template, shots, pick and calibrate are what prompts differ by. Several values of one make a search:
    every combination is tried on the validation rows within `settings.budget`, and the best one is measured.

    rows: split here as the settings say, or already split; demonstrations come from the training rows
    model: a name, a folder or a hub id; with `settings.server` the model's name there; none: "smollm2"
    template: a Template or the path of one; none: made from the names of the labels, or of the types of entities (task "tag")
    shots: how many demonstrations; pick: "fixed", "random", "nearest" or "diverse"; calibrate: "none", "contextual" or "pmi"
    Raises: OptionError, DataError, ModelError (see errors.py).
    """
    settings = settings or PromptSettings()
    parts = _parts(rows, settings)
    wanted = _combinations(*map(_several, (template, shots, pick, calibrate)))
    labels = _types(parts)
    job = _Job(settings, parts, _spec(parts), labels)
    with timed(job.seconds, "load model"):
        machine.use_threads(settings.threads)
        job.open(str(model or MODELS["decoder"]))
    candidates = [job.prompted(*one) for one in wanted]
    with timed(job.seconds, "search"):
        chosen = job.choose(candidates) if len(candidates) > 1 else candidates[0]
    return replace(chosen, report=account(Run(chosen, parts, settings, job.backbone, job.seconds)))


@dataclass
class _Job:
    """What goes on through a call of `prompt`: the model is loaded once for all candidates."""

    settings: PromptSettings
    parts: Split
    spec: Any
    labels: Sequence[str]
    name: str = ""
    backbone: Backbone | None = None
    server: Server | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _neighbours: Neighbours | None = None
    _engine: Likelihood | None = None

    def open(self, name: str) -> None:
        """The model here, or the server that has it."""
        self.name = name
        if self.settings.server:
            self.server = Server(self.settings.server, name, self.settings, storage.cache_folder() / "answers")
        else:
            self.backbone = load_backbone(name, device=machine.device(self.settings.device))

    def prompted(self, template: Any, count: int, pick: str, calibrate: str) -> Prompted:
        """The model with one prompt."""
        told, train = self._template(template), self.parts.train
        vectors = self._vectors() if count and pick in ("nearest", "diverse") else None
        balance = False if self.spec.task == "tag" else self.settings.balance
        shots = Shots(train, count, pick, balance=balance, seed=self.settings.seed, vectors=vectors)
        return Prompted(self.name, self.spec, told, shots, calibrate, self._scorer(told, calibrate))

    def choose(self, candidates: list[Prompted]) -> Prompted:
        """The candidate that is best on the validation rows, in an order that the seed decides."""
        rows = list(self.parts.validation)
        rows = [rows[i] for i in np.random.default_rng(self.settings.seed).permutation(len(rows))]
        runs = [(one.what, one.scores) for one in candidates]
        metric, seconds = ("entity_f1" if self.spec.task == "tag" else "accuracy"), duration("budget", self.settings.budget)
        best, trials = race(runs, rows, truth_of(rows, self.spec), metric=metric, seconds=seconds)
        return replace(candidates[best], trials=trials)

    def _vectors(self) -> Neighbours:
        if self._neighbours is None:
            near = self.settings.neighbours
            own = self.backbone if near in (None, self.name) else None
            self._neighbours = Neighbours(own or load_backbone(near or standard("encoder", self.parts.train)), _stored)
        return self._neighbours

    def _template(self, template: Any) -> Template:
        some = self.parts.test[:20]
        paired = any(row.get("text_b") for row in some)
        language = language_of(" ".join([*self.labels, *(row["text"] for row in some)]))
        plain = default_template(self.labels, paired=paired, language=language, task=self.spec.task)
        found = plain if template is None else template if isinstance(template, Template) else read_template(template)
        if found.paired != paired:
            has, have = ("has", "have no second text") if found.paired else ("has no", "have a second text")
            raise OptionError(f"template {found.name!r}: its form {has} {{text_b}}, and the rows {have}. Change the form.")
        return with_labels(found if found.labels else replace(found, labels=plain.labels), self.labels)

    def _scorer(self, template: Template, calibrate: str) -> Any:
        if self.spec.task == "tag":
            return self._extractor(template, calibrate)
        if self.backbone is None:
            return ByServer(self._asked(), template, calibrate)
        kind, by = self.backbone.family.kind, self.settings.by
        if by == "similarity" or (by == "auto" and kind == "encoder"):
            return BySimilarity(self.backbone, template, calibrate, self.settings)
        if by == "cloze":
            return ByCloze(self.backbone, template, calibrate, self.settings)
        self._engine = self._engine or Likelihood(self.backbone, self.settings.reuse)
        return ByLikelihood(self._engine, template, calibrate, self.settings)

    def _extractor(self, template: Template, calibrate: str) -> Any:
        for name, told, only in (
            ("calibrate", calibrate, "none"),
            ("by", self.settings.by, "auto"),
            ("balance", self.settings.balance, None),
        ):
            if told != only:
                raise OptionError(
                    f"{name}={told!r}: entities are written, and no label is scored or counted. Leave it out with the task tag."
                )
        if self.backbone is None:
            return ByServerExtraction(self._asked(), template)
        return ByExtraction(self.backbone, template, self.settings)

    def _asked(self) -> Server:
        if self.settings.by != "auto":
            raise OptionError(f"by={self.settings.by!r}: a server writes its answer, and nothing is scored here. Use 'auto'.")
        if self.server is None:
            raise ValueError("no model is open")
        return self.server


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _combinations(templates: Sequence[Any], shots: Sequence[Any], picks: Sequence[Any], calibrations: Sequence[Any]) -> list[Any]:
    """Every combination once; without demonstrations there is nothing to pick. Raises: OptionError for an unknown calibration."""
    for name in calibrations:
        one_of("calibrate", name, CALIBRATIONS)
    found: list[Any] = []
    for template, count, pick, how in itertools.product(templates, shots, picks, calibrations):
        one = (template, count, pick if count else picks[0], how)
        found += [one] if one not in found else []
    return found


def _parts(rows: Rows | Split, settings: PromptSettings) -> Split:
    """The rows in three parts. Raises: DataError where there is nothing to measure on, OptionError for another task."""
    task = rows.test.task if isinstance(rows, Split) else rows.task
    if task not in TASKS:
        raise OptionError(f"task={task!r}: a prompt gives one label of a list, or entities. Use classify or tag.")
    every = [row for part in rows.parts().values() for row in part] if isinstance(rows, Split) else list(rows)
    if task == "classify" and any(not isinstance(row.get("label"), str) for row in every):
        raise DataError("a row has no label, or several, and a prompt gives one. Leave such rows out.")
    if task == "tag" and any(row.get("label") is None for row in every):
        raise DataError("a row does not say which entities it has. Give an empty list where there are none, or leave it out.")
    parts = in_parts(rows, settings)
    if not len(parts.test):
        raise DataError(f"{parts.test.source}: no test rows to measure on. Give some.")
    return parts


def _types(parts: Split) -> list[str]:
    """The labels, or types of entities, of all parts, since a prompt learns nothing from the rows of any. Raises: DataError for too few."""
    rows = [row for part in parts.parts().values() for row in part]
    if parts.test.task == "tag":
        found = sorted({kind for row in rows for _, _, kind in row["label"]})
        if not found:
            raise DataError(f"{parts.test.source}: none of the {len(rows):,} rows has an entity. There is nothing to look for.")
        return found
    found = sorted({row["label"] for row in rows})
    if len(found) < 2:
        raise DataError(f"{parts.test.source}: the rows have {len(found)} label(s). A prompt chooses among two or more.")
    return found


def _spec(parts: Split) -> Any:
    """What the task knows: its labels, or tags."""
    spec = names.task(parts.test.task).TaskSpec()
    if spec.task == "tag":
        every = replace(parts.test, rows=tuple(row for part in parts.parts().values() for row in part))
        return replace(spec, **spec.learned_from(every))
    return replace(spec, labels=tuple(_types(parts)))


def _stored(trunk_id: str, width: int) -> States:
    """The store that `tune` fills: what it holds already costs no pass."""
    folder = storage.cache_folder() / "states" / f"{trunk_id[:24]}-float16"
    return States.open(folder, trunk_id=trunk_id, width=width, dtype="float16")
