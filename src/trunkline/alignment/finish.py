"""A run of learning from rewards from prompts and folders of judges to a saved branch with its report and history."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.alignment.experience import Goal, Learned, Settings
from trunkline.alignment.history import Events, write
from trunkline.alignment.online import learn
from trunkline.alignment.rewards import Part
from trunkline.branch import Branch, identity, load, savable
from trunkline.choices import convert
from trunkline.data.split import Split
from trunkline.errors import OptionError
from trunkline.evaluation.report import Report
from trunkline.progress import Bar
from trunkline.train import settings as training
from trunkline.train.checkpoint import Checkpoints

_OF_TUNING = ("epochs", "batch_size", "accumulate", "learning_rate", "head_learning_rate", "optimizer", "weight_decay", "schedule", "warmup", "clip",
              "patience", "objective", "metric", "evaluate_every", "dropout", "seeds", "precision", "budget")  # fmt: skip


def align(goal: Goal, start: Branch, parts: Split, config: Settings, settings: training.Settings, out: Path | None) -> Branch:
    """The policy's branch, from prompts (the training rows), with judges from folders; with `out` saved there, and its history beside it.

    Raises: OptionError without a judge, or for a setting that is of no use here; as `learn` and `branch.load`.
    """
    if not config.reward:
        raise OptionError(
            f"goal={goal.name!r}: what is rewarded? Give a branch that judges, as in {goal.name}:reward=runs/kind (docs/ppo.md)."
        )
    config = settled(goal.name, config, settings)
    judges = judges_of(config.reward, config.label, start)
    out = savable(out) if out else None
    folder = out.with_name(f"{out.name}.checkpoints") if out else None
    told = {name: value for name, value in asdict(config).items() if name not in ("checkpoint_seconds", "tensorboard")}
    about = {"goal": goal.name, "config": told, "rows": parts.train.fingerprint, "start": identity(start)}
    with ExitStack() as stack:
        kept = stack.enter_context(Checkpoints(folder, about, force=settings.force)) if folder else None
        bar = stack.enter_context(Bar(f"align ({goal.name})", unit="steps"))

        events = stack.enter_context(Events(config.tensorboard))

        def show(entry: dict[str, Any]) -> None:
            events.add(entry)
            bar.to(entry["step"], config.steps, f"reward {entry['reward']:.3g}, KL {entry['kl']:.3g}")

        found = learn(start, list(parts.train), judges, goal, config, checkpoints=kept, on_step=show)
    policy = finished(goal, found, parts, config, out)
    if folder:
        storage.remove_folder(folder)
    return policy


def settled(name: str, config: Any, settings: training.Settings) -> Any:
    """The goal's options with what it takes from the settings of the run.

    Raises: OptionError for a setting that was changed and that learning from rewards has no use for.
    """
    for setting in _OF_TUNING:
        value = getattr(settings, setting)
        if value != getattr(training.Settings, setting):
            raise OptionError(
                f"{setting}={value}: is for learning from rows, and goal {name!r} learns from rewards by options of its own, as in "
                f"{name}:learning_rate=1e-4 (docs/ppo.md). Leave {setting} out."
            )
    return replace(config, seed=settings.seed, checkpoint_seconds=settings.checkpoint_seconds)


def finished(goal: Goal, found: Learned, parts: Split, config: Settings, out: Path | None) -> Branch:
    """The policy with its report; with `out` saved there, its history beside it in `out`.history."""
    policy = replace(found.policy, report=_report(goal, found, parts, config))
    if out:
        policy.save(savable(out))
        write(found.history, found.stopped, out.with_name(f"{out.name}.history"))
    return policy


def judges_of(told: str, label: str | None, start: Branch) -> dict[str, Part]:
    """The judges that an option names, by folder; each on the start's own backbone where it is the same one, so that it is there once.

    Raises: OptionError for a weight that is no number; as `branch.load`.
    """
    found = {}
    for one in told.split("+"):
        folder, star, weight = one.rpartition("*")
        folder, weight = (folder, weight) if star else (one, "1")
        branch = load(folder, device=start.backbone.device)
        if branch.backbone.id == start.backbone.id:
            branch = replace(branch, backbone=start.backbone)
        labelled = label if branch.task == "classify" and label in branch.spec.labels else None
        found[folder] = Part(branch, convert(weight, float, f"reward {one!r}: weight"), labelled)
    return found


def _report(goal: Goal, found: Learned, parts: Split, config: Settings) -> Report:
    """What the branch says of itself; the figures of each step are in the history."""
    data: dict[str, Any] = {"source": parts.train.source, "rows": {"train": len(parts.train)}}
    if not found.history:  # a rule of IFT may end it before the first step
        data["notes"] = [f"{goal.name}: no step was taken"] + ([found.stopped] if found.stopped else [])
        return Report(found.policy.task, data=data, settings=asdict(config), seeds=[config.seed])
    first, last = found.history[0], found.history[-1]
    notes = [f"{goal.name}: reward {first['reward']:.3g} -> {last['reward']:.3g}, KL {last['kl']:.3g} nats an answer, "
             f"entropy {first['entropy']:.3g} -> {last['entropy']:.3g}, {last['length']:.3g} tokens an answer, after {last['step']} updates"]  # fmt: skip
    samples = [{"text": one["prompt"], "label": "", "before": "", "predicted": one["answer"]} for one in last["samples"]]
    data["notes"] = notes + ([found.stopped] if found.stopped else [])
    return Report(found.policy.task, data=data, samples=samples, settings=asdict(config), seeds=[config.seed])
