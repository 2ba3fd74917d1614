"""Bounds in a branch's folder: what lies elsewhere is outside, what belongs seldom is, the file holds no text's states, and wrong uses are refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.serving.samples import branch as sample
from tests.serving.samples import load_backbone
from trunkline import branch as branches
from trunkline import storage
from trunkline.commands.branches import commands
from trunkline.errors import ArtefactError, OptionError
from trunkline.quality import bounds
from trunkline.quality.scope import Scope
from trunkline.types import Rows

LABELS = {"refund": "refund the money", "card": "my card has not arrived"}


def rows(count: int) -> Rows:
    chosen = random.Random(count)
    words = ["please", "where", "is", "when", "can", "you", "help", "me", "i", "want"]
    made = [(label, f"{LABELS[label]} {' '.join(chosen.sample(words, 4))}") for label in ("refund", "card") * (count // 2)]
    return Rows(tuple({"text": text, "label": label, "id": str(at)} for at, (label, text) in enumerate(made)), "classify", "made.csv")


INSIDE, OUTSIDE = (
    [row["text"] for row in rows(60)],
    ["was was was was was", "package package damaged damaged", "password order order password cancel"],
)


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = sample(load_backbone(tiny_folder("bert")), depth=1, seed=1).save(tmp_path_factory.mktemp("bounds") / "intent")
    bounds.bound(made, rows(400))
    return made


def vectors(folder: Path, texts: list[str]) -> np.ndarray:
    branch = branches.load(folder)
    source = branch.source()
    assert source is not None
    return np.stack([one.mean(0) for one in source.read([item.tokens[0] for item in branch.prepare([{"text": text} for text in texts])])])


def test_what_lies_elsewhere_is_outside(folder: Path) -> None:
    found = bounds.of(folder)
    assert found is not None
    assert (found.distances(vectors(folder, INSIDE)) > 1).mean() <= 0.15
    assert (found.distances(vectors(folder, OUTSIDE)) > 1).all()


def test_the_distances_are_those_of_scope(folder: Path) -> None:
    """By the same rows given to `Scope` itself: its scores, and its threshold at 1."""
    parts, branch = bounds.split(rows(400)), branches.load(folder)
    given = {name: bounds._vectors(branch, part) for name, part in parts.parts().items()}
    scope = Scope.fit(*given["train"], len(branch.spec.labels), given["validation"][0])
    made = bounds.Bounds.of(scope, 0.05)
    tested = vectors(folder, [*INSIDE, *OUTSIDE])
    away = (scope.scores(tested, "distance") - scope.threshold(0.05, "distance")) / scope.known["distance"].std()
    assert np.log(made.distances(tested)) == pytest.approx(np.clip(away, -20, 20))
    assert ((made.distances(tested) > 1) == scope.outside(tested, 0.05, "distance")).all()


def test_the_branch_is_the_same_and_no_state_of_a_text_is_kept(folder: Path) -> None:
    files, about = storage.read_folder(folder, branches.KIND)
    kept = safetensors.numpy.load(files[bounds.FILE])
    width = branches.load(folder).backbone.width
    shapes = {
        "means": (2, width),
        "whitener": (width, width),
        "centre": (1, width),
        "wider": (width, width),
        "threshold": (1,),
        "spread": (1,),
    }
    assert {name: one.shape for name, one in kept.items()} == shapes
    assert about["kind"] == branches.KIND
    before = {name: data for name, data in files.items() if name != bounds.FILE}
    assert bounds.bound(folder, rows(600), false_alarms=0.2).threshold < bounds.bound(folder, rows(600), false_alarms=0.05).threshold
    after, _ = storage.read_folder(folder, branches.KIND)
    assert {name: data for name, data in after.items() if name != bounds.FILE} == before


def test_wrong_uses_are_refused(folder: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    for task, depth in (("regress", 1), ("classify", "all")):
        other = sample(load_backbone(tiny_folder("bert")), task, depth=depth).save(tmp_path / f"{task}{depth}")
        with pytest.raises(OptionError, match="nothing to be far from"):
            bounds.bound(other, rows(400))
        assert bounds.of(other) is None
    with pytest.raises(OptionError, match="validation rows"):
        bounds.bound(folder, rows(60))
    with pytest.raises(OptionError, match="too few"):
        bounds.bound(folder, rows(400), false_alarms=0.0001)
    files, _ = storage.read_folder(folder, branches.KIND)
    storage.write_folder(tmp_path / "bad", {**files, bounds.FILE: b"no tensors"}, {"kind": branches.KIND, "trunkline": "0"})
    with pytest.raises(ArtefactError, match="trunkline scope"):
        bounds.of(tmp_path / "bad")


def test_the_command_fits_them_from_a_file(folder: Path, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = sample(load_backbone(tiny_folder("bert")), depth=0, seed=2).save(tmp_path / "head")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(400)), encoding="utf-8")
    commands(["scope", str(made), str(file), "--false-alarms", "0.1"], standalone_mode=False)
    found, wanted = bounds.of(made), bounds.bound(made, rows(400), false_alarms=0.1)
    assert found is not None
    assert found.threshold == pytest.approx(wanted.threshold)
    assert found.clouds.means == pytest.approx(wanted.clouds.means, abs=1e-4)
