"""How likely each token of an answer is, how sure the policy was there, and the states that a value is read from. Between roles.py and the loop.

As `model/writing/language.py` does it for likelihoods alone: logits are made in pieces and used at once, so that (M, V) never stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trunkline.model.network import Network
from trunkline.model.writing.language import LanguageModel
from trunkline.types import IGNORE, Batch

_LOGITS_AT_ONCE = 1 << 24
_HIDDEN = 128


@dataclass(frozen=True)
class TokenScores:
    """Of the M tokens of all answers of a batch, answer by answer: log-probability (M,), entropy (M,) in nats, and the last hidden states
    (M, D) that each was predicted from.
    """

    log_probability: torch.Tensor
    entropy: torch.Tensor
    hidden: torch.Tensor


def token_scores(network: Network, batch: Batch, *, temperature: float = 1.0, with_entropy: bool = False) -> TokenScores:
    """The scores of the targets under the network, its logits divided by the temperature that they were drawn at.

    with_entropy: whether the entropy has a gradient too, for a bonus; it is a second pass back through the output layer.
    """
    head: Any = network.head
    hidden, wanted, counts = _predicting(network.hidden(batch), batch, head.model.kind)
    return TokenScores(*_scored(head.model, hidden[counts], wanted[counts], temperature, with_entropy), hidden[counts])


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


def _scored(
    model: LanguageModel, hidden: torch.Tensor, wanted: torch.Tensor, temperature: float, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    size = max(1, _LOGITS_AT_ONCE // model.shell.config.get_text_config().vocab_size)
    trained = any(p.requires_grad for p in model.shell.parameters())
    found = []
    for states, ids in zip(hidden.split(size), wanted.split(size)):
        if not torch.is_grad_enabled():
            found.append(_piece(model, states, ids, temperature))
        elif trained:
            found.append(checkpoint(_piece, model, states, ids, temperature, use_reentrant=False))
        else:
            found.append(_Piece.apply(states, ids, model, temperature, with_entropy))
    logs, entropies = zip(*found) if found else ((hidden.new_zeros(0),), (hidden.new_zeros(0),))
    return torch.cat(logs), torch.cat(entropies)


def _piece(model: LanguageModel, hidden: torch.Tensor, wanted: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model.logits(hidden)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    logs = functional.log_softmax(logits, -1)
    return logs.gather(1, wanted[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


class _Piece(torch.autograd.Function):
    """As `language._Piece`: the gradient with respect to the hidden states is worked out while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, model: LanguageModel, temperature: float, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            logs, entropy = _piece(model, leaf, wanted, temperature)
            (of_logs,) = torch.autograd.grad(logs.sum(), leaf, retain_graph=with_entropy)
            of_entropy = torch.autograd.grad(entropy.sum(), leaf)[0] if with_entropy else torch.zeros(0)
        ctx.save_for_backward(of_logs, of_entropy)
        return logs.detach(), entropy.detach()

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        of_logs, of_entropy = ctx.saved_tensors
        found = above[0][:, None].to(of_logs.dtype) * of_logs
        if of_entropy.numel():
            found = found + above[1][:, None].to(of_logs.dtype) * of_entropy
        return found, None, None, None, None
