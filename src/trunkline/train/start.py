"""Where a branch learns nothing but a linear head, its exact solution: logistic or ridge regression on the pooled states.

The loop has nothing to add to it: to go on from there and pick among later weights by the validation rows is to fit those rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trunkline.branch import Branch
from trunkline.evaluation.features import read_by_head
from trunkline.evaluation.linear import Linear, fit_linear
from trunkline.model.heads.pooling import PooledHead
from trunkline.train.fit import Data

_SOLVED = {"head.linear.weight", "head.linear.bias"}
_KINDS = ("single", "multi", "number")


def solve_head(branch: Branch, data: Data) -> bool:
    """Put the solution in the head, and say whether there was one to put: only where a linear head is all that learns, by a plain loss."""
    weighted = getattr(branch.spec, "weights", ()) or getattr(branch.spec, "focal_gamma", 0) or getattr(branch.spec, "loss", "mse") != "mse"
    if (
        branch.spec.kind not in _KINDS
        or weighted
        or set(branch.network.learned()) != _SOLVED
        or not isinstance(branch.network.head, PooledHead)
    ):
        return False
    parts = {"train": data.train, "validation": data.validation}
    vectors = {
        name: read_by_head(branch.backbone, branch.depth, items, data.source, data.spec, pooling=data.spec.pooling)
        for name, items in parts.items()
    }
    truth = {name: np.stack([np.asarray(item.target) for item in items]) for name, items in parts.items()}
    solved = fit_linear(vectors["train"], truth["train"], data.spec, validation=(vectors["validation"], truth["validation"]))
    put(branch, solved)
    return True


@torch.no_grad()
def put(branch: Branch, solved: Linear) -> None:
    """Write a linear model into the branch's head, which is a `PooledHead`."""
    head: Any = branch.network.head
    weight, bias = solved.weight, solved.bias
    if solved.kind == "number":  # the head answers in standard deviations from the mean
        weight, bias = weight / branch.spec.std, (bias - branch.spec.mean) / branch.spec.std
    head.linear.weight.copy_(torch.from_numpy(weight))
    head.linear.bias.copy_(torch.from_numpy(bias))
