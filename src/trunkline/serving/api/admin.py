"""/v1/branches/NAME: add, replace, remove; a canary and its end. For keys with the scope "admin", and folders below --root."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Request

from trunkline.errors import ArtefactError, ModelError, OptionError, TrunklineError
from trunkline.serving.api.forms import Canary, Folder, body_of
from trunkline.serving.compute.pool import WorkerDied
from trunkline.serving.deployments import NotServed, inside
from trunkline.serving.edge.body import read_json
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service


def router(service: Service) -> APIRouter:
    """The routes that change what is served."""
    made, branches, root = APIRouter(), service.branches, service.settings.root

    @made.put("/v1/branches/{name}", openapi_extra=body_of(Folder))
    async def put(name: str, request: Request) -> dict[str, Any]:
        """Serve a branch under this name, in place of what was there. It is loaded and compared first; a bad one changes nothing."""
        told = await read_json(request, Folder, service.settings.max_body)
        return await _done(lambda: branches.put(name, inside(root, told.folder), service.model))

    @made.delete("/v1/branches/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Serve this branch no more. Requests that were let in are answered."""
        await _done(lambda: branches.remove(name))
        return {"removed": name}

    @made.put("/v1/branches/{name}/canary", openapi_extra=body_of(Canary))
    async def canary(name: str, request: Request) -> dict[str, Any]:
        """Let another branch answer a share of the requests; the same user always has the same one."""
        told = await read_json(request, Canary, service.settings.max_body)
        return await _done(lambda: branches.try_out(name, inside(root, told.folder), told.share, service.model))

    @made.post("/v1/branches/{name}/promote")
    async def promote(name: str) -> dict[str, Any]:
        """The canary answers all requests."""
        return await _done(lambda: branches.promote(name))

    @made.post("/v1/branches/{name}/rollback")
    async def rollback(name: str) -> dict[str, Any]:
        """Drop the canary, or go back to the version before, which is still loaded: at once."""
        return await _done(lambda: branches.roll_back(name))

    return made


async def _done(work: Any) -> Any:
    """What the work gives, its errors as refusals."""
    try:
        started: Awaitable[Any] = work()
        return await started
    except NotServed as error:
        raise Refused(404, "unknown_branch", str(error)[:500]) from None
    except OptionError as error:
        raise Refused(422, "unusable_branch", str(error)[:500]) from None
    except (ArtefactError, ModelError) as error:
        raise Refused(422, "unusable_branch", _without_path(error)) from None
    except (WorkerDied, TimeoutError):
        raise Refused(503, "worker_died", "The worker died while it loaded the branch. What was served is served on.", after=5.0) from None


def _without_path(error: TrunklineError) -> str:
    """What is wrong, without where on this machine."""
    return str(error).partition(": ")[2][:500] or "The branch cannot be served."
