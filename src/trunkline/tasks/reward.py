"""Task: a number for an answer to a prompt, learned from which of two answers people preferred (a reward model).

A row has the prompt (`text`, and `messages` where it is a chat), an answer (`text_b`) and, to learn from, a worse one (`rejected`). The number
means nothing by itself: the difference of two is the log-odds that the first is preferred.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trunkline.choices import between, one_of
from trunkline.errors import DataError
from trunkline.model.heads.pooling import ANSWER, POOLINGS, AnswerHead, PooledHead
from trunkline.model.writing.chat import render
from trunkline.types import Answer, Batch, Item, Output, Row, Rows, Spec, Tokens

METRICS = ("pair_accuracy", "pair_loss", "pair_ece")


@dataclass(frozen=True)
class TaskSpec(Spec):
    """margin: so much of a row's own `margin` (how much better its chosen answer was said to be) the difference of the rewards has to exceed;
    center: weight of a term that pulls the sum of the two rewards of a pair to zero, so that rewards stay around zero over prompts
    temperature: what rewards are divided by, fitted on the validation rows: then their differences are log-odds that can be believed

    pooling: "answer" is the mean over the answer's own tokens: those of the prompt are nearly the same beside both answers
    max_tokens: of prompt and answer together; a prompt that is too long loses its beginning.
    """

    kind: ClassVar[str] = "preferences"
    task: str = "reward"
    pooling: str = ANSWER
    max_tokens: int = 512
    margin: float = 0.0
    center: float = 0.0
    dropout: float = 0.1
    temperature: float = field(default=1.0, metadata={"learned": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, (*POOLINGS, ANSWER))
        between("margin", self.margin, 0.0, 100.0)
        between("center", self.center, 0.0, 100.0)
        between("dropout", self.dropout, 0.0, 0.9)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Nothing. Raises: DataError where a row has no pair of answers, or none a margin that is asked for."""
        lacking = next((row for row in rows if not row.get("text_b") or not row.get("rejected")), None)
        if lacking is not None:
            raise DataError(f"{rows.source}: the prompt {lacking['text'][:60]!r} has no pair of answers. Each training row needs a better "
                            "one (`text_b`) and a worse one (`rejected`).")  # fmt: skip
        if self.margin and not any("margin" in row for row in rows):
            raise DataError(f"{rows.source}: margin={self.margin}: no row says how much better its answer is. Give ratings, or margin=0.")
        return {}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """Prompt and answer as one `Tokens`; with a worse answer two, and as target the row's margin (0 where it has none). about: where each answer begins."""
    answers = [row["text_b"], *([row["rejected"]] if row.get("rejected") else [])] if row.get("text_b") else [None]
    encoded = [_encoded(row, answer, tokenizer, spec) for answer in answers]
    target = np.float32(row.get("margin") or 0.0) if len(answers) == 2 else None
    return Item(tuple(one.tokens for one in encoded), target, any(one.was_cut for one in encoded), tuple(one.answer for one in encoded))


def head(width: int, spec: TaskSpec) -> nn.Module:
    """Pooling and a linear layer: hidden (S, T, D) -> logits (S, 1), the rewards before the temperature."""
    return AnswerHead(width, 1, spec.dropout) if spec.pooling == ANSWER else PooledHead(width, 1, spec.pooling, spec.dropout)


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the pairs of -log sigmoid(r_chosen - r_rejected - margin), and `center` times the mean of (r_chosen + r_rejected)^2.

    Source: Ouyang et al. 2022, equation 1; the margin as in Touvron et al. 2023 (Llama 2), equation 2, times `margin`; the term that centres
    as in Eisenstein et al. 2023 (Helping or herding), section 3.1.
    """
    spec, rewards = batch.spec, _scored(out.logits)
    chosen, rejected = rewards[0::2], rewards[1::2]
    wanted = spec.margin * batch.targets.to(rewards.dtype)
    pairs = -functional.logsigmoid(chosen - rejected - wanted)
    return (pairs + spec.center * (chosen + rejected) ** 2).mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """The reward of each item's (first) answer. Of a pair, scores is the margin, and probability how likely its first answer is preferred."""
    rewards = out.logits.double()[:, 0].cpu().numpy() / spec.temperature
    found = []
    for own in np.split(rewards, np.flatnonzero(np.diff(batch.owner.cpu().numpy())) + 1):
        margin = own[0] - own[1] if len(own) > 1 else own[0]
        found.append(Answer(float(own[0]), np.float64(margin), float(1 / (1 + np.exp(-margin))) if len(own) > 1 else None))
    return found


def _scored(logits: torch.Tensor) -> torch.Tensor:
    """(S,) in float32 at the least."""
    return logits[:, 0] if logits.dtype == torch.float64 else logits[:, 0].float()


@dataclass(frozen=True)
class _Encoded:
    """A prompt and an answer, and the place of the answer's first token."""

    tokens: Tokens
    answer: int
    was_cut: bool


def _encoded(row: Row, answer: str | None, tokenizer: Any, spec: TaskSpec) -> _Encoded:
    """A chat by the model's template where it is one that writes, else prompt and answer as a pair of texts."""
    if answer is None:
        tokens, was_cut = tokenizer.encode(row["text"], max_tokens=spec.max_tokens)
        return _Encoded(tokens, 0, was_cut)
    if row.get("messages") and tokenizer.pairs_joined:
        messages = [*row["messages"], {"role": "assistant", "content": answer}]
        rendered = render(tokenizer, messages, add_answer_prompt=False)
        first = int(rendered.of(len(messages) - 1).argmax())
        return _end_of(rendered.ids, first, len(tokenizer.start_ids), spec.max_tokens)
    prompt = _cut(row["text"], answer, tokenizer, spec.max_tokens)
    encoding, was_cut = tokenizer.pair(prompt, answer, max_tokens=spec.max_tokens)
    return _Encoded(tokenizer.tokens(encoding), tokenizer.second(encoding, prompt), was_cut or prompt != row["text"])


def _end_of(ids: np.ndarray, answer: int, start: int, count: int) -> _Encoded:
    """The ids that stand before every text and so many of the last ones in all."""
    if len(ids) <= count:
        return _Encoded(Tokens(ids), answer, False)
    gone = len(ids) - count
    return _Encoded(Tokens(np.concatenate([ids[:start], ids[gone + start :]])), max(start, answer - gone), True)


def _cut(prompt: str, answer: str, tokenizer: Any, count: int) -> str:
    """The end of a prompt that leaves room for the answer, but never less than a quarter of all tokens."""
    beside = 4  # special tokens, and the line break between two texts
    prompt = prompt[-20 * count :]
    room = max(count // 4, count - len(tokenizer.pieces(answer[: 20 * count])) - beside)
    (encoding,) = tokenizer.encodings(prompt, max_tokens=21 * count)
    offsets = [span for span, special in zip(encoding.offsets, encoding.special_tokens_mask) if not special]
    return prompt[offsets[-room][0] :] if len(offsets) > room else prompt
