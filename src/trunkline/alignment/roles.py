"""Who takes part in alignment. Every role is a branch on the same frozen tensors; what differs is only what each has learned.

The start is a branch that writes (`generate`, `seq2seq`), tuned before or fresh. The reference is the start itself, and is never trained.
The policy is a copy of it with the same task, method and config, so that it is saved, loaded and served as any branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trunkline import branch as branches
from trunkline import choices, names
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.backbone import Backbone, Depth
from trunkline.model.batches import TOKENS_PER_BATCH, by_length
from trunkline.states.collate import Source, collate
from trunkline.train.tune import number_format, spec_for
from trunkline.types import Item, Rows

WRITES = ("generate", "seq2seq")


def begin(start: str | Path | Branch, *, device: str | torch.device = "cpu") -> Branch:
    """The branch that alignment goes on from: as given, or loaded from its folder.

    Raises: ArtefactError for a folder that is no branch, OptionError for a branch that does not write.
    """
    found = start if isinstance(start, Branch) else branches.load(start, device=device)
    if found.task not in WRITES:
        raise OptionError(f"start={start!r}: its task is {found.task!r}, and a policy writes. Give a branch of {' or '.join(WRITES)}.")
    return found


def fresh(
    backbone: Backbone, rows: Rows, method: str = "lora", depth: Depth | None = None, states: str = "auto", task_options: str = ""
) -> Branch:  # fmt: skip
    """A start that has learned nothing: a method grafted on the model, which answers as the plain model does.

    rows: of task `generate` or `seq2seq`; they say whether prompts are chats. depth: by default a quarter of the layers; task_options: of the task that writes.
    Raises: OptionError for a method that changes the model before its first step.
    """
    backbone = backbone.seen_by(names.task(rows.task).TaskSpec.backbones)
    depth = max(1, backbone.layers // 4) if depth is None else depth
    name, options = choices.split_choice(method)
    if name == "prompt":
        raise OptionError("method='prompt': changes the model before its first step, so there is no plain model to begin with. Use 'lora'.")
    config = choices.build(names.method(name).Config, options, f"method {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Branch.new(backbone, spec_for(backbone, rows, task_options), name, config, depth, number_format(states, backbone))


def policy_from(start: Branch) -> Branch:
    """A copy that can be trained: its own learned tensors, equal to those of the start, over the same frozen ones."""
    with torch.random.fork_rng(devices=[]):
        made = Branch.new(start.backbone, start.spec, start.method, start.config, start.depth, start.states)
    branches.restore(made.network, {name: p.detach() for name, p in start.network.learned().items()}, "start")
    return made


@torch.no_grad()
def token_log_probabilities(
    branch: Branch, items: Sequence[Item], source: Source | None = None, *, precision: torch.dtype = torch.float32,
    max_tokens: int = TOKENS_PER_BATCH,
) -> list[np.ndarray]:  # fmt: skip
    """Of each item, one sequence with a target, the log-probability of each target token that counts: (U,) float32, in their order.

    source: stored states; without one the trunk runs. precision: of the matrix products, as in training
    max_tokens: sequences in one pass of the layers above the cut, padding included
    The network is left in eval mode.
    """
    network, device = branch.network.eval(), branch.backbone.device
    source, found = source or branch.source(), [np.empty(0, dtype=np.float32)] * len(items)
    for indices in by_length([_room(item) for item in items], max_tokens):
        batch = collate([items[at] for at in indices], source, branch.spec, branch.backbone.tokenizer.pad_id).to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            out = network(batch)
        counts = torch.bincount(out.extra["rows"], minlength=len(indices)).tolist()
        for at, values in zip(indices, out.logits.float().cpu().split(counts), strict=True):
            found[at] = values.numpy()
    return found


def log_probabilities(values: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) float64: of each answer the log-probability, as the sum over its tokens."""
    return np.array([one.sum(dtype=np.float64) for one in values])


def of_rows(values: torch.Tensor, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """values (M,) of tokens, rows (M,) the sequence of each -> sums (count,) with their gradient, and how many tokens each has (count,)."""
    sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, rows, values)
    return sums, torch.bincount(rows, minlength=count)


def same_trunk(roles: dict[str, Branch]) -> None:
    """Raises: OptionError where the roles cannot read the same stored states."""
    first, *rest = roles.items()
    for name, branch in rest:
        told: list[tuple[str, Any, Any]] = [
            ("model", first[1].backbone.id, branch.backbone.id),
            ("trunk", first[1].trunk_id, branch.trunk_id),
            ("states", first[1].states, branch.states),
        ]
        for what, here, there in told:
            if here != there:
                raise OptionError(
                    f"{first[0]} and {name} read different states, by their {what}: {here} and {there}. Tune both on one model, at one depth."
                )


def _room(item: Item) -> int:
    """Tokens that an item takes in a pass: of an encoder-decoder what is read, or what is written, whichever is more."""
    return max(max(map(len, item.tokens)), 0 if item.target is None else np.shape(item.target)[-1])
