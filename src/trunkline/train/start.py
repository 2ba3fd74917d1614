"""Where a branch learns nothing but a linear head, its exact solution: logistic or ridge regression on pooled states, or on the states of words.

The loop has nothing to add to it: to go on from there and pick among later weights by the validation rows is to fit those rows.
Tags of words are solved as by the baseline "untuned" (evaluation/baselines/entities.py), from as many words. Where layers above the cut learn too, or a
CRF, the loop begins with a tenth of that solution: it says which way to go, and leaves the layers something to learn. Source: Kumar et al. 2022, section 3,
who begin with all of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trunkline.branch import Branch
from trunkline.evaluation.baselines import entities, preferences
from trunkline.evaluation.features import differences, read_by_head, untuned
from trunkline.evaluation.linear import Linear, fit_linear
from trunkline.model.heads.pooling import PooledHead
from trunkline.tasks.tag import TagHead
from trunkline.train.fit import Data

_SOLVED = {"head.linear.weight", "head.linear.bias"}
_KINDS = ("single", "multi", "number")
_SHARE, _LEAST = 0.1, -10.0
"""Of the solution that the loop begins with (docs/tasks/tag.md has what other shares gave). And the least bias: a tag that no word of the sample had can
still be learned."""


def solve_head(branch: Branch, data: Data) -> bool:
    """Put the solution in the head where a linear head is all that learns, by a plain loss, and say whether that was so.

    A head of tags gets a share of it in any case, for the loop to begin with.
    """
    alone = set(branch.network.learned()) == _SOLVED
    if isinstance(branch.network.head, TagHead):
        _put_tags(branch, _from_words(branch, data))
        if not alone:
            _shrink(branch)
        return alone
    if not alone:
        return False
    weighted = getattr(branch.spec, "weights", ()) or getattr(branch.spec, "focal_gamma", 0) or getattr(branch.spec, "loss", "mse") != "mse"
    if branch.spec.kind == "preferences" and not branch.spec.margin and isinstance(branch.network.head, PooledHead):
        _put_reward(branch, data)
        return True
    if branch.spec.kind not in _KINDS or weighted or not isinstance(branch.network.head, PooledHead):
        return False
    put(branch, _from_texts(branch, data))
    return True


def _from_texts(branch: Branch, data: Data) -> Linear:
    """What the head is to be that reads one vector a text, or a pair."""
    parts = {"train": data.train, "validation": data.validation}
    vectors = {
        name: read_by_head(branch.backbone, branch.depth, items, data.source, data.spec, pooling=data.spec.pooling)
        for name, items in parts.items()
    }
    truth = {name: np.array([item.target for item in items]) for name, items in parts.items()}
    return fit_linear(vectors["train"], truth["train"], data.spec, validation=(vectors["validation"], truth["validation"]))


def _from_words(branch: Branch, data: Data) -> Linear:
    """What the head is to be that reads the state of each word's token: what "untuned" is, so that it is solved once."""
    parts = {"train": entities.sampled(data.train, data.spec), "validation": entities.sampled(data.validation, data.spec)}
    vectors = {name: entities.word_vectors(branch.backbone, branch.depth, items, data.source, data.spec) for name, items in parts.items()}
    return entities.fit_tags(vectors, parts, data.spec)


@torch.no_grad()
def put(branch: Branch, solved: Linear) -> None:
    """Write a linear model into the branch's head, which is a `PooledHead`."""
    head: Any = branch.network.head
    weight, bias = solved.weight, solved.bias
    if solved.kind == "number":  # the head answers in standard deviations from the mean
        weight, bias = weight / branch.spec.std, (bias - branch.spec.mean) / branch.spec.std
    head.linear.weight.copy_(torch.from_numpy(weight))
    head.linear.bias.copy_(torch.from_numpy(bias))


@torch.no_grad()
def _put_reward(branch: Branch, data: Data) -> None:
    """Write the linear reward into the branch's head; the training answers have a mean of 0."""
    parts = [data.train, data.validation]
    train, held = (differences(branch.backbone, branch.depth, one, data.source, data.spec.pooling) for one in parts)
    weight, _ = preferences.solved(train, held)
    answers = untuned(branch.backbone, branch.depth, data.train, data.source, data.spec.pooling)
    head: Any = branch.network.head
    head.linear.weight.copy_(torch.from_numpy(weight)[None])
    head.linear.bias.fill_(-float((answers @ weight - train @ weight / 2).mean()))


@torch.no_grad()
def _put_tags(branch: Branch, solved: Linear) -> None:
    """Write it into a `TagHead`: the same weights for each place of a word in its token, and a bias of its own."""
    head: Any = branch.network.head
    width = head.linear.in_features
    head.linear.weight.copy_(torch.from_numpy(solved.weight[:, :width]).repeat(head.shape[0], 1))
    head.linear.bias.copy_(torch.from_numpy((solved.bias + solved.weight[:, width:].T).ravel()))


@torch.no_grad()
def _shrink(branch: Branch) -> None:
    linear: Any = branch.network.head.linear
    linear.weight.mul_(_SHARE)
    linear.bias.mul_(_SHARE).clamp_(min=_LEAST)
