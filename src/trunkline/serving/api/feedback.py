"""/v1/feedback: what people say of answers, into the store that the service has."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from trunkline.errors import DataError, TrunklineError
from trunkline.serving.api.forms import Feedback, body_of
from trunkline.serving.edge.body import read_json
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service


def router(service: Service) -> APIRouter:
    """The route that takes feedback."""
    made = APIRouter()

    @made.post("/v1/feedback", openapi_extra=body_of(Feedback), status_code=201)
    async def feedback(request: Request) -> dict[str, Any]:
        """Kept for good when this answers. The header Idempotency-Key makes it safe to send again."""
        if service.store is None:
            raise Refused(501, "no_feedback", "This server was started without --feedback.")
        told = await read_json(request, Feedback, service.settings.max_body)
        key = request.headers.get("idempotency-key")
        if key is not None and not (1 <= len(key) <= 256 and key.isprintable()):
            raise Refused(422, "invalid_request", "Idempotency-Key: use 1 to 256 printable characters.")
        entry = told.model_dump() | {"row": told.row.model_dump(exclude_none=True)}
        return {"id": await _kept(service, entry, request.state.key or "local", key)}

    return made


async def _kept(service: Service, entry: dict[str, Any], who: str, key: str | None) -> str:
    add = service.store.add  # type: ignore[union-attr]
    try:
        return await asyncio.to_thread(add, entry, who=who, idempotency_key=key)
    except DataError as error:
        raise Refused(422, "unusable_feedback", str(error)[:500]) from None
    except TrunklineError as error:
        status = int(getattr(error, "status", 503))
        after = 1.0 if status in (503, 507) else None
        raise Refused(status, "feedback_refused", "The feedback was not kept." if after else str(error)[:300], after=after) from None
    except OSError:
        raise Refused(503, "feedback_not_kept", "The feedback could not be written.", after=1.0) from None
