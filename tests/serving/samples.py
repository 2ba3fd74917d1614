"""Small untrained branches on tiny models: their answers are arbitrary, and the same wherever they are computed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.queue import Ask

LABELS = ("cancel", "card", "package", "password", "refund")


def branch(
    model: Path | Backbone,
    task: str = "classify",
    depth: Any = 1,
    *,
    method: str = "full",
    seed: int = 0,
    states: str = "float16",
    **told: Any,
) -> Branch:
    """A branch whose head is drawn from a seed, with weights large enough that labels differ."""
    backbone = model if isinstance(model, Backbone) else load_backbone(model)
    learned: dict[str, Any] = {"classify": {"labels": LABELS}, "tag": {"labels": ("O", "B-THING", "I-THING")}}.get(task, {})
    spec = names.task(task).TaskSpec(max_tokens=64, **{**learned, **told})
    torch.manual_seed(seed)
    made = Branch.new(backbone, spec, method, names.method(method).Config(), depth, states)
    with torch.no_grad():
        for name, parameter in made.network.learned().items():
            parameter.add_(torch.randn_like(parameter) * (0.3 if name.startswith("head") else 0.02))
    return made


def asked(engine: Engine, rows: Sequence[Any], versions: Sequence[str], **told: Any) -> dict[str, Any]:
    """What the engine replies to one request."""
    return together(engine, [(rows, versions)], **told)[0]


def together(engine: Engine, requests: Sequence[tuple[Sequence[Any], Sequence[str]]], **told: Any) -> list[dict[str, Any]]:
    """What it replies to several that come at the same time."""
    replies: list[Any] = [None] * len(requests)
    left = threading.Semaphore(0)

    def keep(at: int, reply: dict[str, Any]) -> None:
        replies[at] = reply
        left.release()

    for at, (rows, versions) in enumerate(requests):
        made = [{"text": row} if isinstance(row, str) else row for row in rows]
        engine.ask(Ask(made, list(versions), lambda reply, at=at: keep(at, reply), **told))
    for _ in requests:
        assert left.acquire(timeout=30)
    return replies
