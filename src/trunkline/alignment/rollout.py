"""Rollouts: the policy writes answers, and the hidden states at the cut are caught while it does. Nothing goes through the trunk again.

Prompts come in as items, answers are drawn with the library's cache in batches, and what enters the first layer above the cut is kept for
every token, also for the last one of an answer. Policy, reference, value and reward then read those states, in every epoch.
Of an encoder-decoder the encoder's states at its cut are what is kept: the decoder reads the answers anew in each pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.backbone import ALL
from trunkline.model.stacks import at
from trunkline.states.collate import collate
from trunkline.states.held import HeldStates
from trunkline.types import IGNORE, Item, Row, Tokens

_AT_ONCE = 64
"""Answers that are written in one batch: prompts of like length, but full, since each new token costs a pass however few rows are in it."""


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn. All tokens can come (no top_p, no top_k): else the policy would not be what was drawn from.

    max_new_tokens: the longest answer; temperature: logits are divided by it, when drawing and when scoring
    """

    max_new_tokens: int = 24
    temperature: float = 1.0
    top_k: int = 0  # for tests of what notices it (guards.py, R3)


@dataclass(frozen=True)
class Rollouts:
    """N answers with their states. The tokens of all answers one after the other are M.

    rows: the row of each; texts: the answers; ids: their tokens, the end included (A,); ended: (N,) whether the end was written
    items: what the policy reads: prompt and answer, or of an encoder-decoder the source; targets are the answer's ids
    said: of a decoder, prompt and answer without the end, for a reward that reads the same states; source: the states
    """

    rows: tuple[Row, ...]
    texts: tuple[str, ...]
    ids: tuple[np.ndarray, ...]
    ended: np.ndarray
    items: tuple[Item, ...]
    said: tuple[Tokens, ...]
    source: HeldStates

    def __len__(self) -> int:
        return len(self.items)

    @property
    def mask(self) -> torch.Tensor:
        """(N, A) bool, True where an answer has a token."""
        lengths = torch.tensor([len(one) for one in self.ids])
        return torch.arange(int(lengths.max()))[None] < lengths[:, None]


def check_policy(policy: Branch) -> None:
    """Raises: OptionError where rollouts of this branch would have no states, or end in a way that they do not follow."""
    if policy.depth in (ALL, 0):
        raise OptionError(
            f"depth={policy.depth}: a policy needs layers above a cut, and a trunk below it. Use 1 to {policy.backbone.layers}."
        )
    if policy.spec.stop:
        raise OptionError(
            f"stop={policy.spec.stop!r}: an answer in training ends with the end of text, or when it is long enough. Leave it out."
        )


@torch.no_grad()
def roll_out(policy: Branch, rows: Sequence[Row], drawing: Drawing, *, seed: int) -> Rollouts:
    """An answer to each row, which need not be different rows. The same seed gives the same answers.

    Raises: OptionError where a prompt leaves no room for an answer.
    """
    asked = policy.prepare([{name: value for name, value in row.items() if name != "label"} for row in rows])
    spec = replace(
        policy.spec, max_new_tokens=drawing.max_new_tokens, temperature=drawing.temperature, top_k=drawing.top_k, top_p=1.0, beams=1
    )
    policy.network.eval()
    writes = _decoder if policy.backbone.family.kind == "decoder" else _encoder_decoder
    found: list[Any] = [None] * len(rows)
    order = np.argsort([_length(item) for item in asked], kind="stable")
    for number, indices in enumerate(np.split(order, range(_AT_ONCE, len(order), _AT_ONCE))):
        some, told = [asked[index] for index in indices], replace(spec, seed=(seed * 1009 + number) % 2**31)
        for index, one in zip(indices, writes(policy, some, told), strict=True):
            found[index] = one
    return _together(policy, rows, found)


def _length(item: Item) -> int:
    return len(item.tokens[0] if item.about is None else item.about)


