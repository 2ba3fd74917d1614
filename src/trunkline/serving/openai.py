"""The routes that OpenAI's clients use: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models. A model's name is a writer's name."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from trunkline.branch import Branch
from trunkline.serving.api.forms import body_of
from trunkline.serving.api.predict import unless_gone
from trunkline.serving.chat import ChatRequest, CompletionRequest, EmbeddingRequest, asks, prompt_of_chat, prompts_of_completion
from trunkline.serving.compute.load import Shelf
from trunkline.serving.edge.body import read_json
from trunkline.serving.edge.guard import request_id
from trunkline.serving.generator import Generator
from trunkline.serving.generator_rows import Ask, Chosen, Piece
from trunkline.serving.refused import Refused
from trunkline.serving.service import Service
from trunkline.states.live import run_trunk
from trunkline.types import Tokens

_AT_ONCE = 2
"""Prompts that are made ready at once: a template new to the process runs in one of its own."""
_REASONS = {"time": "length", "stop": "stop", "length": "length"}


def router(service: Service, generator: Generator | None = None) -> APIRouter:
    """The routes, over the service's writers, which are loaded here. They write from the start of the application to its end."""
    writes = generator or _loaded(service)
    ready, embeds = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(1)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        writes.start()
        yield
        await asyncio.to_thread(writes.close)

    made = APIRouter(lifespan=life)

    @made.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        """The next message of a dialogue, whole or in pieces."""
        asked = await read_json(request, ChatRequest, service.settings.max_body)
        branch = _branch(writes, asked.model)
        async with ready:
            prompts = [await asyncio.to_thread(prompt_of_chat, branch, asked)]
        return await _answered(request, service, writes, branch, asked, prompts)

    @made.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
    async def completions(request: Request) -> Response:
        """What a prompt goes on with, whole or in pieces."""
        asked = await read_json(request, CompletionRequest, service.settings.max_body)
        branch = _branch(writes, asked.model)
        async with ready:
            prompts = await asyncio.to_thread(prompts_of_completion, branch, asked)
        return await _answered(request, service, writes, branch, asked, prompts)

    @made.post("/v1/embeddings", openapi_extra=body_of(EmbeddingRequest))
    async def embeddings(request: Request) -> Response:
        """The mean of the states of each text at the writer's cut, of length 1."""
        asked = await read_json(request, EmbeddingRequest, service.settings.max_body)
        branch, texts = _branch(writes, asked.model), [asked.input] if isinstance(asked.input, str) else asked.input
        if not 1 <= len(texts) <= service.settings.max_inputs:
            raise Refused(422, "too_many_inputs", f"A request may have 1 to {service.settings.max_inputs} inputs.")
        async with embeds:
            vectors, tokens = await asyncio.to_thread(_embedded, branch, texts)
        service.quotas.tokens(request.state.key, tokens)
        return JSONResponse(_embeddings(asked, vectors, tokens))

    _add_models(made, writes)
    return made


def _add_models(made: APIRouter, writes: Generator) -> None:
    """The routes that say which writers there are."""

    @made.get("/v1/models")
    async def models() -> Response:
        """The writers."""
        return JSONResponse({"object": "list", "data": [_model(name) for name in writes.branches]})

    @made.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        """One writer."""
        _branch(writes, name)
        return JSONResponse(_model(name))


def _loaded(service: Service) -> Generator:
    """The service's writers, those on one backbone over the same tensors. Raises: ArtefactError, ModelError, OptionError."""
    shelf = Shelf()
    return Generator({name: shelf.load(folder, service.model) for name, folder in service.writers.items()})


def _branch(writes: Generator, name: str) -> Branch:
    if name not in writes.branches:
        raise Refused(404, "model_not_found", f"There is no model of that name. There are: {', '.join(writes.branches) or 'none'}.")
    return writes.branches[name]


@dataclass
class _Choice:
    """What was said for one choice."""

    text: list[str] = field(default_factory=list)
    tokens: list[Chosen] = field(default_factory=list)
    reason: str | None = None


@dataclass
class _Reply:
    """One request on its way: its asks, what came of them so far, and how it is told in the client's form."""

    asked: ChatRequest | CompletionRequest
    branch: Branch
    id: str
    made: int
    prompt_tokens: int
    asks: list[Ask]
    pieces: asyncio.Queue[tuple[int, Piece]]
    written: int = 0

    @property
    def is_chat(self) -> bool:
        return isinstance(self.asked, ChatRequest)

    def about(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.made, "model": self.asked.model}

    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.written, "total_tokens": self.prompt_tokens + self.written}

    async def each(self) -> AsyncIterator[tuple[int, Piece]]:
        """Every piece, until the last of each choice. Whoever stops reading stops the writing."""
        left = set(range(len(self.asks)))
        try:
            while left:
                at, piece = await self.pieces.get()
                if piece.reason is not None:
                    left.discard(at)
                    self.written += piece.count
                yield at, piece
        finally:
            for ask in self.asks:
                ask.cancelled.set()


