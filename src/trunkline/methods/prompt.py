"""Method: learned vectors in front of the states that enter the first layer above the cut. Source: Lester et al. 2021 (prompt tuning).

In the paper they stand in front of the word embeddings and go through the whole model: that is depth "all" here (for its weights untouched
too). With a cut they enter deeper, so they steer the upper layers only and the trunk's states stay as stored; their number for
the same effect may differ. They are seen by the tokens and are cut off again behind the last layer, so no head and no
pooling reads them. A network with a prompt does not start as the plain model: its tokens see more from the first step.
The vectors start as the states of random words at the cut (the paper's "sampled vocabulary", section 3.2).

P-tuning (Liu et al. 2021, "GPT understands, too", section 3.2) does not learn the vectors alone but through a small network, since numbers that learn apart
find each other badly. encoder="mlp" does so, with what the network adds to the vectors starting at zero (Razdaibiedina et al. 2023, residual prompt tuning).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trunkline.choices import between, one_of
from trunkline.errors import OptionError
from trunkline.model.backbone import ALL
from trunkline.model.network import Network
from trunkline.model.writing.language import LanguageHead


@dataclass(frozen=True)
class Config:
    """length: how many vectors; encoder: "none", or "mlp" to learn them through a small network (P-tuning)."""

    length: int = 16
    encoder: str = "none"
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        one_of("encoder", self.encoder, ("none", "mlp"))
        between("length", self.length, 1, 1024)
        between("learning_rate", self.learning_rate, 1e-8, 1.0)


def graft(network: Network, config: Config) -> None:
    """Put the vectors before the layers. Raises: OptionError for tasks that write, whose pass from token ids has no place for them."""
    if network.depth == 0:
        return
    if isinstance(network.head, LanguageHead):
        raise OptionError("method='prompt': a task that writes runs the whole model, token by token, without it. Use 'prefix' or 'lora'.")
    stack: Any = network.upper
    room = network._backbone.max_tokens if network.depth == ALL else None
    stack.prompt = Prompt(_words(network, config.length), room, encoded=config.encoder == "mlp")
    stack.register_forward_pre_hook(_before, with_kwargs=True)
    stack.register_forward_hook(_after)


def merge(network: Network) -> Network:
    """Raises: OptionError; vectors are part of no layer's weights."""
    raise OptionError("method='prompt': vectors are no weights, so they cannot be merged into some. Keep them, or tune with 'lora'.")


class Prompt(nn.Module):
    """vectors: (P, D), or (P, width of the embeddings) at depth "all"; room: how many tokens the model can hold, where that matters."""

    def __init__(self, vectors: torch.Tensor, room: int | None, *, encoded: bool = False) -> None:
        super().__init__()
        self.vectors, self.room, width = nn.Parameter(vectors.clone()), room, vectors.shape[1]
        self.encoder = _encoder(width).to(vectors) if encoded else None

    def forward(self) -> torch.Tensor:
        """(P, D): what stands in front."""
        found: torch.Tensor = self.vectors if self.encoder is None else self.vectors + self.encoder(self.vectors)
        return found


def _encoder(width: int) -> nn.Sequential:
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)


@torch.no_grad()
def _words(network: Network, length: int) -> torch.Tensor:
    """Of so many random words: the embeddings (P, E) at depth "all", else the states at the cut (P, D)."""
    backbone, stack = network._backbone, network.upper
    ids = torch.randint(0, backbone.config.vocab_size, (1, length)).to(backbone.device)
    if network.depth == ALL:
        return stack.get_input_embeddings()(ids)[0]  # type: ignore[operator]
    return backbone.trunk(network.depth)(ids, None)[0]


def _before(stack: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The hook before the layers: the vectors stand in front, and the mask lets them be seen."""
    named = dict(named)
    ids, hidden = named.pop("input_ids", None), named.pop("inputs_embeds", None)
    hidden = stack.get_input_embeddings()(ids) if hidden is None else hidden
    prompt: Prompt = stack.prompt
    rows, count = len(hidden), len(prompt.vectors)
    if prompt.room is not None and count + hidden.shape[1] > prompt.room:
        raise OptionError(
            f"length={count} and a text of {hidden.shape[1]} tokens: the model holds {prompt.room}. Use a shorter prompt, or max_tokens="
            f"{prompt.room - count} in the task's options."
        )
    named["inputs_embeds"] = torch.cat([prompt().to(hidden.dtype).expand(rows, -1, -1), hidden], dim=1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if named.get(name) is not None:
            named[name] = torch.cat([named[name].new_full((rows, count), value), named[name]], dim=1)
    return given, named


def _after(stack: Any, given: Any, result: Any) -> Any:
    """The hook behind the layers: the vectors' own states are cut off."""
    result.last_hidden_state = result.last_hidden_state[:, len(stack.prompt.vectors) :]
    return result
