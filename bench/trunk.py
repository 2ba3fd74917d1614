"""How fast a trunk is in each precision, and what the rounding costs: tokens a second, share of the matmul rate, cosine, accuracy.

    python bench/trunk.py banking77                 # minilm, all layers below the cut
    python bench/trunk.py cold --rounds 5 --out bench/out

One thread. tokens/s: of the real tokens, padding not counted, in some of the batches that `encode` makes, by the processor time of this process
(other processes change that less than the clock on the wall); medians of rounds in which the precisions take turns, with the
smallest and largest. "share" is the rate of the products with weights (those of attention are not counted) beside the rate of
plain matrix products of the same shapes and number format, measured in the same round. "cosine" is of the states of all tokens
with those in float32. "accuracy" is that of a logistic regression on the mean states, trained and measured on two parts of the
train rows (banking77) or the dev rows (cold): no test row is read. The interval is of the difference to float32 on the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from trunkline.data.read import read
from trunkline.evaluation.interval import paired
from trunkline.model.backbone import Backbone, Trunk, load_backbone
from trunkline.model.batches import TOKENS_PER_BATCH, by_length
from trunkline.model.precision import LINEAR, PRECISIONS
from trunkline.states.live import run_trunk
from trunkline.states.quantise import pool
from trunkline.train.machine import describe
from trunkline.types import Rows, Tokens

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
SETS: dict[str, tuple[Callable[[], Rows], str]] = {
    "banking77": (lambda: read(DATA / "banking77/train.csv", text="text", label="category"), "minilm"),
    "cold": (lambda: read(DATA / "cold_zh_offensive/dev.csv", text="TEXT", label="label"), "e5-small"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--model", help="another model than the set's usual one")
    parser.add_argument("--depth", type=int, default=0, help="layers above the cut")
    parser.add_argument("--rows", type=int, default=4500, help="rows that are divided into batches")
    parser.add_argument("--timed-batches", type=int, default=12, help="batches of a timed round, evenly from short to long texts")
    parser.add_argument("--train", type=int, default=3000, help="rows that the logistic regression learns from; 0: no accuracy, only times")
    parser.add_argument("--validation", type=int, default=1500, help="rows that it is measured on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH)
    parser.add_argument("--out", type=Path, help="folder for the JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    load, usual = SETS[asked.set]
    rows = list(load())
    random.Random(0).shuffle(rows)
    rows = rows[: max(asked.rows, asked.train + asked.validation)]
    trunks = {name: load_backbone(asked.model or usual, trunk_precision=name).trunk(asked.depth) for name in PRECISIONS}
    plain = trunks["float32"]
    tokens = [plain.backbone.tokenizer.encode(row["text"], max_tokens=plain.backbone.max_tokens)[0] for row in rows]
    measured = times(trunks, tokens, asked)
    if asked.train:
        labels = np.array([str(row["label"]) for row in rows])
        measured = {name: {**measured[name], **cost} for name, cost in costs(trunks, tokens, labels, asked).items()}
    result = {
        "set": asked.set,
        "model": asked.model or usual,
        "depth": asked.depth,
        "layers_below": plain.cut,
        "tokens_per_batch": asked.tokens_per_batch,
        "rows": {"batched": len(rows), "train": asked.train, "validation": asked.validation},
        "timed_batches": asked.timed_batches,
        "rounds": asked.rounds,
        "machine": {**describe(plain.device), "torch": torch.__version__},
        "precisions": measured,
    }
    show(result)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        made = asked.out / f"trunk-{asked.set}-{Path(result['model']).name}-depth-{asked.depth}.json"
        made.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def times(trunks: dict[str, Trunk], tokens: list[Tokens], asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Tokens a second and share of the matmul rate, in rounds that begin with another precision each time."""
    found = by_length([len(one) for one in tokens], asked.tokens_per_batch)
    picked = np.unique(np.linspace(0, len(found) - 1, asked.timed_batches).round().astype(int))
    batches = [[tokens[i] for i in found[at]] for at in picked]
    count = sum(len(one) for batch in batches for one in batch)
    shapes = products(trunks["float32"].backbone, asked.depth)
    each = sum(2 * inputs * outputs * count for (inputs, outputs), count in shapes.items())  # operations a token
    speed: dict[str, list[float]] = {name: [] for name in trunks}
    rate: dict[str, list[float]] = {name: [] for name in trunks}
    for trunk in trunks.values():
        run_trunk(trunk, batches[0])
    for number in range(asked.rounds):
        for name in (*list(trunks)[number % len(trunks) :], *list(trunks)[: number % len(trunks)]):
            rate[name].append(matmul_rate(name, shapes, asked.tokens_per_batch))
            started = time.process_time()
            for batch in batches:
                run_trunk(trunks[name], batch)
            speed[name].append(count / (time.process_time() - started))
    return {
        name: {
            "tokens_per_second": statistics.median(speed[name]),
            "range": [min(speed[name]), max(speed[name])],
            "times_float32": statistics.median(a / b for a, b in zip(speed[name], speed["float32"])),
            "gflops_matmul": statistics.median(rate[name]) / 1e9,
            "share_of_matmul": statistics.median(each * a / b for a, b in zip(speed[name], rate[name])),
        }
        for name in trunks
    }


