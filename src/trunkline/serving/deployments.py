"""Which version of each branch answers: the live one, a canary with a share of the requests, and the one before to go back to.

A request takes its versions when it is let in and keeps them; a version that was replaced is forgotten when nobody has it any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.errors import OptionError, unknown
from trunkline.serving.compute.pool import Compute, Version, version_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class NotServed(OptionError):
    """There is no branch of this name here."""


@dataclass
class Deployment:
    """One branch under its name. share: of the requests that the canary answers, 0 to 1."""

    live: Version
    canary: Version | None = None
    share: float = 0.0
    before: Version | None = None


class Deployments:
    """Changed by one at a time, in the event loop: a request never sees half a change."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.changes = 0
        self.about: dict[str, dict[str, Any]] = {}
        self._named: dict[str, Deployment] = {}
        self._used: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        return sorted(self._named)

    def get(self, name: str) -> Deployment:
        """The branch of a name. Raises: NotServed with the nearest name."""
        if name not in self._named:
            raise unknown("branch", name, self._named, NotServed)
        return self._named[name]

    def choose(self, name: str, who: str) -> Version:
        """The version that answers: the canary for its share of all `who`, always the same for one `who`."""
        found = self.get(name)
        if found.canary is None:
            return found.live
        place = int.from_bytes(hashlib.sha256(f"{name}:{who}".encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
        return found.canary if place < found.share else found.live

    def take(self, versions: Iterable[str]) -> None:
        """Somebody has these versions until `give_back`."""
        self._used.update(versions)

    def give_back(self, versions: Iterable[str]) -> None:
        self._used.subtract(versions)

    async def put(self, name: str, folder: Path, model: str | None = None) -> dict[str, Any]:
        """Serve the branch in a folder under a name, in place of what was there. Raises: OptionError, ArtefactError; then nothing changed."""
        async with self._lock:
            fresh = await self._load(name, folder, model)
            old = self._named.get(name)
            if old is None:
                self._named[name] = Deployment(fresh)
            elif old.live.id != fresh.id:
                self._named[name] = Deployment(fresh, before=old.live)
            await self._tidy()
            return self.show(name)

    async def try_out(self, name: str, folder: Path, share: float, model: str | None = None) -> dict[str, Any]:
        """Let the branch in a folder answer a share of the requests. Raises: as `put`."""
        if not 0 < share < 1:
            raise OptionError(f"share={share}: use more than 0 and less than 1.")
        async with self._lock:
            self.get(name)
            fresh = await self._load(name, folder, model)
            old = self.get(name)
            self._named[name] = Deployment(old.live, fresh, share, old.before)
            await self._tidy()
            return self.show(name)

    async def promote(self, name: str) -> dict[str, Any]:
        """The canary becomes what answers. Raises: OptionError where there is none."""
        async with self._lock:
            old = self.get(name)
            if old.canary is None:
                raise OptionError(f"branch={name!r}: has no canary to promote.")
            self._named[name] = Deployment(old.canary, before=old.live)
            await self._tidy()
            return self.show(name)

    async def roll_back(self, name: str) -> dict[str, Any]:
        """Drop the canary, or else go back to the version before, which is still in memory. Raises: OptionError where there is neither."""
        async with self._lock:
            old = self.get(name)
            if old.canary is None and old.before is None:
                raise OptionError(f"branch={name!r}: has no canary, and no version before this one.")
            self._named[name] = (
                Deployment(old.live, before=old.before) if old.canary else Deployment(old.before or old.live, before=old.live)
            )
            await self._tidy()
            return self.show(name)

    async def remove(self, name: str) -> None:
        """Serve this branch no more. Requests that have it are answered."""
        async with self._lock:
            self.get(name)
            del self._named[name]
            await self._tidy()

    def show(self, name: str) -> dict[str, Any]:
        """What there is to know of a branch."""
        found = self.get(name)
        canary = {"canary": {"version": found.canary.id, "share": found.share}} if found.canary else {}
        before = {"before": found.before.id} if found.before else {}
        return {"name": name, **self.about[found.live.id], **canary, **before}

    async def _load(self, name: str, folder: Path, model: str | None) -> Version:
        if not NAME.fullmatch(name):
            raise OptionError(f"branch={name!r}: use up to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.")
        version = Version(version_of(folder), folder, model)
        if version.id not in self.about:
            self.about[version.id] = await self.compute.add(version)
        return version

    async def _tidy(self) -> None:
        """Forget versions that no name has, as soon as no request has them."""
        self.changes += 1
        for version in self.about.keys() - self._kept():
            task = asyncio.get_running_loop().create_task(self._forget(version))
            self._tasks.add(task)  # the loop itself would not keep it alive
            task.add_done_callback(self._tasks.discard)

    def _kept(self) -> set[str]:
        """The versions that a name has."""
        return {one.id for found in self._named.values() for one in (found.live, found.canary, found.before) if one}

    async def _forget(self, version: str) -> None:
        while self._used[version] > 0:
            await asyncio.sleep(0.05)
        async with self._lock:
            if version in self.about and version not in self._kept():
                del self.about[version]
                del self._used[version]
                await self.compute.remove(version)


def inside(root: str | None, folder: str) -> Path:
    """The folder, when it lies below `root`, links followed. Raises: OptionError."""
    if root is None:
        raise OptionError("This server was started without --root, so no branch can be added while it serves.")
    top = Path(root).resolve()
    found = (top / folder).resolve() if "\0" not in folder and len(folder) < 1024 else top
    if found == top or top not in found.parents:
        raise OptionError("folder: is not below the folder that --root names.")
    return found
