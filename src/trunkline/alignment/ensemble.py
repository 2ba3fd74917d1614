"""Several reward branches, tuned with other seeds on the same states: their mean is steadier, and where they differ none of them knows.

Rewards of a branch are known but for a constant, so the members should be tuned with `center` above 0, which takes it away: only then do they
differ over single answers for no other reason than that they disagree. Over pairs they can be compared in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import branch as branches
from trunkline.branch import Branch
from trunkline.data.split import Split, in_parts
from trunkline.errors import ArtefactError, OptionError
from trunkline.evaluation.metrics import compute
from trunkline.train.settings import Settings
from trunkline.train.tune import as_read, tune
from trunkline.types import Row, Rows


@dataclass(frozen=True)
class Ensemble:
    """Members on one trunk, so a text goes through it once for all."""

    members: tuple[Branch, ...]

    def __post_init__(self) -> None:
        odd = [branch for branch in self.members if branch.task != "reward"]
        if len(self.members) < 2 or odd:
            raise OptionError(
                f"an ensemble of {len(self.members)} branches{f', one of task {odd[0].task!r}' if odd else ''}: give at least two of 'reward'."
            )

    def rewards(self, rows: Sequence[Any]) -> np.ndarray:
        """(members, N): what each says of prompts with answers; of rows with a worse answer too, the margin between the two."""
        first = self.members[0]
        items = first.prepare([row if isinstance(row, dict) else {"text": row[0], "text_b": row[1]} for row in rows])
        plain, source = [replace(item, target=None) for item in items], first.source()
        return np.array([[answer.scores for answer in member.answers(plain, source)] for member in self.members])

    def predict(self, rows: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """(N,) mean and (N,) disagreement, the standard deviation over the members, of prompts with answers or of pairs."""
        found = self.rewards(rows)
        return found.mean(axis=0), found.std(axis=0, ddof=1)

    def accuracy(self, rows: Rows) -> tuple[float, list[float]]:
        """The pair accuracy of the mean, and of each member alone."""
        found, none = self.rewards(rows), [0] * len(rows)
        each = [compute(["pair_accuracy"], none, one)["pair_accuracy"] for one in found]
        return compute(["pair_accuracy"], none, found.mean(axis=0))["pair_accuracy"], each

    def cautious(self, weight: float = 1.0) -> Callable[[Sequence[Row], Sequence[str]], list[float]]:
        """A reward for `rejection` and PPO that trusts answers less the more the members disagree about them: mean - weight times deviation.

        Source: Coste et al. 2024 (Reward model ensembles help mitigate overoptimization), equation 4 with the deviation for the variance.
        """

        def judged(rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
            mean, apart = self.predict(
                [{k: v for k, v in row.items() if k != "rejected"} | {"text_b": a or " "} for row, a in zip(rows, answers)]
            )
            return list(map(float, mean - weight * apart))

        return judged

    def save(self, folder: str | Path) -> Path:
        """Write each member into a folder of its own."""
        for at, member in enumerate(self.members):
            member.save(Path(folder) / f"member-{at}")
        return Path(folder)


def tune_ensemble(
    rows: Rows | Split, model: str | Path | None = None, *, members: int = 3, method: str = "full", depth: Any = "auto",
    settings: Settings | None = None, out: str | Path | None = None,
) -> Ensemble:  # fmt: skip
    """As many branches with seeds of their own, on one split and one set of states. Of `depth` "auto" the first member finds it for all."""
    settings = settings or Settings()
    parts = in_parts(rows, settings)
    made: list[Branch] = []
    for at in range(members):
        place = Path(out) / f"member-{at}" if out else None
        told = replace(as_read(settings, made[0].spec) if made else settings, seed=settings.seed + at)
        given, at_depth = (made[0].backbone, made[0].depth) if made else (model, depth)
        made.append(tune(parts, given, method=method, depth=at_depth, settings=told, out=place))
    return Ensemble(tuple(made))


def load(folder: str | Path, *, device: str = "cpu") -> Ensemble:
    """The members in a folder, over one backbone. Raises: ArtefactError where there are none; as `branch.load`."""
    places = sorted(Path(folder).glob("member-*"), key=lambda place: int(place.name.rpartition("-")[2]))
    if not places:
        raise ArtefactError(f"{folder}: holds no member-0, member-1, ... Tune an ensemble with tune_ensemble(..., out=FOLDER).")
    first = branches.load(places[0], device=device)
    return Ensemble((first, *(branches.load(place, model=first.backbone, device=device) for place in places[1:])))
