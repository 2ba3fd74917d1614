"""What a branch says of the documents that are left: how probable it is that each is good, or toxic. Kept on disk part by part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from trunkline import names, storage
from trunkline.corpus.parts import Parts
from trunkline.errors import OptionError

_AT_ONCE = 512
Score = Callable[[Sequence[str]], Sequence[float]]


def scorer(folder: str, label: str | None) -> Score:
    """A function from texts to the probability of a label (the branch's last one where none is named).

    Raises: OptionError for a branch that does not classify, or a label that it does not know.
    """
    branch = names.branch(folder)
    labels = list(getattr(branch.spec, "labels", ()))
    if branch.task != "classify" or not labels:
        raise OptionError(f"{folder}: is a branch for {branch.task!r}. Give one that classifies texts.")
    if label is not None and label not in labels:
        raise OptionError(f"label={label!r}: {folder} knows {', '.join(labels)}.")
    at = labels.index(label) if label is not None else len(labels) - 1
    return lambda texts: [float(answer.scores[at]) for answer in branch.predict(list(texts))]


def scores(parts: Parts, wanted: np.ndarray, name: str, score: Callable[[], Score], text: str) -> np.ndarray:
    """(N,) float32: the scores of the documents that are wanted (N,) bool, NaN for the others.

    A part that was scored before for the same documents is read; the model is loaded only where one was not.
    """
    found = np.full(len(parts), np.nan, dtype=np.float32)
    run: list[Score] = []
    for number in range(parts.count):
        start, end = int(parts.starts[number]), int(parts.starts[number + 1])
        path = parts.folder / f"{name}-{number:06d}.safetensors"
        stored = _stored(path, wanted[start:end])
        if stored is None:
            run = run or [score()]
            stored = _score(parts, number, wanted[start:end], run[0], text)
            storage.write_file(path, safetensors.numpy.save({"scores": stored, "wanted": wanted[start:end].astype(np.uint8)}))
        found[start:end] = stored
    return found


def _stored(path: Path, wanted: np.ndarray) -> np.ndarray | None:
    if not path.is_file():
        return None
    arrays: dict[str, Any] = safetensors.numpy.load(path.read_bytes())
    return arrays["scores"] if np.array_equal(arrays["wanted"], wanted) else None


def _score(parts: Parts, number: int, wanted: np.ndarray, run: Score, text: str) -> np.ndarray:
    found = np.full(len(wanted), np.nan, dtype=np.float32)
    places = np.flatnonzero(wanted)
    texts = [str(record[text]) for at, (_, _, record) in enumerate(parts.part(number)) if wanted[at]]
    for start in range(0, len(places), _AT_ONCE):
        found[places[start : start + _AT_ONCE]] = run(texts[start : start + _AT_ONCE])
    return found


def key(folder: str | None) -> str:
    """What decides a branch's answers, for the fingerprint of a run: the sum in its manifest. Raises: ArtefactError for no branch."""
    return (
        ""
        if folder is None
        else str(json.loads(storage.to_json(storage.read_manifest(Path(folder), "branch")["files"]))["branch.safetensors"]["sha256"])
    )
