"""What a method adds to the training loop beside the weights that it grafted. Most methods add nothing; train/fit.py asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trunkline.types import Batch


class Guide:
    """Asked by the loop at each step; this one adds nothing. A method that has more to say sets `network.guide` to its own.

    What it keeps from step to step must be in `tensors`: a run that was stopped goes on bit for bit from a checkpoint.
    """

    def begin(self, network: Any, texts: Iterator[Batch]) -> None:
        """Called once, before the first step of a run that goes on from no checkpoint, to give what learns another start.

        texts: those of the training rows, each a batch of its own without padding, in the order of the first epoch; made when they are asked for
        """

    def rate(self, name: str) -> float:
        """The learning rate of the parameter of this name, as a multiple of that of the layers."""
        return 1.0

    def penalty(self, network: Any) -> torch.Tensor | float:
        """What is added to the loss of a step."""
        return 0.0

    def after_step(self, network: Any, step: int, steps: int) -> None:
        """Called after the optimizer's step number `step` of `steps`, counted from 1, with the gradients still there."""

    def settled(self, step: int, steps: int) -> bool:
        """Whether the weights after this step may be kept as the best; the last step's always may."""
        return True

    def about(self, network: Any) -> dict[str, Any]:
        """What the report says of the network beside its size, in plain JSON values."""
        return {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it keeps, for a checkpoint."""
        return {}

    def restore(self, tensors: dict[str, torch.Tensor], device: torch.device) -> None:
        """Take back what `tensors` gave."""
