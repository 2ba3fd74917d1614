"""How likely each token of an answer is, how sure the policy was there, and the states that a value is read from. Between roles.py and the loop.

`model/writing/language.py` makes the logits in pieces and uses them at once, so that (M, V) never stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trunkline.model.network import Network
from trunkline.model.writing.language import scored
from trunkline.types import IGNORE, Batch

_HIDDEN = 128


@dataclass(frozen=True)
class TokenScores:
    """Of the M tokens of all answers of a batch, answer by answer: log-probability (M,), entropy (M,) in nats where it was asked for, and the
    last hidden states (M, D) that each was predicted from.
    """

    log_probability: torch.Tensor
    entropy: torch.Tensor
    hidden: torch.Tensor


def token_scores(network: Network, batch: Batch, *, temperature: float = 1.0, with_entropy: bool = False) -> TokenScores:
    """The scores of the targets under the network, its logits divided by the temperature that they were drawn at.

    with_entropy: where there are gradients, the entropy has one too, which is a second pass back through the output layer.
    """
    head: Any = network.head
    hidden, wanted, counts = _predicting(network.hidden(batch), batch, head.model.kind)
    before = hidden[counts]
    return TokenScores(*scored(head.model, before, wanted[counts], temperature, entropy=with_entropy), before)


def cut_states(batch: Batch) -> torch.Tensor:
    """(M, D): the states at the cut from which the tokens of the answers are predicted; for decoders."""
    if batch.hidden is None:
        raise ValueError("the batch has no states at a cut")
    hidden, _, counts = _predicting(batch.hidden, batch, "decoder")
    return hidden[counts]


class Value(nn.Module):
    """(M, D) states -> (M,) how much reward is still to come: a norm and a small network, which starts at 0 everywhere.

    The norm has no weights: at a cut a few channels can be a thousand times larger than the rest.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inner, self.outer = nn.Linear(width, _HIDDEN), nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(self.norm(hidden))))[..., 0]


def _predicting(hidden: torch.Tensor, batch: Batch, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The states before each target (S, U, D), the targets (S, U), and which of them count. A decoder's stand where the tokens stand."""
    wanted = batch.targets[:, 1 if kind == "decoder" else 0 :]
    return hidden[:, : wanted.shape[1]], wanted, wanted != IGNORE
