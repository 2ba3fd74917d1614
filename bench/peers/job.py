"""What the scripts of all contenders share: the job that bench/peers.py hands over, the rows, the clock, the line of results.

A script is started as `python SCRIPT JOB.json`; its last line on stdout is its result. The clock runs from the moment the runner
started the process, so it counts the interpreter and the imports, until the model is saved. Test rows are read after that.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "sentence-transformers", "setfit", "scikit-learn", "tokenizers", "trunkline")


@dataclass
class Job:
    """What to do, and the seconds that each stage took. `options` are the contender's own, as strings; `test` may be missing in `files`."""

    files: dict[str, str]
    model: str
    out: str
    seed: int
    threads: int
    epochs: int
    patience: int
    batch_size: int
    max_tokens: int
    options: dict[str, str]
    started: float
    seconds: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    processor: float = 0.0
    peak: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began

    def rows(self, part: str) -> tuple[list[str], list[str]]:
        """Texts and labels of "train", "validation" or "test"."""
        with Path(self.files[part]).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return [row["text"] for row in rows], [row["label"] for row in rows]

    def saved(self) -> None:
        """Stop the clock: the model is on disk."""
        self.total, self.processor, self.peak = time.monotonic() - self.started, time.process_time(), peak_memory()

    def report(self, *, test: float | None, validation: float | None, epochs: int, steps: int, **more: Any) -> None:
        """Print the line of results: accuracies as shares, epochs and steps as run, and whatever a contender has to say beside."""
        line = {
            "test_accuracy": test,
            "validation_accuracy": validation,
            "seconds": self.total,
            "processor_seconds": self.processor,
            "stages": self.seconds,
            "epochs_run": epochs,
            "steps": steps,
            "peak_bytes": self.peak,
            "versions": _versions(),
            **more,
        }
        print(json.dumps(line), flush=True)


def begin(*options: str) -> Job:
    """The job of this process; call it when everything is imported. options: the names that this contender knows."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    unknown = sorted(set(job.options) - set(options))
    if unknown:
        sys.exit(f"{Path(sys.argv[0]).name}: unknown options {', '.join(unknown)}; known are {', '.join(options) or 'none'}.")
    torch.set_num_threads(job.threads)
    job.seconds["import"] = time.monotonic() - job.started
    return job


def peak_memory() -> int:
    """The most resident memory since this program was loaded, in bytes.

    From VmHWM where there is one: getrusage also counts what the process that started this one had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def accuracy(truth: list[Any], answers: Any) -> float:
    return sum(t == a for t, a in zip(truth, answers)) / len(truth)


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # each contender has its own
    return found
