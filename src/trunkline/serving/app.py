"""The application: what stands around every route, and the routes. `routers` lists what is mounted."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from trunkline import __version__
from trunkline.serving.api import admin, feedback, health, page, predict
from trunkline.serving.edge.guard import App, Guard, Receive, Scope, Send, request_id
from trunkline.serving.edge.keys import Keys
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service

log = logging.getLogger("trunkline.serving")
DIRECT = frozenset({("POST", "/v1/predict")})
"""What is asked most. Such a route takes a `Request` and gives a `Response`, and raises Refused alone."""


def routers(service: Service) -> list[APIRouter]:
    """Every route of the server. A key and its scope are asked for in edge/guard.py, for all of them."""
    return [
        predict.router(service),
        feedback.router(service),
        admin.router(service),
        health.router(service),
        page.router(),
        *([import_module("trunkline.serving.openai").router(service)] if service.writers else []),  # imports torch: only where it computes
    ]


def app(service: Service, keys: Keys | None = None) -> Guard:
    """The application of a service, with the guard around it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield  # serve.py starts the service once the server listens
        await service.stop()

    made = FastAPI(title="Trunkline", version=__version__, lifespan=life, docs_url=None, redoc_url=None, redirect_slashes=False)
    each = routers(service)
    for router in each:
        made.include_router(router)
    for kind in (Refused, HTTPException, RequestValidationError, Exception):
        made.add_exception_handler(kind, _refuse(service))
    return Guard(_directly(made, each), service, keys)


def _directly(made: FastAPI, routers: list[APIRouter]) -> App:
    """The application, but routes of `DIRECT` without what FastAPI does around each: it resolves nothing for those that read their body
    themselves, and takes long over that beside a short text. Their errors go to the guard, which answers.
    """
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    direct = {(method, route.path): route for route in routes for method in route.methods or () if (method, route.path) in DIRECT}

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        route = direct.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            await made(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return call


def _refuse(service: Service) -> Any:
    """Errors of routes as refusals, none with a word of what went wrong inside."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        refused = error if isinstance(error, Refused) else _known(error)
        if isinstance(error, Refused):
            service.metrics.refused.labels(error.code).inc()
        return JSONResponse(refused.body(request_id.get()), refused.status, refused.headers)

    return handle


def _known(error: Exception) -> Refused:
    if isinstance(error, RequestValidationError):
        return Refused(422, "invalid_request", "The address or the query is not as this route takes it.")
    if isinstance(error, HTTPException):
        codes = {404: "not_found", 405: "method_not_allowed"}
        return Refused(error.status_code, codes.get(error.status_code, "http_error"), "There is no such route, or not with this method.")
    log.error("request %s failed: %s", request_id.get(), type(error).__name__)
    return Refused(500, "internal", "Something went wrong here. The request id finds it in the log.")
