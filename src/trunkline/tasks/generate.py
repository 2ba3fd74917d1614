"""Task: go on from a text with a decoder model: answer an instruction, take a turn in a chat, write code, or plain text without a prompt.

Rows with a label are prompt and answer, and only the answer is learned (supervised fine-tuning); rows without one, if all are so, are
plain texts that are learned whole (causal language modelling).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from trunkline.errors import DataError
from trunkline.model.writing.chat import render
from trunkline.model.writing.generation import WritingSpec
from trunkline.model.writing.language import LanguageHead, likelihood
from trunkline.types import IGNORE, Answer, Batch, Item, Output, Row, Rows, Tokens

METRICS = ("perplexity", "bits_per_token", "rouge_l", "exact_match_text")
_FORMS = {"chat": "are messages with an answer", "prompt": "are a text with an answer", "plain": "have no answer"}
_CHARACTERS = 20
"""A token has fewer than so many: what lies further from where a text is cut need not be looked at."""


@dataclass(frozen=True)
class TaskSpec(WritingSpec):
    """max_tokens: of prompt and answer together. A prompt that is too long loses its beginning, an answer its end.

    form: what the training rows are. "chat": messages and an answer, through the model's chat template; "prompt": a text and an answer that
    follows on it as it stands; "plain": texts.
    """

    backbones: ClassVar[tuple[str, ...]] = ("decoder",)
    task: str = "generate"
    max_tokens: int = 512
    form: str = field(default="prompt", metadata={"learned": True})

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """The form of the rows. Raises: DataError where they are not all of one."""
        forms = Counter("plain" if row.get("label") is None else "chat" if "messages" in row else "prompt" for row in rows)
        if len(forms) > 1:
            told = ", ".join(f"{count:,} {_FORMS[form]}" for form, count in forms.items())
            raise DataError(f"{rows.source}: of {len(rows):,} training rows {told}. Give rows of one form.")
        return {"form": next(iter(forms), "prompt")}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """Prompt, answer and end as one run of tokens, and as target (T,) their ids, with IGNORE where nothing is learned.

    about: the ids of the prompt alone, as it is when an answer is asked for: half of max_tokens at the least is then left for the answer.
    gold: the answer, for what is written to be compared with. A row without an answer is the prompt alone, without a target.
    """
    asked, asked_cut = _end_of(_asked(row, tokenizer, spec), spec.max_tokens - min(spec.max_new_tokens, spec.max_tokens // 2), tokenizer)
    if row.get("label") is None:
        return _plain(row, tokenizer, spec, asked) if spec.form == "plain" else Item((Tokens(asked),), None, asked_cut, asked)
    prompt, answer = _said(row, tokenizer, spec)
    kept = answer[: spec.max_tokens - len(tokenizer.start_ids) - 1]
    shown, was_cut = _end_of(prompt, spec.max_tokens - len(kept), tokenizer)
    target = np.concatenate([np.full(len(shown), IGNORE), kept]).astype(np.int64)
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


def _plain(row: Row, tokenizer: Any, spec: TaskSpec, asked: np.ndarray) -> Item:
    """A text that is learned whole, but for its first token, which nothing stands before."""
    text = row["text"][: spec.max_tokens * _CHARACTERS]
    ids = np.array([*tokenizer.start_ids, *tokenizer.pieces(text), *_end(tokenizer)], dtype=np.int32)
    kept = ids[: spec.max_tokens]
    return Item((Tokens(kept),), kept.astype(np.int64), len(kept) < len(ids) or text != row["text"], asked)


def _asked(row: Row, tokenizer: Any, spec: TaskSpec) -> np.ndarray:
    """The ids of a whole prompt, ready to be gone on from."""
    if spec.form == "chat":
        return render(tokenizer, _messages(row), add_answer_prompt=True).ids
    return np.array([*tokenizer.start_ids, *tokenizer.pieces(row["text"][-spec.max_tokens * _CHARACTERS :])], dtype=np.int32)


def _said(row: Row, tokenizer: Any, spec: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a prompt, and of the answer with its end."""
    answer = row["label"][: spec.max_tokens * _CHARACTERS]
    if spec.form != "chat":
        return _asked(row, tokenizer, spec), np.array([*tokenizer.pieces(answer), *_end(tokenizer)], dtype=np.int32)
    messages = [*_messages(row), {"role": "assistant", "content": answer}]
    rendered = render(tokenizer, messages, add_answer_prompt=False)
    (at,) = (span for span in rendered.spans if span.message == len(messages) - 1)
    said = rendered.ids[at.start : at.end]
    ended = len(said) and said[-1] in tokenizer.never_written
    return rendered.ids[: at.start], said if ended else np.append(said, _end(tokenizer)).astype(np.int32)


def _messages(row: Row) -> list[dict[str, str]]:
    return list(row.get("messages") or [{"role": "user", "content": row["text"]}])


def _end(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.end_id is None else (tokenizer.end_id,)


def _end_of(prompt: np.ndarray, count: int, tokenizer: Any) -> tuple[np.ndarray, bool]:
    """The start of the prompt and so many of its last tokens in all, and whether anything was cut."""
    start = len(tokenizer.start_ids)
    if len(prompt) <= count:
        return prompt, False
    return np.concatenate([prompt[:start], prompt[len(prompt) - count + start :]]), True
