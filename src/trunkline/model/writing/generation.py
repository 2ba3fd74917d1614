"""Writing a text token by token: what it may be told, and the library's own `generate` doing it (cache, beams, sampling)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from trunkline.choices import between
from trunkline.errors import OptionError
from trunkline.model.tokenizer import Tokenizer
from trunkline.types import Spec


@dataclass(frozen=True)
class WritingSpec(Spec):
    """max_new_tokens: the longest answer; temperature: 0 takes the likeliest token at each step, above that tokens are drawn;
    top_p: only from the likeliest tokens that have this share together; top_k: only from so many (0: all);
    beams: so many texts are followed at once and the likeliest kept; seed: of what is drawn, for each batch;
    stop: the answer ends before this text, or before the first of several, with | between them (\\n is a line break)
    """

    kind: ClassVar[str] = "likelihood"
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    beams: int = 1
    stop: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        between("max_new_tokens", self.max_new_tokens, 1, 131072)
        between("temperature", self.temperature, 0.0, 10.0)
        between("top_p", self.top_p, 1e-6, 1.0)
        between("top_k", self.top_k, 0, 1_000_000)
        between("beams", self.beams, 1, 64)
        between("seed", self.seed, 0, 2**31)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return tuple(part for part in self.stop.replace("\\n", "\n").split("|") if part)


@dataclass(frozen=True)
class Writer:
    """The library's model with a branch's layers in it, and what it needs to begin and to end.

    ends: the ids that end a text; start: the id that a decoded text begins with, None where it goes on from the prompt;
    room: how many tokens the model can hold.
    """

    model: Any
    tokenizer: Tokenizer
    ends: tuple[int, ...]
    start: int | None
    room: int

    def write(
        self, given: dict[str, Any], spec: WritingSpec, stream: Stream | None = None, grammar: Callable[[], Any] | None = None
    ) -> list[str]:  # fmt: skip
        """One text for each row of what `generate` is given: left-padded `input_ids` (S, T), or `encoder_outputs`; and `attention_mask`.

        grammar: makes what holds each row to a form (`Grammar.maker`). Only the first row is streamed.
        Raises: OptionError where several beams compete for it or would be held, or a prompt leaves no room for an answer.
        """
        if stream is not None and spec.beams > 1:
            raise OptionError(f"beams={spec.beams}: which of them wins is known at the end only. Use 1 to stream.")
        if grammar is not None and spec.beams > 1:
            raise OptionError(f"beams={spec.beams}: a grammar follows one text. Use 1.")
        begun = given["input_ids"].shape[1] if self.start is None else 1
        if begun >= self.room:
            raise OptionError(f"the prompt has {begun} tokens and the model holds {self.room}: there is no room for an answer. Shorten it.")
        rules = [_Ended(self, spec.stops, begun, stream)] if spec.stops or stream else []
        held = [_Held(grammar, len(given["attention_mask"]), begun, self.ends)] if grammar is not None else []
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(spec.seed)
            ids = self.model.generate(
                **given,
                generation_config=self._settings(spec, begun),
                stopping_criteria=StoppingCriteriaList(rules),
                logits_processor=LogitsProcessorList(held),
            )
        texts = [self.text(row, spec.stops) for row in ids[:, begun:].tolist()]
        if stream is not None:
            stream.advance(texts[0], spec.stops, ended=True)
        return texts

    def draw(self, given: dict[str, Any], spec: WritingSpec) -> torch.Tensor:
        """New ids (S, U), drawn as the spec says; each row goes on for one token behind its end, so that the model has read the end too.

        At most max_new_tokens + 1 are drawn; what stands behind an end, and the last of so many, means nothing.
        """
        begun = given["input_ids"].shape[1] if self.start is None else 1
        settings = self._settings(spec, begun)
        settings.max_new_tokens, settings.eos_token_id = spec.max_new_tokens + 1, None
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(spec.seed)
            ids = self.model.generate(
                **given, generation_config=settings, stopping_criteria=StoppingCriteriaList([_PastEnd(self.ends, begun)])
            )
        return ids[:, begun:]

    def text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        """What some new tokens say, up to the first end or stop."""
        end = next((at for at, one in enumerate(ids) if one in self.ends), len(ids))
        said = self.tokenizer.text(ids[:end])
        return said[: min((at for at in map(said.find, stops) if at >= 0), default=len(said))]

    def _settings(self, spec: WritingSpec, begun: int) -> GenerationConfig:
        drawn = spec.temperature > 0
        told: dict[str, Any] = {"temperature": spec.temperature, "top_p": spec.top_p, "top_k": spec.top_k} if drawn else {}
        if self.start is not None:
            told["decoder_start_token_id"] = self.start
        return GenerationConfig(
            max_new_tokens=min(spec.max_new_tokens, self.room - begun),
            do_sample=drawn,
            num_beams=spec.beams,
            eos_token_id=list(self.ends),
            pad_token_id=self.tokenizer.pad_id,
            use_cache=True,
            **told,
        )


def left_padded(prompts: Sequence[np.ndarray], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """input_ids (S, T) int64 padded on the left, and attention_mask (S, T): what comes next stands behind the prompt in every row."""
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}


class Stream:
    """Hands a text on in pieces while it is written: `on_piece` is called with each, as soon as no later token can change it.

    The pieces together are the text that `write` gives. `cancelled`: set it, and the writing ends with the next token.
    """

    def __init__(self, on_piece: Callable[[str], None]) -> None:
        self.on_piece, self.cancelled, self._said = on_piece, Event(), ""

    def advance(self, text: str, stops: Sequence[str], *, ended: bool = False) -> None:
        """Hand on what is certain of the text so far."""
        piece = text[len(self._said) : len(text) - (0 if ended else _uncertain(text, stops))]
        if piece:
            self._said += piece
            self.on_piece(piece)


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may still change: a half character, or the beginning of a stop."""
    half = len(text) - len(text.rstrip("\ufffd"))
    begun = (size for stop in stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
    return max(half, max(begun, default=0))


class _PastEnd(StoppingCriteria):
    """Ends a row one token behind its end."""

    def __init__(self, ends: Sequence[int], begun: int) -> None:
        self.ends, self.begun = ends, begun

    def __call__(self, input_ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
        ends = torch.tensor(self.ends, device=input_ids.device, dtype=input_ids.dtype)
        return torch.isin(input_ids[:, self.begun : -1], ends).any(1)


class _Held(LogitsProcessor):
    """Lets each row go on only as its own grammar allows, until it has ended."""

    def __init__(self, make: Callable[[], Any], rows: int, begun: int, ends: Sequence[int]) -> None:
        self.grammars, self.seen, self.ends = {row: make() for row in range(rows)}, begun, ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, token in (
            (row, token) for at in range(self.seen, input_ids.shape[1]) for row, token in enumerate(input_ids[:, at].tolist())
        ):
            if token in self.ends:
                self.grammars.pop(row, None)
            elif row in self.grammars:
                self.grammars[row].take(token)
        self.seen = input_ids.shape[1]
        for row, grammar in self.grammars.items():
            grammar.mask(scores[row])
        return scores


class _Ended(StoppingCriteria):
    """Ends a row whose text holds a stop, and every row when the stream was cancelled."""

    def __init__(self, writer: Writer, stops: Sequence[str], begun: int, stream: Stream | None) -> None:
        self.writer, self.stops, self.begun, self.stream = writer, stops, begun, stream

    def __call__(self, input_ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
        said = [self.writer.tokenizer.text(row) for row in input_ids[:, self.begun :].tolist()]
        done = [any(stop in text for stop in self.stops) for text in said]
        if self.stream is not None:
            self.stream.advance(self.writer.text(input_ids[0, self.begun :].tolist(), self.stops), self.stops)
            done = [one or self.stream.cancelled.is_set() for one in done]
        return torch.tensor(done, device=input_ids.device)
