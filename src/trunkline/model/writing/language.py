"""A backbone's own output layer on top of its last hidden states: how likely the tokens of a text are, and what the next one is.

The output layer belongs to the backbone (often it is its embeddings once more): it is shared and frozen, and nothing of it is saved
with a branch. What a family does around it (T5 scales, Gemma squashes, BART adds a bias) is left to the library's own model for
text, whose stack is taken out: it is called with hidden states and gives logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from trunkline.errors import ModelError
from trunkline.model.backbone import Backbone
from trunkline.model.stacks import at, shared
from trunkline.model.weights import weight_files
from trunkline.types import IGNORE, Batch, Output

_LOGITS_AT_ONCE = 1 << 22
"""Logits are made and used in pieces of about so many numbers (16 MB), so that memory does not grow with the batch."""
_OUTPUT = "lm_head.weight"
_OLD_NAMES = {_OUTPUT: "embed_out.weight"}


class LanguageModel:
    """The library's model for text around a backbone's stack that was taken out: hidden states in, logits out. No module: nothing of it is a
    branch's own. `tied`: its output layer is the input embeddings.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.kind = backbone.family.kind
        with torch.device("meta"):
            kind: Any = AutoModelForSeq2SeqLM if self.kind == "encoder-decoder" else AutoModelForCausalLM
            shell = kind.from_config(copy.deepcopy(backbone.config))
        if self.kind == "encoder-decoder":  # the library makes the decoder's cache for as many layers as the encoder has
            shell.config.num_hidden_layers = len(at(at(backbone.model, backbone.family.decoder), backbone.family.layers))
        self._put(shell, _Given(), _Given())
        self.tied = _fill(shell, backbone)
        self.shell: Any = shell.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModel:
        return self.like(copy.deepcopy(self.shell, shared(self.shell)))

    def like(self, shell: Any) -> LanguageModel:
        """The same around another shell."""
        other = object.__new__(LanguageModel)
        other.kind, other.tied, other.shell = self.kind, self.tied, shell
        return other

    def use(self, embeddings: nn.Parameter) -> None:
        """Where the output layer is tied to the input embeddings: tie it to these, which may be in training."""
        if self.tied:
            self.shell.lm_head.weight = embeddings

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (M, D), as the last layer gives them -> (M, V)."""
        if self.kind == "encoder-decoder":
            given = {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden[None]), "decoder_inputs_embeds": hidden[None]}
        else:
            given = {"inputs_embeds": hidden[None]}
        return self.shell(**given, use_cache=False).logits[0]

    def around(self, stack: nn.Module) -> Any:
        """The library's model with a stack in it: a whole decoder, or the two halves "encoder" and "decoder" of an encoder-decoder."""
        shell = copy.deepcopy(self.shell, shared(self.shell))
        halves = (stack["encoder"], stack["decoder"]) if isinstance(stack, nn.ModuleDict) else (stack, stack)
        self._put(shell, *halves)
        return shell

    def _put(self, shell: Any, encoder: nn.Module, decoder: nn.Module) -> None:
        if self.kind == "encoder-decoder":
            base = shell.base_model
            base.encoder, base.decoder = encoder, decoder
            if hasattr(base, "shared"):
                base.shared = None
        else:
            setattr(shell, shell.base_model_prefix, decoder)


