"""What a branch computes above its cut, in torch or in ONNX Runtime; and heads that stand right on the trunk, many in one product."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.backbone import ALL
from trunkline.model.heads.pooling import PooledHead
from trunkline.model.network import Network
from trunkline.model.precision import ROUNDS_INPUTS, each_length
from trunkline.model.stacks import at
from trunkline.model.writing.language import LanguageHead
from trunkline.serving.compute import onnx_layers
from trunkline.types import Batch, Output

Lifted = list[torch.Tensor]
"""What the layers of a branch give: the last states, and perhaps logits."""


class Upper:
    """batch -> output, as the network of a branch gives it. `runtime` says what its layers run in.

    same: what tells these layers from others; two branches that were tuned together have the same, and one pass of them serves both.
    None where layers and head cannot be told apart, or there are no layers.

    In int8 texts of one length are computed together, without padding, as the trunk does.
    """

    def __init__(self, branch: Branch) -> None:
        self._plain = plain(branch).network.eval()
        self.network: Network = self._plain if branch.precision == "float32" else branch.answering
        self._backbone = branch.backbone
        self._layers: onnx_layers.Layers | None = None
        network = self.network
        apart = network.depth not in (ALL, 0) and network.below is None and not isinstance(network.head, LanguageHead)
        self.same = _digest(network.upper) if apart else None
        self._joined = False

    @property
    def runtime(self) -> str:
        return "onnx" if self._layers else "torch"

    @property
    def in_one_thread(self) -> bool:
        """Whether its layers run in the thread that asks and no other, so that those of several branches may run at the same time."""
        return self._layers is not None and self._layers.threads == 1

    def join(self, other: Upper) -> None:
        """Run what the same layers of another branch run in, over its tensors, from now on."""
        self.network.upper, self._layers, self._joined = other.network.upper, other._layers, True
        self._plain = self.network

    def may_use_onnx(self) -> bool:
        """Whether ONNX Runtime can run these layers: on the processor, of a known form, nothing added to them, and not chosen already."""
        if self._joined:
            return False
        depth = self.network.depth
        if depth in (ALL, 0) or self._backbone.device.type != "cpu" or self._backbone.family.norm or self.network.below is not None:
            return False
        return onnx_layers.fits(self._backbone.config, self._own())

    def use_onnx(self, threads: int) -> None:
        """From now on the layers run in ONNX Runtime, with the head where it is of a form that can. Call where `may_use_onnx`."""
        head: Any = self.network.head if onnx_layers.fits_head(self.network.head) else None
        self._layers = onnx_layers.Layers(self._backbone.config, self._own(), threads, self.network.precision, head=head)

    def use_torch(self) -> None:
        """From now on the layers run in torch."""
        self._layers = None

    def __call__(self, batch: Batch) -> Output:
        return self.network(batch) if self._layers is None or batch.hidden is None else self.head(self.hidden(batch), batch)

    def hidden(self, batch: Batch) -> Lifted:
        """The last states (S, T, D) of a batch of states at the cut, and behind them the logits (S, K) where one call made both."""
        if self._layers is None or batch.hidden is None:
            return [self.network.hidden(batch)]
        if self.network.precision in ROUNDS_INPUTS and not bool(batch.mask.all()):
            return [
                each_length(
                    lambda _, hidden: self._run(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))[0], batch.mask, batch.hidden
                )
            ]
        return self._run(batch.hidden, batch.mask)

    def _run(self, hidden: torch.Tensor, mask: torch.Tensor) -> Lifted:
        return [torch.from_numpy(one) for one in self._layers(hidden.numpy(), mask.numpy())]  # type: ignore[misc]

    def head(self, lifted: Lifted, batch: Batch) -> Output:
        """What the head makes of the last states. Of layers that two branches have the same, logits are those of the first one's head."""
        if len(lifted) > 1 and not self._joined:
            return Output(lifted[1], lifted[0])
        found = self.network.head(lifted[0], batch)
        logits, extra = found if isinstance(found, tuple) else (found, {})
        return Output(logits, lifted[0], extra)

    def _own(self) -> list[torch.nn.Module]:
        return list(at(self._plain.upper, self._backbone.family.layers))


def _digest(layers: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in layers.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def plain(branch: Branch) -> Branch:
    """The branch with what its method added worked into plain layers, where the method can; otherwise as it is."""
    try:
        return branch.merged()
    except OptionError:
        return branch


def stackable(branch: Branch) -> PooledHead | None:
    """The head of a branch that is a pooling without weights and one linear layer, right on the trunk's last states; None for others."""
    head: Any = branch.network.head
    alone = all(name.startswith("head.") for name in branch.network.learned())
    fits = branch.depth == 0 and alone and type(head) is PooledHead and head.pooling.query is None
    return head if fits and branch.network.below is None else None


class Stack:
    """Several heads with one pooling as one product: hidden (S, T, D) -> logits (S, K of all), each branch with its columns."""

    def __init__(self, branches: dict[str, Branch]) -> None:
        heads: dict[str, Any] = {name: branch.network.head for name, branch in branches.items()}
        first = next(iter(branches.values()))
        self._norm: Any = first.network._norm and first.network.upper.get_submodule(first.network._norm)
        self.pooling = next(iter(heads.values())).pooling
        self.weight = torch.cat([head.linear.weight for head in heads.values()]).detach()
        self.bias = torch.cat([head.linear.bias for head in heads.values()]).detach()
        self.columns: dict[str, slice] = {}
        start = 0
        for name, head in heads.items():
            self.columns[name] = slice(start, start := start + head.linear.out_features)

    def __call__(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self._norm(hidden) if self._norm else hidden
        return torch.nn.functional.linear(self.pooling(hidden, mask), self.weight, self.bias)


def of_rows(hidden: torch.Tensor, mask: torch.Tensor, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The states and the mask of some rows of a pass, cut to the longest of them; of all rows in order as they are."""
    if list(rows) == list(range(len(mask))):
        return hidden, mask
    index = torch.as_tensor(rows)
    real = mask[index]
    longest = int(real.sum(1).max())
    return hidden[index, :longest].contiguous(), real[:, :longest].contiguous()
