"""What packing several rows into one sequence could win for `generate`: how much of the training batches is padding, and what it costs.

    python bench/padding.py                       # LLaMA-Factory's Alpaca demo, smollm2; under a minute
    python bench/padding.py gsm8k --rows 2000

"shuffled": batches of rows drawn by chance; "by length": those of the training loop (`trunkline.train.fit.batches`, mean of three epochs).
"of a step": the multiplications that go into padding, as a share of all those of a training step at the depths of --depths: the layers
above the cut (forward, and backward for states and weights) at each place of the batch, the output layer at the tokens that are learned. It is the most
that packing could win: it leaves out what a packed sequence costs, a mask of its own in every layer. Writes JSON.
Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np

from trunkline import names
from trunkline.data.read import read
from trunkline.model.backbone import load_backbone
from trunkline.train.fit import batches
from trunkline.train.tune import spec_for
from trunkline.types import IGNORE, Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
SETS = {"alpaca": "llamafactory_demos/alpaca_en_demo.json", "gsm8k": "gsm8k/train.jsonl"}
EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="alpaca", choices=SETS, help="which rows  [default: alpaca]")
    parser.add_argument("--model", default="smollm2", help="a decoder  [default: smollm2]")
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1000], help="of so many rows  [default: 200 1000]")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32], help="rows a step  [default: 8 16 32]")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4], help="layers above the cut  [default: 2 4]")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    told = parser.parse_args()
    backbone, rows = load_backbone(told.model), read(DATA / SETS[told.set], "generate")
    layer = sum(p.numel() for p in backbone.upper(1).parameters() if p.dim() > 1)
    spec = spec_for(backbone, rows)
    chosen = random.Random(0).sample(rows.rows, min(max(told.rows), len(rows)))
    items = [names.task("generate").prepare(row, backbone.tokenizer, spec) for row in Rows(tuple(chosen), "generate")]
    lengths = np.array([len(item.tokens[0]) for item in items])
    learned = np.array([int((np.asarray(item.target)[1:] != IGNORE).sum()) for item in items])
    print(f"{told.set}: {len(items):,} rows of {lengths.mean():.0f} tokens ({lengths.max()} at most), {learned.mean():.0f} of them learned")
    found = []
    for count in dict.fromkeys(min(n, len(items)) for n in told.rows):
        for size in told.batch_sizes:
            found.append(one_case(lengths[:count], learned[:count], size, told.depths, layer, backbone.width * backbone.config.vocab_size))
    show(found, told.depths)
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / f"padding-{told.set}.json").write_text(json.dumps({"model": told.model, "cases": found}), encoding="utf-8")


def one_case(lengths: np.ndarray, learned: np.ndarray, size: int, depths: list[int], layer: int, output: int) -> dict:
    """Shares of padding, and of a step's work by depth. layer, output: weights that each place and each learned token is multiplied with."""
    by_length = [batch for epoch in range(EPOCHS) for batch in batches(lengths, size, 0, epoch)]
    orders = [np.random.default_rng(epoch).permutation(len(lengths)) for epoch in range(EPOCHS)]
    shuffled = [order[at : at + size] for order in orders for at in range(0, len(order), size)]
    places, full = places_of(by_length, lengths), EPOCHS * int(lengths.sum())
    work = {depth: 3 * depth * layer * places + 2 * output * EPOCHS * int(learned.sum()) for depth in depths}
    return {
        "rows": len(lengths),
        "batch": size,
        "shuffled": 1 - full / places_of(shuffled, lengths),
        "by length": 1 - full / places,
        "of a step": {depth: 3 * depth * layer * (places - full) / work[depth] for depth in depths},
    }


def places_of(order: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(len(batch) * int(lengths[batch].max()) for batch in order)


def show(found: list[dict], depths: list[int]) -> None:
    print(f"{'rows':>5} {'batch':>5} {'shuffled':>9} {'by length':>9}" + "".join(f"{f'of a step, depth {d}':>20}" for d in depths))
    for one in found:
        shares = "".join(f"{one['of a step'][depth]:>20.1%}" for depth in depths)
        print(f"{one['rows']:>5,} {one['batch']:>5} {one['shuffled']:>9.1%} {one['by length']:>9.1%}{shares}")


if __name__ == "__main__":
    main()
