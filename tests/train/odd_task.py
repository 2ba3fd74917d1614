"""A task as a user might write it, with a fault: for a target over 100 its loss is a number and the loss's gradient is not."""

import torch

from trunkline.tasks.regress import METRICS, TaskSpec, decode, head, prepare
from trunkline.tasks.regress import loss as plain_loss
from trunkline.types import Batch, Output

__all__ = ["METRICS", "TaskSpec", "decode", "head", "loss", "prepare"]


def loss(out: Output, batch: Batch) -> torch.Tensor:
    return plain_loss(out, batch) + (out.logits[batch.targets > 100, 0] * 0).abs().sqrt().sum()