class LanguageHead(nn.Module):
    """Called with hidden (S, T, D) and the batch: the log-probability (M,) of each target that counts, and "rows" (M,), the item of each.

    batch.targets: (S, T) token ids, or (B, n, T) where each item has n sequences; IGNORE where no loss is wanted. For a decoder they stand
    where the tokens themselves stand, and the state before each is what it is predicted from; of an encoder-decoder the hidden states are
    the decoder's, which read the targets already moved by one (decoder.py). It has no weights: `Network` ties it to the backbone's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model: LanguageModel | None = None

    def tie(self, backbone: Backbone) -> None:
        self.model = LanguageModel(backbone)

    def forward(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.model is None:
            raise ValueError("a language head needs a backbone's output layer: make its network first")
        moved = 1 if self.model.kind == "decoder" else 0
        wanted = batch.targets.flatten(0, -2)[:, moved:]
        counts = wanted != IGNORE
        states = hidden[:, : wanted.shape[1]][counts]
        return log_probabilities(self.model, states, wanted[counts]), {"rows": counts.nonzero()[:, 0]}


def log_probabilities(model: LanguageModel, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """hidden (M, D), wanted (M,) token ids -> (M,) float32: the log-probability of each, in pieces, so that (M, V) never exists."""
    return scored(model, hidden, wanted, 1.0, entropy=False)[0]


def scored(
    model: LanguageModel, hidden: torch.Tensor, wanted: torch.Tensor, temperature: float, *, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The same with logits divided by the temperature, and the entropy of each (M,) in nats where it is asked for: without, zeros."""
    size = max(1, _LOGITS_AT_ONCE // model.shell.config.get_text_config().vocab_size)
    trained = any(p.requires_grad for p in model.shell.parameters())
    found = []
    for states, ids in zip(hidden.split(size), wanted.split(size)):
        if torch.is_grad_enabled() and trained:
            found.append(checkpoint(_plain, model, states, ids, temperature, entropy, use_reentrant=False))
        else:
            found.append(_Piece.apply(states, ids, model, temperature, entropy))
    logs, entropies = zip(*found) if found else ((hidden.new_zeros(0),), (hidden.new_zeros(0),))
    return torch.cat(logs), torch.cat(entropies)


def likelihood(out: Output, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of so many rows: the negative log likelihood in nats (B,) float64, and how many tokens it is of (B,)."""
    at = out.extra["rows"]
    nll = torch.zeros(rows, dtype=torch.float64, device=at.device).index_add_(0, at, -out.logits.double())
    return nll, torch.bincount(at, minlength=rows)


def _plain(
    model: LanguageModel, hidden: torch.Tensor, wanted: torch.Tensor, temperature: float, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    every = functional.log_softmax(_wide(model.logits(hidden)) / temperature, -1)
    logs = every.gather(1, wanted[:, None])[:, 0]
    return logs, -(every.exp() * every).sum(-1) if entropy else torch.zeros_like(logs)


class _Piece(torch.autograd.Function):
    """Log-probabilities and entropies whose gradient is worked out while the logits are there, and kept instead of them: (M, D) for (M, V).

    Nothing below the hidden states reads the output layer, and each number depends on one row of them, so what comes from above is only a
    factor for each row. Beside the logits there is one more tensor of their size, in which all is worked out, or two with an entropy.
    Source: Hsu et al. 2024 (Liger kernel), section 3.2, where the loss is fused in the same way.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, model: LanguageModel, temperature: float, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            leaf = hidden.detach().requires_grad_(ctx.needs_input_grad[0])
            logits = model.logits(leaf)
        with torch.no_grad():
            every = functional.log_softmax(_wide(logits) if temperature == 1 else _wide(logits) / temperature, -1)
            logs = every.gather(1, wanted[:, None])[:, 0]
            spread = -(every.exp().mul_(every)).sum(-1) if entropy else torch.zeros_like(logs)
        if ctx.needs_input_grad[0]:
            kept = [torch.autograd.grad(logits, leaf, one.to(logits.dtype), retain_graph=True)[0]
                    for one in _slopes(every, wanted, temperature, spread if entropy else None)]  # fmt: skip
            ctx.save_for_backward(*kept)
        return logs, spread

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        parts = [one[:, None].to(kept.dtype) * kept for one, kept in zip(above, ctx.saved_tensors)]
        return sum(parts[1:], parts[0]), None, None, None, None


def _slopes(every: torch.Tensor, wanted: torch.Tensor, temperature: float, entropy: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """By the logits (M, V), one after the other: the slope of each log-probability, and of each entropy. `every`, all log-probabilities, is used up."""
    if entropy is not None:
        of_entropy = (every + entropy[:, None]).mul_(every.exp()).mul_(-1 / temperature)
    share = every.exp_()
    rows = torch.arange(len(wanted), device=wanted.device)
    slope = share.neg_()
    slope[rows, wanted] += 1
    yield slope.div_(temperature)
    if entropy is not None:
        yield of_entropy


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _Given(nn.Module):
    """Stands where a stack stood, and gives back what it is given as its last hidden states."""

    def forward(self, *ids: Any, inputs_embeds: torch.Tensor, **rest: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def _fill(shell: Any, backbone: Backbone) -> bool:
    """Put the backbone's tensors where the shell has none yet, and say whether its output layer is the input embeddings.

    As in the library, the files decide: where they hold an output layer with values of its own, nothing is tied, whatever the settings say.
    Raises: ModelError when there is none, so that this backbone was never made to write.
    """
    embeddings: torch.Tensor = backbone.model.get_input_embeddings().weight  # type: ignore[operator]
    empty = [name for name, tensor in (*shell.named_parameters(), *shell.named_buffers()) if tensor.is_meta]
    found = {name: tensor.to(embeddings) for name, tensor in _read(backbone, empty).items()}
    own = found.get(_OUTPUT)
    tied = bool(backbone.config.get_text_config().tie_word_embeddings) and (own is None or torch.equal(own, embeddings))
    if not tied and own is None:
        raise ModelError(
            f"{backbone.folder}: has no tensor {_OUTPUT!r}, so it cannot write text. Give a model with its output layer (...ForCausalLM)."
        )
    for name in empty:
        module, _, last = name.rpartition(".")
        place = shell.get_submodule(module)
        empty_one = getattr(place, last)
        if name == _OUTPUT and tied:
            setattr(place, last, embeddings)
        else:  # a bias that older files leave out is zero
            tensor = found.get(name, torch.zeros(empty_one.shape, dtype=embeddings.dtype, device=embeddings.device))
            setattr(place, last, nn.Parameter(tensor, requires_grad=False) if isinstance(empty_one, nn.Parameter) else tensor)
    return tied


def _read(backbone: Backbone, names: list[str]) -> dict[str, torch.Tensor]:
    """Those of the named tensors that the model's files hold."""
    found = {}
    for path in weight_files(backbone.folder) if names else ():
        with safe_open(path, framework="pt") as file:
            there = set(file.keys())
            for name in names:
                stored = name if name in there else _OLD_NAMES.get(name, "")
                if stored in there:
                    found[name] = file.get_tensor(stored)
    return found
