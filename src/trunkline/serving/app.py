"""The application: what stands around every route, and the routes. `routers` lists what is mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from trunkline import __version__
from trunkline.serving.service import Service


def routers(service: Service) -> list[APIRouter]:
    """Every route of the server. A key and its scope are asked for in edge/guard.py, for all of them."""
    return []


def app(service: Service) -> FastAPI:
    """The application of a service."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    made = FastAPI(title="Trunkline", version=__version__, lifespan=life)
    for router in routers(service):
        made.include_router(router)
    return made
