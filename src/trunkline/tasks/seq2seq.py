"""Task: turn a text into another one (translate, summarise, correct) with an encoder-decoder model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from trunkline.choices import between
from trunkline.model.writing.generation import WritingSpec
from trunkline.model.writing.language import LanguageHead, likelihood
from trunkline.types import Answer, Batch, Item, Output, Row, Rows

METRICS = ("perplexity", "bits_per_token", "bleu", "chrf", "rouge1", "rouge2", "rouge_l")


@dataclass(frozen=True)
class TaskSpec(WritingSpec):
    """prefix: stands before each text, as the model was taught ("summarize: "); max_target_tokens: a longer target loses its end.

    max_tokens: of the source, prefix included.
    """

    backbones: ClassVar[tuple[str, ...]] = ("encoder-decoder",)
    task: str = "seq2seq"
    prefix: str = ""
    max_target_tokens: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        between("max_target_tokens", self.max_target_tokens, 2, 131072)

    def learned_from(self, rows: Rows) -> dict[str, Any]:
        """Nothing: all it needs to know it was told."""
        return {}


def prepare(row: Row, tokenizer: Any, spec: TaskSpec) -> Item:
    """The source as tokens, and as target (U,) the ids of what to write, its end included; None for a row without a label.

    A label may be a list of texts that are all right: the first is learned, all are compared with.
    """
    tokens, was_cut = tokenizer.encode(spec.prefix + row["text"], max_tokens=spec.max_tokens)
    if row.get("label") is None:
        return Item((tokens,), None, was_cut)
    references = [row["label"]] if isinstance(row["label"], str) else list(row["label"])
    target, target_cut = tokenizer.encode(references[0], max_tokens=spec.max_target_tokens)
    return Item((tokens,), target.ids.astype(np.int64), was_cut or target_cut, gold=references)


def head(width: int, spec: TaskSpec) -> nn.Module:
    """The backbone's own output layer: the decoder's hidden (S, U, D) -> log-probabilities (M,) of the targets."""
    return LanguageHead()


def loss(out: Output, batch: Batch) -> torch.Tensor:
    """Mean over the target tokens of their negative log-probability."""
    return -out.logits.mean()


def decode(out: Output, batch: Batch, spec: TaskSpec) -> list[Answer]:
    """With targets: how likely they are, as [nats, tokens]. Without: the text that is written for each item."""
    if batch.targets is None:
        return [Answer(text, text) for text in (out.generate() if out.generate else ())]
    nll, tokens = likelihood(out, len(batch.targets))
    return [Answer(None, np.array(pair)) for pair in zip(nll.tolist(), tokens.tolist())]
