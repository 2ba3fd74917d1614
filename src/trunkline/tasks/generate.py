"""Task: go on from a text with a decoder model: answer an instruction, take a turn in a chat, write code, or plain text without a prompt.

Rows with a label are prompt and answer, and only the answer is learned (supervised fine-tuning); rows without one, if all are so, are
plain texts that are learned whole (causal language modelling).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from trunkline.errors import DataError
from trunkline.model.generation import WritingSpec
from trunkline.model.language import LanguageHead, likelihood
from trunkline.types import IGNORE, Answer, Batch, Item, Output, Row, Rows, Tokens

METRICS = ("perplexity", "bits_per_token", "rouge_l", "exact_match_text")
_CHARACTERS = 20
"""A token has fewer than so many: what lies further from where a text is cut need not be looked at."""


@dataclass(frozen=True)
class TaskSpec(WritingSpec):
    """max_tokens: of prompt and answer together. A prompt that is too long loses its beginning, an answer its end."""

    backbones: ClassVar[tuple[str, ...]] = ("decoder",)
    task: str = "generate"
    max_tokens: int = 512
    plain: bool = field(default=False, metadata={"learned": True})

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Whether the rows are plain texts. Raises: DataError where some have an answer and some have none."""
        answered = sum(row.get("label") is not None for row in rows)
        if 0 < answered < len(rows):
            raise DataError(
                f"{rows.source}: {answered:,} of {len(rows):,} training rows have an answer. Give all of them one, or none (plain texts)."
            )
        return {"plain": not answered}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """Prompt, answer and end as one run of tokens, and as target (T,) their ids, with IGNORE where nothing is learned.

    about: the ids of the prompt alone, as it is when an answer is asked for: half of max_tokens at the least is then left for the answer.
    gold: the answer, for what is written to be compared with. A row without an answer is the prompt alone, without a target.
    """
    if row.get("label") is None:
        return _plain(row, tokenizer, spec) if spec.plain else _prompt(row, tokenizer, spec)
    prompt, answer = _ids(row, tokenizer, spec), tokenizer.pieces(row["label"][: spec.max_tokens * _CHARACTERS])
    answer = np.append(answer, [tokenizer.end_id]).astype(np.int32) if tokenizer.end_id is not None else answer
    kept = answer[: spec.max_tokens - len(tokenizer.start_ids) - 1]
    shown, was_cut = _end_of(prompt, spec.max_tokens - len(kept), tokenizer)
    target = np.concatenate([np.full(len(shown), IGNORE), kept]).astype(np.int64)
    asked, _ = _end_of(prompt, _room(spec), tokenizer)
    return Item((Tokens(np.concatenate([shown, kept])),), target, was_cut or len(kept) < len(answer), asked, [row["label"]])


def head(width: int, spec: TaskSpec) -> nn.Module:
    """The backbone's own output layer: hidden (S, T, D) -> log-probabilities (M,) of the tokens that count."""
    return LanguageHead()


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the tokens that count of their negative log-probability."""
    return -out.logits.mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """With targets: how likely they are, as [nats, tokens]. Without: the text that is written for each item."""
    if batch.targets is None:
        return [Answer(text, text) for text in (out.generate() if out.generate else ())]
    nll, tokens = likelihood(out, len(batch.targets))
    return [Answer(None, np.array(pair)) for pair in zip(nll.tolist(), tokens.tolist())]


def _prompt(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    asked, was_cut = _end_of(_ids(row, tokenizer, spec), _room(spec), tokenizer)
    return Item((Tokens(asked),), None, was_cut, asked)


def _plain(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """A text that is learned whole, but for its first token, which nothing stands before."""
    text = _ids(row, tokenizer, spec)
    end = () if tokenizer.end_id is None else (tokenizer.end_id,)
    ids = np.append(text, end).astype(np.int32)[: spec.max_tokens]
    asked, _ = _end_of(text, _room(spec), tokenizer)
    return Item((Tokens(ids),), ids.astype(np.int64), len(text) + len(end) > spec.max_tokens, asked)


def _ids(row: Row, tokenizer: Any, spec: TaskSpec) -> np.ndarray:
    """The ids of a whole prompt, with what stands before every text of this model."""
    text = row["text"][-spec.max_tokens * _CHARACTERS :] if not spec.plain else row["text"][: spec.max_tokens * _CHARACTERS]
    return np.concatenate([np.array(tokenizer.start_ids, dtype=np.int32), tokenizer.pieces(text)])


def _end_of(prompt: np.ndarray, count: int, tokenizer: Any) -> tuple[np.ndarray, bool]:
    """The start of the prompt and so many of its last tokens in all, and whether anything was cut."""
    start = len(tokenizer.start_ids)
    if len(prompt) <= count:
        return prompt, False
    return np.concatenate([prompt[:start], prompt[len(prompt) - count + start :]]), True


def _room(spec: TaskSpec) -> int:
    return spec.max_tokens - min(spec.max_new_tokens, spec.max_tokens // 2)