def _decoder(policy: Branch, asked: Sequence[Item], spec: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Prompt ids, answer ids, and the states (T, D) of both."""
    longest = max(len(item.about) for item in asked)
    if longest + spec.max_new_tokens + 1 > policy.backbone.max_tokens:
        raise OptionError(
            f"max_new_tokens={spec.max_new_tokens}: a prompt has {longest} tokens and the model holds {policy.backbone.max_tokens}. "
            "Shorten the prompts (max_tokens of the task) or the answers."
        )
    writer = policy.network.writer()
    stack = getattr(writer.model, writer.model.base_model_prefix)
    layer = at(stack, policy.backbone.family.layers)[policy.backbone.layers - int(policy.depth)]
    nothing = torch.ones(len(asked), 1, dtype=torch.bool, device=policy.backbone.device)
    given = policy.network.begun(_prompts(asked, nothing, spec))
    with _caught(layer) as caught:
        drawn = writer.draw(given, spec)
    states, ids = torch.cat(caught, 1).float().cpu().numpy(), drawn.cpu().numpy()
    for row, item in enumerate(asked):
        answer = _answer(ids[row], spec.max_new_tokens, writer.ends)
        start = longest - len(item.about)
        yield item.about, answer, states[row, start : longest + len(answer)]


def _encoder_decoder(policy: Branch, asked: Sequence[Item], spec: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Source ids, answer ids, and the states (T, D) of the source at the encoder's cut."""
    source: Any = policy.source()
    texts = {item.tokens[0].key: item.tokens[0] for item in asked}  # a group of answers has one source
    found = dict(zip(texts, source.read(list(texts.values()))))
    held = HeldStates.of(found)
    batch = collate(list(asked), held, spec, policy.backbone.tokenizer.pad_id).to(policy.backbone.device)
    writer = policy.network.writer()
    ids = writer.draw(policy.network.begun(batch), spec).cpu().numpy()
    for row, item in enumerate(asked):
        yield item.tokens[0].ids, _answer(ids[row], spec.max_new_tokens, writer.ends), found[item.tokens[0].key]


def _prompts(asked: Sequence[Item], mask: torch.Tensor, spec: Any) -> Any:
    batch = collate([Item((Tokens(item.about),), None, about=item.about) for item in asked], None, spec)
    return replace(batch, mask=mask)


@contextmanager
def _caught(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What enters a layer in every pass, (S, T, D) each."""
    caught: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, given: caught.append(given[0].detach()))
    try:
        yield caught
    finally:
        handle.remove()


def _answer(ids: np.ndarray, most: int, ends: Sequence[int]) -> np.ndarray:
    """The ids of an answer up to its end, the end included."""
    at_end = np.flatnonzero(np.isin(ids[:most], ends))
    return ids[: int(at_end[0]) + 1] if len(at_end) else ids[:most]


def _together(policy: Branch, rows: Sequence[Row], found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Rollouts:
    ends, tokenizer = policy.backbone.ends, policy.backbone.tokenizer
    held: dict[bytes, np.ndarray] = {}
    decodes = policy.backbone.family.kind == "decoder"
    items, said, ended, texts = [], [], [], []
    for prompt, answer, states in found:
        closed = bool(len(answer)) and int(answer[-1]) in ends
        whole = np.concatenate([prompt, answer]).astype(np.int32) if decodes else prompt
        target = np.concatenate([np.full(len(prompt), IGNORE), answer]) if decodes else answer
        items.append(Item((Tokens(whole),), target.astype(np.int64), about=prompt if decodes else None))
        said.append(Tokens(whole[: len(whole) - closed]) if decodes else Tokens(answer[: len(answer) - closed].astype(np.int32)))
        held |= {Tokens(whole).key: states}
        if decodes:
            held |= {said[-1].key: states[: len(said[-1])]}
        ended.append(closed)
        texts.append(tokenizer.text(answer[: len(answer) - closed].tolist()))
    ids = tuple(answer.astype(np.int64) for _, answer, _ in found)
    return Rollouts(tuple(rows), tuple(texts), ids, np.array(ended), tuple(items), tuple(said), HeldStates.of(held))
