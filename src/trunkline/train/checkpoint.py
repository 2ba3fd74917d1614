"""Checkpoints of a run: whole or absent, verified before use, the newest good one first.

A folder holds `step-00000123` folders, each with its manifest (see storage), and a lock so that two runs never share it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import safetensors.torch
import torch

from trunkline import storage
from trunkline.errors import ArtefactError, OptionError

KIND = "checkpoint"
_KEEP = 2

Tensors = dict[str, torch.Tensor]


class Checkpoints:
    """The checkpoints of one run. Use as a context: entering takes the lock, leaving gives it back.

    about: what must be the same for a run to go on (data, settings); compared when a checkpoint is read.
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, force: bool = False) -> None:
        self.folder, self.about, self.force = folder, about, force
        self._lock: IO[str] | None = None

    def __enter__(self) -> Checkpoints:
        self._lock = lock(self.folder)
        storage.remove_leftovers(self.folder, "step-*")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock:
            self._lock.close()

    def save(self, step: int, groups: dict[str, Tensors], state: dict[str, Any]) -> None:
        """Write a checkpoint of some groups of tensors and a JSON state, then drop all but the newest two."""
        files = {f"{name}.safetensors": safetensors.torch.save(tensors) for name, tensors in groups.items()}
        files["state.json"] = storage.to_json({"about": self.about, "step": step, **state})
        need = int(1.1 * sum(map(len, files.values())))
        if shutil.disk_usage(self.folder).free < need:
            raise ArtefactError(
                f"{self.folder}: a checkpoint needs {need:,} bytes and the disk has fewer free. Free some space and run the same command again."
            )
        storage.write_folder(self.folder / f"step-{step:08d}", files, {"kind": KIND})
        for old in self._all()[:-_KEEP]:
            storage.remove_folder(old)

    def latest(self) -> tuple[dict[str, Tensors], dict[str, Any]] | None:
        """The tensors and state of the newest undamaged checkpoint, or None where there is none yet.

        Raises: OptionError when it belongs to other data or settings (unless forced), ArtefactError when all are damaged.
        """
        found = self._all()
        for folder in reversed(found):
            try:
                files, _ = storage.read_folder(folder, KIND)
            except ArtefactError as error:
                warnings.warn(f"{error} Going back to the checkpoint before it.", stacklevel=2)
                continue
            state = storage.from_json(files["state.json"], str(folder / "state.json"))
            self._compare(state["about"])
            loaded = {n.removesuffix(".safetensors"): safetensors.torch.load(b) for n, b in files.items() if n.endswith(".safetensors")}
            return loaded, state
        if found:
            raise ArtefactError(f"{self.folder}: all {len(found)} checkpoints are damaged. Delete the folder to start anew.")
        return None

    def _all(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())

    def _compare(self, saved: dict[str, Any]) -> None:
        changed = sorted(k for k in saved.keys() | self.about.keys() if saved.get(k) != self.about.get(k))
        soft = [k for k in changed if k.startswith("machine.")]
        if soft:
            warnings.warn(
                f"{self.folder}: {', '.join(soft)} changed since the checkpoint, so the result may differ in its last bits.", stacklevel=3
            )
        hard = [f"{k}: {saved.get(k)!r} -> {self.about.get(k)!r}" for k in changed if k not in soft]
        if hard and not self.force:
            raise OptionError(
                f"{self.folder}: the checkpoint belongs to another run; changed: {'; '.join(hard)}. "
                "Go back to the old options, choose another --out, delete that folder, or use --force to go on all the same."
            )


def lock(folder: Path) -> IO[str]:
    """The lock of a folder, which is made where it is missing. Closing it gives it back; so does the end of the process, however it ends.

    Raises: ArtefactError when another run holds it, or nothing can be written there.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("w")
    except OSError as error:
        raise storage.explain(error, folder) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise FileNotFoundError(f"{path} was replaced")  # the run that held it has just ended and cleared its folder away
    except OSError as error:
        file.close()
        raise ArtefactError(f"{folder}: another run is using this folder. Wait for it, stop it, or choose another --out.") from error
    return file
