"""The verb `align`: a branch that writes is taken further towards a goal, from preferences or from rewards."""

from __future__ import annotations

from pathlib import Path

from trunkline import choices, names
from trunkline.alignment.preference import written
from trunkline.alignment.roles import WRITES, begin, fresh
from trunkline.branch import Branch
from trunkline.data.split import Split, in_parts
from trunkline.errors import OptionError
from trunkline.model.backbone import Depth, load_backbone
from trunkline.model.standard import MODELS
from trunkline.train import machine
from trunkline.train.settings import Settings
from trunkline.types import Rows


def align(
    rows: Rows | Split, goal: str = "dpo", *, start: str | Path | Branch | None = None, model: str | Path | None = None,
    method: str = "lora", depth: Depth | None = None, settings: Settings | None = None, out: str | Path | None = None,
    tensorboard: str | Path | None = None,
) -> Branch:  # fmt: skip
    """The branch of the policy, with its report; saved in the folder `out` when one is given, where a stopped run goes on too.

    rows: as `read` gives them for the goal (`reads`), or already split
    goal: "dpo", "kto", ... (docs/align.md), with options as in "dpo:beta=0.2"
    start: a branch of `generate` or `seq2seq`, or its folder; without one a method is grafted on a model, which then is the reference
    model, method, depth: of such a fresh start only; by default a quarter of the model's layers
    tensorboard: a folder for event files, of goals on rewards; the same as their option of this name
    Raises: OptionError, DataError, ModelError, ArtefactError, TrainingError (see errors.py).
    """
    settings = settings or Settings()
    name, options = choices.split_choice(goal)
    if tensorboard is not None:
        options = _watched(name, options, str(tensorboard))
    module = names.goal(name)
    config = choices.build(module.Config, options, f"goal {name!r}")
    parts = in_parts(rows, settings)
    if parts.train.task != module.READS:
        raise OptionError(f"goal={name!r}: reads rows of task {module.READS!r}, and these were read for {parts.train.task!r}.")
    machine.use_threads(settings.threads)
    device = machine.device(settings.device)
    if start is not None:
        if model is not None or depth is not None:
            raise OptionError(f"start={str(start)!r}: is gone on from as it is, with its model and depth. Leave model and depth out.")
        begun = begin(start, device=device)
    else:
        backbone = load_backbone(model or MODELS["decoder"], device=device, trunk_precision=settings.trunk_precision)
        task = next((one for one in WRITES if backbone.family.kind in names.task(one).TaskSpec.backbones), WRITES[0])
        begun = fresh(backbone, written(parts.train, task), method, depth, settings.states, settings.task_options)
    branch: Branch = module.align(begun, parts, config, settings, Path(out) if out else None)
    return branch


def _watched(goal: str, options: dict[str, str], folder: str) -> dict[str, str]:
    if "tensorboard" not in {field.name for field in choices.settable(names.goal(goal).Config)}:
        raise OptionError(
            f"tensorboard={folder!r}: goal={goal!r} learns from rows, step by step as `tune` does, and writes no events. Leave it out."
        )
    if options.get("tensorboard", folder) != folder:
        raise OptionError(f"tensorboard={folder!r}: the goal names {options['tensorboard']!r}. Name one folder.")
    return {**options, "tensorboard": folder}


def reads(goal: str) -> str:
    """The task that rows are read for, by the goal's name or choice."""
    return str(names.goal(choices.split_choice(goal)[0]).READS)
