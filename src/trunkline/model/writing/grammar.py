"""A text that has to be JSON of a schema: at each step only the tokens that can still lead there, by llguidance (its time is linear)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trunkline.errors import MissingExtra, OptionError
from trunkline.model.tokenizer import Tokenizer

_MOST_BYTES = 64 << 10


class Grammar:
    """What one text may still become. Made by what `maker` gives, one for each text."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher, self._mask = matcher, torch.empty((1, (size + 31) // 32), dtype=torch.int32)

    def mask(self, logits: torch.Tensor) -> None:
        """Put minus infinity in place in logits (V) where a token is not allowed."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.numel() * 4)
        if self._matcher.is_error():
            raise ValueError("the grammar was left")
        size = self._mask.shape[1] * 32
        allowed = ((self._mask[0][:, None] >> torch.arange(32, dtype=torch.int32)) & 1).bool().reshape(size)[: len(logits)]
        logits[: len(allowed)].masked_fill_(~allowed.to(logits.device), -torch.inf)
        logits[len(allowed) :] = -torch.inf

    def take(self, token: int) -> None:
        """The text goes on with this token."""
        self._matcher.consume_token(token)

    @staticmethod
    def maker(tokenizer: Tokenizer, ends: Sequence[int], schema: dict[str, Any]) -> Callable[[], Grammar]:
        """What makes a grammar for each text. Raises: OptionError for a schema that is too large, or cannot be followed;
        MissingExtra without the package llguidance.
        """
        llguidance, text = _library(), json.dumps(schema)
        if len(text) > _MOST_BYTES:
            raise OptionError(f"a schema of {len(text):,} characters: it may have {_MOST_BYTES:,} as JSON.")
        words = _words(tokenizer, tuple(ends))
        limits = llguidance.LLParserLimits(
            max_grammar_size=200_000, initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000
        )
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise OptionError(f"the schema cannot be followed: {str(error)[:200]}.") from None

        def make() -> Grammar:
            matcher = llguidance.LLMatcher(words, grammar, limits=limits)
            if matcher.is_error():
                raise OptionError(f"the schema cannot be followed: {matcher.get_error()[:200]}.")
            return Grammar(matcher, words.vocab_size)

        make()  # a schema that cannot be followed is refused before anything is queued
        return make


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtra("llguidance", "schema", "JSON of a schema") from error
    return llguidance


@functools.lru_cache(maxsize=8)
def _words(tokenizer: Tokenizer, ends: tuple[int, ...]) -> Any:
    return _library().LLTokenizer(tokenizer.controlled.to_str(), eos_token=list(ends))
