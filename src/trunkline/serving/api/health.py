"""/livez, /readyz, /startupz: whether the process lives, takes requests, has begun; /metrics for Prometheus."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from trunkline.serving.service import Service


def router(service: Service) -> APIRouter:
    """The routes that are looked at by machines."""
    made = APIRouter()

    @made.get("/livez")
    async def livez() -> dict[str, Any]:
        """The process answers."""
        return {"live": True, "seconds": round(time.monotonic() - service.began, 1)}

    @made.get("/readyz")
    async def readyz() -> JSONResponse:
        """Every branch is loaded and compared, a worker runs, and the server is not going away."""
        ready = service.is_ready()
        return JSONResponse({"ready": ready, "draining": service.draining, "branches": service.branches.names}, 200 if ready else 503)

    @made.get("/startupz")
    async def startupz() -> JSONResponse:
        """The start is over."""
        return JSONResponse({"started": service.started}, 200 if service.started else 503)

    @made.get("/metrics")
    async def metrics() -> Response:
        """Counters and histograms in Prometheus' form."""
        counted = service.metrics
        counted.queue.set(service.gate.requests)
        counted.queue_tokens.set(service.gate.tokens)
        counted.changes.set(service.branches.changes)
        counted.restarts.set(service.compute.restarts)
        return Response(counted.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return made
