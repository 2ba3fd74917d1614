"""Everything that `tune` can be told, each with its default: the flags, the keys of an option file and the docs come from here.

Light on purpose: `trunkline tune --help` reads it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trunkline.choices import between, duration, one_of
from trunkline.errors import OptionError

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
SCHEDULES = ("linear", "cosine", "constant", "plateau")
STATES = ("auto", "float16", "float32", "int8")
PRECISIONS = ("auto", "float32", "bfloat16")
TRUNK_PRECISIONS = ("float32", "bfloat16", "int8", "nf4")
BRANCH_PRECISIONS = ("auto", "float32", "int8")
SPLITS = ("auto", "label", "group", "time", "given")
PLAIN = "plain"


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """How to tune. Shares are of all rows; "auto" is resolved for the data at hand and said in the report."""

    epochs: int | None = _say(None, "passes over the training rows; none: as many as make about 2,000 steps, 3 to 12")
    batch_size: int = _say(32, "rows a step")
    accumulate: int | None = _say(
        None,
        "parts a step is computed in, to save memory; the result is the same; none: as many as keep a part below 2,048 tokens (GPU: 65,536)",
    )
    learning_rate: float | None = _say(None, "at the top of the schedule; none: what the method suggests")
    head_learning_rate: float | None = _say(
        None, "of the new head; none: 5 times the layers', at least 0.005, and more where the states that it reads vary little"
    )
    optimizer: str = _say("adamw", f"one of {', '.join(OPTIMIZERS)}")
    weight_decay: float = _say(0.01, "decoupled for adamw, L2 for the others; not on biases and norms")
    schedule: str = _say("linear", f"after the warm-up: one of {', '.join(SCHEDULES)}")
    warmup: float = _say(0.06, "share of the steps in which the learning rate rises from zero")
    clip: float | None = _say(1.0, "largest norm of the gradient; none: no limit")
    patience: int | None = _say(4, "stop after so many evaluations without gain; none: never")
    objective: str = _say(PLAIN, "what a step minimises: plain, rdrop, mixup, contrast, distil or ewc, with options as in rdrop:alpha=1")
    metric: str | None = _say(None, "what early stopping watches; none: the task's first")
    evaluate_every: int | None = _say(None, "steps between evaluations; none: an epoch")
    dropout: float | None = _say(None, "in the branch's layers; none: as the model was pre-trained")
    seed: int = _say(0, "the same seed gives the same bytes")
    seeds: int = _say(1, "tune so many times with other seeds on the same states, and report the spread")
    validation: float = _say(0.1, "share of rows to choose by")
    test: float = _say(0.2, "share of rows to measure on")
    split: str = _say("auto", f"how rows are divided: one of {', '.join(SPLITS)}; auto: by group where rows have one, else by label")
    states: str = _say(
        "auto",
        f"number format of the stored states: one of {', '.join(STATES)}; auto: float16, but float32 for T5 and kin, whose states are too large",
    )
    trunk_precision: str = _say("float32", f"what the trunk computes in, when tuning and ever after: one of {', '.join(TRUNK_PRECISIONS)}")
    task_options: str = _say("", "options of the task, as option=value:option=value")
    branch_precision: str = _say(
        "auto",
        f"what the tuned layers answer in: one of {', '.join(BRANCH_PRECISIONS)}; auto: int8 on a trunk in int8, where the answers to validation rows stay",
    )
    precision: str = _say(
        "auto", "matrix products in training: one of auto, float32, bfloat16; auto: bfloat16 where the machine multiplies it faster"
    )
    budget: str = _say("2m", "time that --depth auto may take to search, as 90s, 5m or 1h")
    device: str = _say("auto", "cpu, cuda, mps, or auto")
    threads: int = _say(0, "processor threads; 0: one for each physical core")
    checkpoint_seconds: float = _say(60.0, "seconds between checkpoints while tuning with --out")
    force: bool = _say(False, "go on from a checkpoint although the data or the options changed")

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("states", self.states, STATES)
        one_of("split", self.split, SPLITS)
        one_of("precision", self.precision, PRECISIONS)
        one_of("trunk_precision", self.trunk_precision, TRUNK_PRECISIONS)
        one_of("branch_precision", self.branch_precision, BRANCH_PRECISIONS)
        duration("budget", self.budget)
        for name, low, high in (("batch_size", 1, 4096), ("warmup", 0, 0.9), ("weight_decay", 0, 10), ("seeds", 1, 100),
                                ("validation", 0.01, 0.5), ("test", 0.0, 0.8), ("seed", 0, 2**31), ("threads", 0, 1024),
                                ("checkpoint_seconds", 0, 86400)):  # fmt: skip
            between(name, getattr(self, name), low, high)
        for name, low, high in (("epochs", 1, 10000), ("learning_rate", 1e-9, 10), ("head_learning_rate", 1e-9, 10), ("clip", 1e-6, 1e6),
                                ("accumulate", 1, 4096), ("patience", 1, 1000), ("evaluate_every", 1, 10**9), ("dropout", 0.0, 0.9)):  # fmt: skip
            if getattr(self, name) is not None:
                between(name, getattr(self, name), low, high)
        if self.accumulate is not None and self.accumulate > self.batch_size:
            raise OptionError(f"accumulate={self.accumulate}: a step of {self.batch_size} rows has no more parts than rows.")
