"""QLoRA beside LoRA: quality with its interval, bytes of the frozen weights, memory and seconds, each in a process of its own; and the 4-bit kernels.

    python bench/qlora.py                                  # minilm, ten intents of Banking77; two minutes
    python bench/qlora.py --model smollm2 --sets intents instructions
    python bench/qlora.py --model smollm2 --writing        # tokens a second, written one by one
    python bench/qlora.py --kernels                        # where bitsandbytes is installed: its codes and times beside ours

Rows, sets and depths are those of bench/methods.py. "frozen": bytes of all weights that do not learn, embeddings among them; "loaded": resident memory
when the backbone is there and has computed one text, above what the process had before; "peak": the most that the process had in all, library and
baselines included. "against": LoRA in float32 minus this one, on the same test rows. Needs the data in the folder that TRUNKLINE_DATA names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import psutil
import torch
from methods import LOADERS, _some
from torch.nn import functional

import trunkline as tl
from trunkline.data.quality import drop_leaks
from trunkline.data.split import Split
from trunkline.evaluation.interval import paired
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import METRICS
from trunkline.evaluation.wording import number, with_interval
from trunkline.model.backbone import load_backbone
from trunkline.model.nf4 import dequantise, quantise
from trunkline.model.writing.language import LanguageModel
from trunkline.train.settings import Settings
from trunkline.train.tune import stored

RUNS = (("float32", "lora"), ("nf4", "lora"), ("nf4", "lora:bits=4"))
"""Trunk precision and method."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="[default: minilm]")
    parser.add_argument("--sets", nargs="+", choices=sorted(LOADERS), default=["intents"], help="[default: intents]")
    parser.add_argument("--rows", type=int, default=300, help="training rows  [default: 300]")
    parser.add_argument("--test", type=int, default=400, help="test rows, at most  [default: 400]")
    parser.add_argument("--epochs", type=int, default=4, help="[default: 4]")
    parser.add_argument("--depth", type=int, default=2, help="layers above the cut  [default: 2]")
    parser.add_argument("--seed", type=int, default=0, help="[default: 0]")
    parser.add_argument("--kernels", action="store_true", help="compare with bitsandbytes, and nothing else")
    parser.add_argument("--writing", action="store_true", help="how fast the model writes, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.kernels:
        kernels()
    elif asked.writing:
        writing(asked.model)
    elif asked.one:
        print(json.dumps(one(asked, *asked.one)))
    else:
        asked.out.mkdir(parents=True, exist_ok=True)
        for name in asked.sets:
            table(asked, name)


def table(asked: argparse.Namespace, name: str) -> None:
    """One set: each run in a process, then what they say of the same test rows beside each other."""
    parts = rows(asked, name)
    print(
        f"\n## {name}, {asked.model}, depth {asked.depth}, {asked.epochs} epochs; {len(parts.train)} rows train, {len(parts.test)} test\n"
    )
    found = []
    for precision, method in RUNS:
        told = [sys.executable, __file__, *sys.argv[1:], "--one", name, precision, method]
        done = subprocess.run(told, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    metric = found[0]["metric"]
    print(f"| trunk, method | {METRICS[metric].title} | against | learned | frozen | loaded | peak | seconds |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    scores = [np.array(run.pop("scores")) for run in found]
    for run, own in zip(found, scores):
        change = paired(metric, np.array(found[0]["truth"]), own, scores[0])
        low, high = (number(metric, value) for value in (change.low, change.high))
        run["against"] = {"difference": change.difference, "low": change.low, "high": change.high}
        told = "" if run is found[0] else f"{number(metric, change.difference)} ({low} to {high})"
        sizes = " | ".join(f"{run[key] / 1e6:,.1f} MB" for key in ("bytes", "frozen", "loaded", "peak"))
        print(
            f"| {run['precision']}, `{run['method']}` | {with_interval(metric, run['value'])} | {told} | {sizes} | {run['seconds']:.1f} |"
        )
    for run in found:
        del run["truth"]
    (asked.out / f"qlora-{asked.model}-{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def rows(asked: argparse.Namespace, name: str) -> Split:
    parts = drop_leaks(LOADERS[name]())
    limits = {"train": asked.rows, "validation": max(50, asked.rows // 3), "test": asked.test}
    return replace(parts, **{part: _some(some, limits[part]) for part, some in parts.parts().items()})


def one(asked: argparse.Namespace, name: str, precision: str, method: str) -> dict[str, Any]:
    """Tune once in this process."""
    parts = rows(asked, name)
    before = psutil.Process().memory_info().rss
    backbone = load_backbone(asked.model, trunk_precision=precision)
    backbone.trunk(asked.depth)(torch.arange(100, 120)[None], None)
    loaded = psutil.Process().memory_info().rss - before
    del backbone
    settings = Settings(
        epochs=asked.epochs, batch_size=16, threads=1, seed=asked.seed, patience=None, trunk_precision=precision, device="cpu"
    )
    branch = tl.tune(parts, asked.model, method=method, depth=asked.depth, settings=settings)
    report: Any = branch.report
    tuned = next(result for result in report.results if result["name"] == "tuned")
    metric = next(iter(tuned["metrics"]))
    items = branch.prepare(parts.test)
    source, _ = stored(branch.backbone, branch.depth, {"rows": items}, branch.states)
    truth, scores = truth_and_scores(branch.spec, items, branch.answers(items, source))
    return {
        "precision": precision, "method": method, "metric": metric, "value": tuned["metrics"][metric], "bytes": report.model["bytes"],
        "frozen": report.model["frozen_bytes"], "loaded": loaded, "peak": report.cost["peak_memory_bytes"],
        "seconds": report.cost["seconds"]["tune"], "truth": np.asarray(truth).tolist(), "scores": np.asarray(scores).tolist(),
    }  # fmt: skip


@torch.no_grad()
def writing(name: str, tokens: int = 32, rounds: int = 3) -> None:
    """Tokens a second of processor time, for one text: the median of rounds in which the precisions take turns."""
    backbones = {precision: load_backbone(name, trunk_precision=precision) for precision in ("float32", "nf4")}
    models = {precision: LanguageModel(backbone).around(backbone.stack) for precision, backbone in backbones.items()}
    rates: dict[str, list[float]] = {precision: [] for precision in models}
    for _ in range(rounds):
        for precision, model in models.items():
            began = time.process_time()
            model.generate(
                input_ids=torch.arange(100, 116)[None], attention_mask=torch.ones(1, 16), min_new_tokens=tokens, max_new_tokens=tokens,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            rates[precision].append(tokens / (time.process_time() - began))
    print(", ".join(f"{precision} {median(found):.1f} tokens/s ({min(found):.1f}-{max(found):.1f})" for precision, found in rates.items()))


def kernels() -> None:
    """Codes, numbers and times of bitsandbytes beside ours, on weights of several sizes."""
    import bitsandbytes.functional as theirs

    draw = torch.Generator().manual_seed(0)
    print(
        "| weight | other codes | quantise, theirs | ours | to float32, theirs | ours | 512 tokens by it, float32 |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for shape in ((384, 1536), (576, 576), (1536, 576), (2048, 2048)):
        weight, x = 0.05 * torch.randn(shape, generator=draw), torch.randn(512, shape[1], generator=draw)
        packed, scales = quantise(weight)
        other, state = theirs.quantize_4bit(weight, quant_type="nf4", blocksize=64)
        if not torch.equal(theirs.dequantize_4bit(packed.view(-1, 1), state), dequantise(packed, scales, shape)):
            raise SystemExit("the same codes stand for other numbers there")
        apart = int(((other.flatten() ^ packed) & 15 != 0).sum() + ((other.flatten() ^ packed) >> 4 != 0).sum())
        runs = (
            partial(theirs.quantize_4bit, weight, quant_type="nf4", blocksize=64),
            partial(quantise, weight),
            partial(theirs.dequantize_4bit, other, state),
            partial(dequantise, packed, scales, shape),
            partial(functional.linear, x, weight),
        )
        cells = " | ".join(f"{milliseconds(run):.2f} ms" for run in runs)
        print(f"| {shape[0]} x {shape[1]} | {apart} of {weight.numel():,} | {cells} |", flush=True)


def milliseconds(run: Any, times: int = 15) -> float:
    run()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return 1e3 * median(spent)


if __name__ == "__main__":
    main()