def products(backbone: Backbone, depth: int) -> Counter[tuple[int, int]]:
    """How many linear layers of each shape (inputs, outputs) the trunk has."""
    above = {id(parameter) for parameter in backbone.upper(depth).parameters()}
    found: Counter[tuple[int, int]] = Counter()
    for module in backbone.stack.modules():
        if isinstance(module, LINEAR) and id(module.weight) not in above:
            turned = module.weight.shape if not isinstance(module, nn.Linear) else module.weight.shape[::-1]
            found[int(turned[0]), int(turned[1])] += 1
    return found


def matmul_rate(precision: str, shapes: Counter[tuple[int, int]], rows: int, seconds: float = 0.3) -> float:
    """Operations a second of plain matrix products of these shapes in a number format, as torch does them."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for inputs, outputs in shapes:
        a, b = torch.randn(rows, inputs, generator=draw), torch.randn(outputs, inputs, generator=draw)
        if precision == "int8":
            made.append(((40 * a).clamp(-127, 127).to(torch.int8), (40 * b).clamp(-127, 127).to(torch.int8).t()))
        else:
            dtype = getattr(torch, "float32" if precision == "nf4" else precision)  # nf4 multiplies float32
            made.append((a.to(dtype), b.to(dtype).t()))
    product = torch._int_mm if precision == "int8" else torch.mm
    for a, b in made:
        product(a, b)
    spent, done = 0.0, 0.0
    while spent < seconds:
        for (a, b), count in zip(made, shapes.values()):
            started = time.process_time()
            for _ in range(count):
                product(a, b)
            spent += time.process_time() - started
            done += 2 * a.shape[0] * a.shape[1] * b.shape[1] * count
    return done / spent


def costs(trunks: dict[str, Trunk], tokens: list[Tokens], labels: np.ndarray, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Cosine with the float32 states, and the accuracy of a logistic regression, with the interval of its difference to float32."""
    train, names = slice(asked.train), sorted(set(labels[: asked.train]))
    rest = [i for i in range(asked.train, asked.train + asked.validation) if labels[i] in names]
    truth = np.array([names.index(label) for label in labels[rest]])
    found, plain, before, strength = {}, [], np.empty(0), 0.0
    for name, trunk in trunks.items():
        states: list[np.ndarray] = [np.empty(0)] * len(tokens)
        for some in by_length([len(one) for one in tokens], asked.tokens_per_batch):
            for at, one in zip(some, run_trunk(trunk, [tokens[i] for i in some])):
                states[at] = one
        vectors = np.stack([pool(one) for one in states])
        strength = strength or _strength(vectors[train], labels[train])
        scores = _regression(strength).fit(vectors[train], labels[train]).predict_proba(vectors[rest])
        plain, before = (states, scores) if name == "float32" else (plain, before)
        cosine = np.concatenate([_cosine(a, b) for a, b in zip(states, plain)])
        change = paired("accuracy", truth, before, scores)
        found[name] = {
            "cosine": float(cosine.mean()),
            "cosine_lowest_percent": float(np.quantile(cosine, 0.01)),
            "accuracy": float((scores.argmax(1) == truth).mean()),
            "points_to_float32": [100 * change.difference, 100 * change.low, 100 * change.high],
        }
    return found


def _regression(strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def _strength(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Which C does best on the last fifth of the training rows; that of float32 is used for all precisions."""
    cut = len(labels) * 4 // 5
    return max((0.003, 0.01, 0.1, 1.0), key=lambda c: _regression(c).fit(vectors[:cut], labels[:cut]).score(vectors[cut:], labels[cut:]))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['set']}, {result['model']}, {result['layers_below']} layers below the cut, {result['machine']['processor']}, one thread"
    )
    print(f"{'':9} {'tokens/s':>8} {'(range)':>15} {'x f32':>6} {'share':>6} {'GFLOP/s':>8}  cosine (1%)       accuracy")
    for name, one in result["precisions"].items():
        low, high = one["range"]
        line = f"{name:9} {one['tokens_per_second']:8,.0f} {f'({low:,.0f}-{high:,.0f})':>15} {one['times_float32']:6.2f} "
        line += f"{one['share_of_matmul']:6.2f} {one['gflops_matmul']:8.0f}"
        if "accuracy" in one:
            by, low, high = one["points_to_float32"]
            line += f"  {one['cosine']:.5f} ({one['cosine_lowest_percent']:.4f})  {100 * one['accuracy']:.2f} ({by:+.2f}, {low:+.2f} to {high:+.2f})"
        print(line)


if __name__ == "__main__":
    main()