async def _answered(
    request: Request, service: Service, writes: Generator, branch: Branch, asked: ChatRequest | CompletionRequest, prompts: list[np.ndarray]
) -> Response:
    """Queue what is asked, and answer it. Raises: Refused."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]]()
    tenant = request.state.key

    def on_piece(at: int, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(pieces.put_nowait, (at, piece))

    tokens = sum(map(len, prompts))
    service.quotas.tokens(tenant, tokens)
    made = await asyncio.to_thread(asks, branch, asked, prompts, tenant, on_piece)
    name = f"{'chatcmpl' if isinstance(asked, ChatRequest) else 'cmpl'}-{secrets.token_hex(12)}"
    reply = _Reply(asked, branch, name, int(time.time()), tokens, made, pieces)
    writes.ask(asked.model, *made)
    if asked.stream:
        return StreamingResponse(_streamed(reply), media_type="text/event-stream", headers={"x-accel-buffering": "no"})
    return await unless_gone(request, _whole(reply))


async def _whole(reply: _Reply) -> Response:
    found = [_Choice() for _ in reply.asks]
    async for at, piece in reply.each():
        if piece.reason in ("failed", "cancelled"):
            raise _failed(piece.reason)
        found[at].text.append(piece.text)
        found[at].tokens += piece.tokens
        found[at].reason = piece.reason
    choices = [_choice(reply, at, choice) for at, choice in enumerate(found)]
    return JSONResponse(
        {**reply.about("chat.completion" if reply.is_chat else "text_completion"), "choices": choices, "usage": reply.usage()}
    )


async def _streamed(reply: _Reply) -> AsyncIterator[bytes]:
    """Server-sent events, one for each piece. Source: WHATWG HTML, section 9.2 (server-sent events)."""
    told = reply.asked.stream_options
    begun = [False] * len(reply.asks)
    about = reply.about("chat.completion.chunk" if reply.is_chat else "text_completion")
    async for at, piece in reply.each():
        if piece.reason in ("failed", "cancelled"):
            yield _event(_failed(piece.reason).body(request_id.get()))
            return
        yield _event({**about, "choices": [_delta(reply, at, piece, first=not begun[at])]})
        begun[at] = True
    if told is not None and told.include_usage:
        yield _event({**about, "choices": [], "usage": reply.usage()})
    yield b"data: [DONE]\n\n"


def _failed(reason: str | None) -> Refused:
    if reason == "cancelled":
        return Refused(503, "draining", "This server is going away.", after=1.0)
    return Refused(500, "internal", "Something went wrong here. The request id finds it in the log.")


def _choice(reply: _Reply, at: int, choice: _Choice) -> dict[str, Any]:
    text, reason = "".join(choice.text), _REASONS[choice.reason or "length"]
    if reply.is_chat:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": at, "message": message, "logprobs": _chat_logprobs(reply, choice.tokens), "finish_reason": reason}
    return {"index": at, "text": text, "logprobs": _logprobs(reply, choice.tokens), "finish_reason": reason}


def _delta(reply: _Reply, at: int, piece: Piece, *, first: bool) -> dict[str, Any]:
    reason = None if piece.reason is None else _REASONS[piece.reason]
    if reply.is_chat:
        delta = ({"role": "assistant"} if first else {}) | ({"content": piece.text} if piece.text or first else {})
        return {"index": at, "delta": delta, "logprobs": _chat_logprobs(reply, piece.tokens), "finish_reason": reason}
    return {"index": at, "text": piece.text, "logprobs": _logprobs(reply, piece.tokens), "finish_reason": reason}


def _chat_logprobs(reply: _Reply, tokens: list[Chosen] | tuple[Chosen, ...]) -> dict[str, Any] | None:
    if not isinstance(reply.asked, ChatRequest) or not reply.asked.logprobs:
        return None
    said = _saying(reply.branch)

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {"token": said(token), "logprob": round(logprob, 6), "bytes": list(said(token).encode())}

    return {"content": [{**one(t.id, t.logprob), "top_logprobs": [one(*other) for other in t.likeliest]} for t in tokens], "refusal": None}


def _logprobs(reply: _Reply, tokens: list[Chosen] | tuple[Chosen, ...]) -> dict[str, Any] | None:
    if reply.asked.logprobs is None:
        return None
    said, offsets, at = _saying(reply.branch), [], 0
    for token in tokens:
        offsets.append(at)
        at += len(said(token.id))
    likeliest = [{said(id_): round(logprob, 6) for id_, logprob in token.likeliest} for token in tokens]
    return {
        "tokens": [said(token.id) for token in tokens],
        "token_logprobs": [round(token.logprob, 6) for token in tokens],
        "top_logprobs": likeliest,
        "text_offset": offsets,
    }


def _saying(branch: Branch) -> Callable[[int], str]:
    return lambda one: branch.backbone.tokenizer.text([one])


def _embedded(branch: Branch, texts: list[str]) -> tuple[list[np.ndarray], int]:
    """Vectors (D,) float32 of length 1, and how many tokens were read. Raises: Refused, 400, for a text that does not fit."""
    backbone = branch.backbone
    trunk = backbone.trunk(branch.depth if isinstance(branch.depth, int) else 0)
    made = [Tokens(np.array([*backbone.tokenizer.start_ids, *backbone.tokenizer.pieces(text)], dtype=np.int32)) for text in texts]
    if any(not 0 < len(one) <= backbone.max_tokens for one in made):
        raise Refused(400, "context_length_exceeded", f"A text may have 1 to {backbone.max_tokens:,} tokens.")
    means = [np.asarray(hidden, dtype=np.float32).mean(0) for one in made for hidden in run_trunk(trunk, [one])]
    return [mean / max(float(np.linalg.norm(mean)), 1e-12) for mean in means], sum(map(len, made))


def _embeddings(asked: EmbeddingRequest, vectors: list[np.ndarray], tokens: int) -> dict[str, Any]:
    told: Callable[[np.ndarray], Any] = (lambda v: v.tolist()) if asked.encoding_format == "float" else _base64
    data = [{"object": "embedding", "index": at, "embedding": told(vector)} for at, vector in enumerate(vectors)]
    return {"object": "list", "model": asked.model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "trunkline"}


def _event(found: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(found, ensure_ascii=False).encode() + b"\n\n"
