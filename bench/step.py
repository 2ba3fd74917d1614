"""How much of the processor's matmul rate a training step reaches: operations of the layers above the cut, by time, beside plain products.

    python bench/step.py banking77                    # minilm, depth 2
    python bench/step.py cold --depth 4 --rounds 5 --out bench/out

One thread, and the processor time of this process. A step is the loop's own, on batches as it makes them, from collating to the optimizer; the
states are drawn at random, since reading stored ones costs the same. Operations: 2 for each weight of a linear layer and each real token forward,
4 backward, and 4 T D (8 backward) a token for attention over T tokens; padding, norms, activations, dropout, head and optimizer count as
nothing. The rate beside it is that of plain products of the same shapes, forward and backward, in the same number format and round. Medians
of rounds in which the formats take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from main_job import SETS
from torch import nn

from trunkline.model.backbone import load_backbone
from trunkline.model.precision import LINEAR
from trunkline.train.fit import Data, _Loop
from trunkline.train.machine import describe
from trunkline.train.settings import Settings
from trunkline.train.tune import maker
from trunkline.types import Tokens

PRECISIONS = ("float32", "bfloat16")
WARM, STEPS = 3, 20


class Drawn:
    """States at random, in the place of stored ones."""

    def __init__(self, width: int, longest: int) -> None:
        self.states = np.random.default_rng(0).normal(size=(longest, width)).astype(np.float32)

    def read(self, tokens: list[Tokens]) -> list[np.ndarray]:
        return [self.states[: len(one)] for one in tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    load, model = SETS[asked.set]
    parts, backbone = load(), load_backbone(model)
    parts = replace(parts, train=replace(parts.train, rows=parts.train.rows[: asked.rows]))
    settings = Settings(epochs=1, batch_size=asked.batch_size, threads=1)
    make = maker(backbone, parts, "full", settings)
    items = make(asked.depth, 0).prepare(parts.train)
    loops: dict[str, _Loop] = {}
    for precision in PRECISIONS:
        branch = make(asked.depth, 0)
        data = Data(items, items[:32], Drawn(backbone.width, branch.spec.max_tokens), branch.spec, backbone.tokenizer.pad_id)
        loops[precision] = _Loop(branch.network, data, replace(settings, precision=precision), 1e-5, 0, None)
    batches = next(iter(loops.values())).shuffled(0)[: WARM + STEPS]
    lengths = [np.array([len(items[i].tokens[0]) for i in batch]) for batch in batches[WARM:]]
    shapes = [_shape(module) for module in loops["float32"].network.upper.modules() if isinstance(module, LINEAR)]
    each = float(np.mean([_operations(some, shapes, backbone.width, asked.depth) for some in lengths]))
    seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for number in range(asked.rounds):
        for precision in PRECISIONS[:: 1 if number % 2 else -1]:
            rates[precision].append(rate(precision, shapes, int(np.mean([some.sum() for some in lengths]))))
            for batch in batches[:WARM]:
                loops[precision].learn(batch)
            started = time.process_time()
            for batch in batches[WARM:]:
                loops[precision].learn(batch)
            seconds[precision].append((time.process_time() - started) / STEPS)
    tokens, about = float(np.mean([some.sum() for some in lengths])), {**describe(backbone.device), "torch": torch.__version__}
    found: dict[str, Any] = {"set": asked.set, "model": model, "depth": asked.depth, "batch_size": asked.batch_size, "machine": about}
    found |= {"operations": each, "tokens": tokens}
    print(
        f"{asked.set}, {model}, depth {asked.depth}, {about['processor']}, one thread: {tokens:.0f} tokens, {each / 1e9:.1f} G operations a step"
    )
    print(f"{'':9} {'ms a step':>9} {'GFLOP/s':>8} {'of plain products':>18} {'share':>6}")
    for precision in PRECISIONS:
        step, plain = statistics.median(seconds[precision]), statistics.median(rates[precision])
        share = statistics.median(each / s / r for s, r in zip(seconds[precision], rates[precision]))
        found[precision] = {"milliseconds": 1e3 * step, "rate": each / step, "plain": plain, "share": share}
        print(f"{precision:9} {1e3 * step:9.1f} {each / step / 1e9:8.0f} {plain / 1e9:18.0f} {share:6.2f}")
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / f"step-{asked.set}-depth-{asked.depth}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _shape(linear: Any) -> tuple[int, int]:
    """Inputs and outputs."""
    turned = linear.weight.shape[::-1] if isinstance(linear, nn.Linear) else linear.weight.shape
    return int(turned[0]), int(turned[1])


def _operations(lengths: np.ndarray, shapes: list[tuple[int, int]], width: int, depth: int) -> float:
    """Of one step on texts of these lengths, forward and backward."""
    return float(3 * (sum(2 * i * o for i, o in shapes) * lengths.sum() + 4 * depth * width * (lengths.astype(float) ** 2).sum()))


def rate(precision: str, shapes: list[tuple[int, int]], tokens: int, wanted: float = 0.5) -> float:
    """Operations a second of the plain products of a step: x W, g W^T and g^T x of each layer."""
    dtype, draw = getattr(torch, precision), torch.Generator().manual_seed(0)
    made = [tuple(torch.randn(*size, generator=draw).to(dtype) for size in ((tokens, i), (i, o), (tokens, o))) for i, o in shapes]
    spent, done = 0.0, 0.0
    for warm in (True, False):
        while spent < wanted:
            started = time.process_time()
            for x, w, g in made:
                torch.mm(x, w), torch.mm(g, w.t()), torch.mm(g.t(), x)
            spent += time.process_time() - started
            done += sum(6.0 * tokens * i * o for i, o in shapes)
            if warm:
                spent, done = 0.0, 0.0
                break
    return done / spent


if __name__ == "__main__":
    main()
