"""/v1/predict: one or many texts through one, some or all branches; /v1/batch: a file of them; /v1/branches: what there is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from trunkline.serving.api.forms import Predict, Row, body_of
from trunkline.serving.compute.pool import Version
from trunkline.serving.deployments import NotServed
from trunkline.serving.edge.body import parsed, read_bytes, read_json, valid
from trunkline.serving.edge.guard import request_id
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service

T = TypeVar("T")
_WATCH_AFTER = 0.05
"""Seconds after which it is looked for clients that leave: a task of its own for each request costs more than what one gains in so short a time."""
STATUS = {
    "too_many_tokens": 422,
    "too_expensive": 422,
    "unusable_input": 422,
    "too_late": 503,
    "gone": 503,
    "worker_died": 503,
    "not_finite": 500,
    "internal": 500,
}
_EXAMPLE = {
    "answers": [
        {
            "intent": {
                "label": "card_arrival",
                "labels": [{"label": "card_arrival", "probability": 0.93}],
                "probability": 0.93,
                "out_of_scope": False,
                "distance": 0.52,
            }
        }
    ],
    "versions": {"intent": "0f3c61d2a9be"},
    "tokens": 9,
}
_ANSWERED = {200: {"description": "An answer for each input, by branch", "content": {"application/json": {"example": _EXAMPLE}}}}


def router(service: Service) -> APIRouter:
    """The routes that answer."""
    made = APIRouter()

    @made.post("/v1/predict", openapi_extra=body_of(Predict), responses=_ANSWERED)  # type: ignore[arg-type]
    async def predict(request: Request) -> Response:
        """Labels with calibrated probabilities, spans with offsets, or a number, for each input and branch."""
        asked = await read_json(request, Predict, service.settings.max_body)
        rows = [_row(one) for one in ([asked.inputs] if isinstance(asked.inputs, str) else asked.inputs)]
        found = await unless_gone(request, answer(service, asked, rows, request.state.key))
        named = ",".join(f"{name}={version}" for name, version in found["versions"].items())
        return JSONResponse(found, headers={"x-trunkline-versions": named})

    @made.post("/v1/batch")
    async def batch(request: Request) -> Response:
        """JSON Lines in, JSON Lines out, in their order: rows with `text`; `?branches=intent,sentiment`, none: all. A bad row has an error."""
        names = request.query_params.get("branches")
        asked = valid(Predict, {"inputs": "-", "branches": names.split(",") if names else None, "truncate": True})
        _versions(service, asked.branches, "")  # an unknown branch is refused before anything is sent
        data = await read_bytes(request, service.settings.max_body)
        lines = [line for line in data.split(b"\n") if line.strip()]
        if len(lines) > service.settings.max_batch_rows:
            raise Refused(413, "too_many_rows", f"A file may have {service.settings.max_batch_rows:,} rows.")
        return StreamingResponse(_answers(service, asked, lines, request.state.key), media_type="application/x-ndjson")

    @made.get("/v1/branches")
    async def branches() -> Response:
        """The branches that are served: task, labels, version, canary, what computes them."""
        return JSONResponse({"branches": [service.branches.show(name) for name in service.branches.names]})

    return made


async def answer(service: Service, asked: Predict, rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The reply to a request for some rows. Raises: Refused."""
    told = service.settings
    _check_rows(service, rows)
    versions = _versions(service, asked.branches, asked.user or f"{key}:{request_id.get()}")
    tokens = sum(_tokens(row) for row in rows)
    service.quotas.tokens(key, tokens)
    ids = [version.id for version in versions.values()]
    request = {
        "rows": rows,
        "versions": list(dict.fromkeys(ids)),
        "tenant": key,
        "top": asked.top,
        "truncate": asked.truncate,
        "max_cost": told.max_cost,
        "seconds": told.deadline,
    }
    with service.gate.admit(tokens):
        service.branches.take(ids)
        try:
            reply = await service.compute.ask(request)
        except TimeoutError:
            raise Refused(503, "too_late", f"No answer within {told.deadline:g} seconds.", after=1.0) from None
        finally:
            service.branches.give_back(ids)
    if "error" in reply:
        status = STATUS[reply["error"]]
        named = [f"branch={name!r}: " for name, version in versions.items() if version.id == reply.get("version")]
        raise Refused(status, reply["error"], "".join(named[:1]) + reply["message"], after=1.0 if status == 503 else None)
    service.gate.answered(tokens)
    _count(service, versions, len(rows), reply)
    answers = [{name: _marked(found[version.id], asked.threshold) for name, version in versions.items()} for found in reply["answers"]]
    return {"answers": answers, "versions": {name: version.id for name, version in versions.items()}, "tokens": reply["tokens"]}


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is stopped when the client has left. Looked for only where `work` takes longer than a short text does."""
    mine, busy, left = asyncio.current_task(), True, False
    watching: list[asyncio.Task[None]] = []

    def stop(gone: asyncio.Future[None]) -> None:
        nonlocal left
        if busy and mine is not None and not gone.cancelled():
            left = True
            mine.cancel()

    def watch() -> None:
        watching.append(asyncio.ensure_future(_gone(request)))
        watching[0].add_done_callback(stop)

    begin = asyncio.get_running_loop().call_later(_WATCH_AFTER, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if not left or mine is None or mine.uncancel():  # a server that ends cancels too
            raise
        raise Refused(499, "client_left", "The client left.") from None
    finally:
        busy = False
        begin.cancel()
        for gone in watching:
            gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answers(service: Service, asked: Predict, lines: list[bytes], key: str) -> AsyncIterator[bytes]:
    """The lines of a file, some at a time, so that others are served in between; a busy server is waited for."""
    size = max(1, min(service.settings.max_inputs, 32))
    for start in range(0, len(lines), size):
        rows: list[dict[str, Any]] = []
        replies: list[dict[str, Any] | None] = []
        for line in lines[start : start + size]:
            try:
                row = _row(valid(Row, parsed(line)))
                _check_rows(service, [row])
                rows.append(row)
                replies.append(None)
            except Refused as refused:
                replies.append({"error": {"code": refused.code, "message": refused.message}})
        found = iter(await _patiently(service, asked, rows, key) if rows else [])
        for reply in replies:
            yield json.dumps(next(found) if reply is None else reply, ensure_ascii=False).encode() + b"\n"


async def _patiently(service: Service, asked: Predict, rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    until = time.monotonic() + 60.0
    while True:
        try:
            return (await answer(service, asked, rows, key))["answers"]
        except Refused as refused:
            if refused.after is None and len(rows) > 1:  # one of them is wrong: the others are answered
                return [(await _patiently(service, asked, [row], key))[0] for row in rows]
            if refused.after is None or time.monotonic() > until:
                return [{"error": {"code": refused.code, "message": refused.message}}] * len(rows)
            await asyncio.sleep(min(refused.after, 1.0))


def _row(given: str | Row) -> dict[str, Any]:
    return {"text": given} if isinstance(given, str) else given.model_dump(exclude_none=True)


def _check_rows(service: Service, rows: list[dict[str, Any]]) -> None:
    """Before a tokenizer sees them. Raises: Refused."""
    told = service.settings
    if not 1 <= len(rows) <= told.max_inputs:
        raise Refused(422, "too_many_inputs", f"A request may have 1 to {told.max_inputs} inputs, and has {len(rows)}.")
    for at, row in enumerate(rows):
        if sum(map(len, _texts(row))) > told.max_characters or len(row.get("words", ())) > told.max_characters:
            raise Refused(422, "too_many_characters", f"inputs[{at}]: a text may have {told.max_characters:,} characters.")


def _tokens(row: dict[str, Any]) -> int:
    """About how many tokens a row has, before anything is computed of it: one for four bytes."""
    return 2 + sum(len(text.encode("utf-8", "replace")) for text in _texts(row)) // 4


def _texts(row: dict[str, Any]) -> list[str]:
    return [row["text"], row.get("text_b") or "", *row.get("history", ())]


def _versions(service: Service, names: list[str] | None, who: str) -> dict[str, Version]:
    """The version of each branch that is asked. Raises: Refused, 404 for a branch that there is not."""
    wanted = list(dict.fromkeys(names)) if names else service.branches.names
    if not wanted:
        raise Refused(404, "no_branch", "No branch is served here.")
    try:
        return {name: service.branches.choose(name, who) for name in wanted}
    except NotServed as error:
        raise Refused(404, "unknown_branch", str(error)[:500]) from None


def _marked(found: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    if threshold is None or found.get("probability") is None:
        return found
    return {**found, "abstained": found["probability"] < threshold}


def _count(service: Service, versions: dict[str, Version], rows: int, reply: dict[str, Any]) -> None:
    counted = service.metrics
    for name, version in versions.items():
        counted.answers.labels(counted.name(name), version.id if counted.name(name) == name else "other").inc(rows)
    counted.tokens.inc(reply["tokens"])
    counted.waited.observe(max(0.0, reply["waited"]))
    counted.computed.observe(reply["computed"])
    counted.batch.observe(reply["batch"])
