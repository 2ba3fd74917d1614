"""A linear-chain conditional random field over the tags of words: what a path of tags is worth, which is best, how sure each tag is.

Beside `pooling`: the head of `tasks/tag.py` holds its three tensors, its loss and its answers call these functions. All of them run over the
whole batch at once, one step a word. Source: Lafferty et al. 2001; forward and backward sums as in Rabiner 1989, equations 19 to 27.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

FORBIDDEN = -1e4
"""What a step that is not allowed costs: enough that no path takes it, and finite, so that gradients are."""


class Steps(NamedTuple):
    """What it is worth to begin with a tag (K,), to go from one to the next (K, K), and to end with one (K,)."""

    start: torch.Tensor
    pair: torch.Tensor
    end: torch.Tensor


class StepWeights(nn.Module):
    """Learned `Steps` for K tags, all 0 at first."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(tags))
        self.pair = nn.Parameter(torch.zeros(tags, tags))
        self.end = nn.Parameter(torch.zeros(tags))

    def forward(self) -> dict[str, torch.Tensor]:
        return {"start": self.start, "pair": self.pair, "end": self.end}


def no_steps(tags: int) -> Steps:
    """Steps that are worth nothing: each word is judged on its own."""
    return Steps(torch.zeros(tags), torch.zeros(tags, tags), torch.zeros(tags))


def allowed(steps: Steps, may: Steps) -> Steps:
    """The steps with those that `may` (bool) does not allow at `FORBIDDEN`."""
    return Steps(*(torch.where(ok, value.float(), FORBIDDEN) for value, ok in zip(steps, may)))


def path_score(emissions: torch.Tensor, tags: torch.Tensor, mask: torch.Tensor, steps: Steps) -> torch.Tensor:
    """(B,) what each path of tags is worth. emissions: (B, W, K); tags: (B, W) int64; mask: (B, W) bool, True first, at least once."""
    tags = tags.masked_fill(~mask, 0)
    each = emissions.gather(2, tags[..., None])[..., 0].masked_fill(~mask, 0.0).sum(1)
    moves = steps.pair[tags[:, :-1], tags[:, 1:]].masked_fill(~mask[:, 1:], 0.0).sum(1)
    last = tags.gather(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return each + moves + steps.start[tags[:, 0]] + steps.end[last]


def log_partition(emissions: torch.Tensor, mask: torch.Tensor, steps: Steps) -> torch.Tensor:
    """(B,) the log of the sum over all paths of exp(what the path is worth)."""
    return torch.logsumexp(_forward(emissions, mask, steps)[-1] + steps.end, dim=1)


def best_path(emissions: torch.Tensor, mask: torch.Tensor, steps: Steps) -> torch.Tensor:
    """(B, W) int64: the tags of the path that is worth most; 0 where the mask is False. Source: Viterbi 1967."""
    best = emissions[:, 0] + steps.start
    came: list[torch.Tensor] = []
    for word in range(1, emissions.shape[1]):
        through, origin = (best[:, :, None] + steps.pair).max(1)
        here = mask[:, word, None]
        best = torch.where(here, through + emissions[:, word], best)
        came.append(torch.where(here, origin, torch.arange(origin.shape[1], device=origin.device)))
    tags = [(best + steps.end).argmax(1)]
    for origin in reversed(came):
        tags.append(origin.gather(1, tags[-1][:, None])[:, 0])
    return torch.stack(tags[::-1], dim=1).masked_fill(~mask, 0)


def marginals(emissions: torch.Tensor, mask: torch.Tensor, steps: Steps) -> torch.Tensor:
    """(B, W, K) the probability of each tag at each word, over all paths."""
    forward = _forward(emissions, mask, steps)
    total = torch.logsumexp(forward[-1] + steps.end, dim=1)
    after = steps.end.expand_as(forward[0])
    backward = [after]
    for word in range(emissions.shape[1] - 1, 0, -1):
        reached = torch.logsumexp(steps.pair + (emissions[:, word] + after)[:, None, :], dim=2)
        after = torch.where(mask[:, word, None], reached, after)
        backward.append(after)
    logs = torch.stack([f + b for f, b in zip(forward, reversed(backward))], dim=1)
    return (logs - total[:, None, None]).exp()


def _forward(emissions: torch.Tensor, mask: torch.Tensor, steps: Steps) -> list[torch.Tensor]:
    """For each word (B, K): the log of the sum over all paths up to there that end with each tag; behind the mask the last one goes on."""
    sums = [emissions[:, 0] + steps.start]
    for word in range(1, emissions.shape[1]):
        reached = torch.logsumexp(sums[-1][:, :, None] + steps.pair, dim=1) + emissions[:, word]
        sums.append(torch.where(mask[:, word, None], reached, sums[-1]))
    return sums
