"""What OpenAI's clients ask a writer, as `Ask`s: what requests hold, prompts to tokens, and what cannot be done refused by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from trunkline.branch import Branch
from trunkline.errors import OptionError, TrunklineError
from trunkline.model.writing.chat import render
from trunkline.model.writing.grammar import Grammar
from trunkline.serving.generator_rows import MOST_LOGPROBS, Ask, Piece
from trunkline.serving.refused import Refused

MOST_NEW_TOKENS = 2048
MOST_CHOICES = 16
_MOST_MESSAGES = 256
_STRICT = ConfigDict(extra="forbid", strict=True)
Said = Annotated[str, StringConstraints(max_length=1 << 20)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Part(BaseModel):
    """A piece of a message: only text is read."""

    model_config = _STRICT
    type: Literal["text"]
    text: Said


class Message(BaseModel):
    """Who says what. `developer` is read as `system`."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Said | list[Part]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None

    def plain(self) -> dict[str, str]:
        """As `render` takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Schema(BaseModel):
    """A JSON schema that the answer has to follow."""

    model_config = _STRICT
    name: Annotated[str, StringConstraints(max_length=64)] = "answer"
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class Form(BaseModel):
    """text, any JSON object, or JSON of a schema."""

    model_config = _STRICT
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class StreamOptions(BaseModel):
    """Whether the last piece says how many tokens there were."""

    model_config = _STRICT
    include_usage: bool = False


class _Written(BaseModel):
    """What both ways of asking share. What is not given is as the branch was tuned and measured."""

    model_config = _STRICT
    model: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    max_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(1 << 63), le=(1 << 63) - 1)
    stop: Stop | list[Stop] | None = Field(None, max_length=64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] | None = Field(None, description="not done here: 0 only")
    frequency_penalty: Literal[0] | None = Field(None, description="not done here: 0 only")
    user: Annotated[str, StringConstraints(max_length=256)] | None = None


class ChatRequest(_Written):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "style", "messages": [{"role": "user", "content": "Where is my parcel?"}], "stream": True}]
        },
    )
    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: Form | None = None


class CompletionRequest(_Written):
    """POST /v1/completions."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"model": "style", "prompt": "Once upon a time"}]}
    )
    prompt: Said | list[Said]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"model": "style", "input": ["my card", "my order"]}]}
    )
    model: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    input: Said | list[Said]
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, StringConstraints(max_length=256)] | None = None


def prompt_of_chat(branch: Branch, asked: ChatRequest) -> np.ndarray:
    """The ids (T,) of a dialogue by the model's own template. Nothing that a message holds becomes a control token.

    Raises: Refused, 400, where the template does not take these messages.
    """
    try:
        return render(branch.backbone.tokenizer, [message.plain() for message in asked.messages], add_answer_prompt=True).ids
    except TrunklineError as error:
        raise Refused(400, "unusable_messages", str(error)[:500]) from None


def prompts_of_completion(branch: Branch, asked: CompletionRequest) -> list[np.ndarray]:
    """The ids of each prompt as it stands, behind what every text of this model begins with. Raises: Refused."""
    tokenizer = branch.backbone.tokenizer
    texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not 1 <= len(texts) * asked.n <= MOST_CHOICES:
        raise Refused(422, "too_many_choices", f"prompts times n: 1 to {MOST_CHOICES}.")
    made = [np.array([*tokenizer.start_ids, *tokenizer.pieces(text)], dtype=np.int32) for text in texts]
    if not all(map(len, made)):
        raise Refused(422, "empty_prompt", "The prompt is empty, and this model begins a text with nothing.")
    return made


def asks(
    branch: Branch,
    asked: ChatRequest | CompletionRequest,
    prompts: list[np.ndarray],
    tenant: str,
    on_piece: Callable[[int, Piece], None],
) -> list[Ask]:
    """An `Ask` for each choice: n of every prompt. What was drawn without a seed is drawn with a fresh one. Raises: Refused."""
    spec, told = branch.spec, asked
    longest = told.max_tokens or (told.max_completion_tokens if isinstance(told, ChatRequest) else None) or spec.max_new_tokens
    given = [told.stop] if isinstance(told.stop, str) else told.stop
    seed = secrets.randbits(62) if told.seed is None else told.seed
    form = told.response_format if isinstance(told, ChatRequest) else None
    makes = _grammar(branch, form)
    return [
        Ask(
            prompt,
            lambda piece, at=at * told.n + nth: on_piece(at, piece),  # type: ignore[misc]
            max_new_tokens=min(longest, MOST_NEW_TOKENS),
            temperature=spec.temperature if told.temperature is None else told.temperature,
            top_p=spec.top_p if told.top_p is None else told.top_p,
            seed=(seed + nth) & ((1 << 62) - 1),
            stops=tuple(given) if given is not None else spec.stops,
            logprobs=_logprobs(told),
            tenant=tenant,
            grammar=makes(),
        )
        for at, prompt in enumerate(prompts)
        for nth in range(told.n)
    ]


def _logprobs(asked: ChatRequest | CompletionRequest) -> int | None:
    if isinstance(asked, CompletionRequest):
        return asked.logprobs
    if asked.top_logprobs and not asked.logprobs:
        raise Refused(422, "invalid_request", "top_logprobs: needs logprobs true.")
    return (asked.top_logprobs or 0) if asked.logprobs else None


def _grammar(branch: Branch, form: Form | None) -> Callable[[], Grammar | None]:
    if form is None or form.type == "text":
        return lambda: None
    if form.type == "json_schema" and form.json_schema is None:
        raise Refused(422, "invalid_request", "response_format: json_schema is missing.")
    schema = form.json_schema.json_schema if form.json_schema is not None and form.type == "json_schema" else {"type": "object"}
    try:
        return Grammar.maker(branch.backbone.tokenizer, branch.backbone.ends, schema)
    except OptionError as error:
        raise Refused(400, "unusable_schema", f"response_format: {error}") from None
