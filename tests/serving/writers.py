"""Tiny branches that write, for the tests of the generator and its routes."""

from pathlib import Path

import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import load_backbone


def writer(folder: Path, *, form: str = "prompt", depth: int = 1, backbone: object = None, seed: int = 1) -> Branch:
    """A branch for task generate whose top layer differs from the backbone's."""
    method, task = names.method("full"), names.task("generate")
    branch = Branch.new(backbone or load_backbone(folder), task.TaskSpec(form=form, max_new_tokens=12), "full", method.Config(), depth)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return branch
