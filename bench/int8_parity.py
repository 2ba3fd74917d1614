"""Whether int8 gives the same in ONNX Runtime as in torch, and in the tuned layers the same as float32: bar A11, on Banking77's test rows.

    python bench/int8_parity.py                 # minilm, depth 1, 2,000 training rows, the test rows one at a time

A branch is tuned on the int8 trunk in torch, its layers are rounded after that (--branch-precision auto), then it is asked through the engine of
`serve` in each runtime: labels that are the same, accuracy of each, the mean cosine of the states at the cut, and how far probabilities lie
apart; and what it answers in torch with its layers in float32. The bar: labels 99.5%, cosine 0.99, 1 point of accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import trunkline as tl
from trunkline import branch as branches
from trunkline.branch import Branch
from trunkline.serving.compute.engine import Engine
from trunkline.serving.compute.queue import Ask
from trunkline.types import Rows

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000, help="training rows, drawn by chance")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    train, test = (tl.read(DATA / f"banking77/{part}.csv", text="text", label="category") for part in ("train", "test"))
    chosen = Random(0).sample(range(len(train)), min(asked.rows, len(train)))
    some = replace(train, rows=tuple(train[at] for at in chosen))
    with tempfile.TemporaryDirectory() as folder:
        settings = tl.Settings(trunk_precision="int8", epochs=asked.epochs, batch_size=32)
        tl.tune(some, "minilm", depth=asked.depth, settings=settings, out=Path(folder) / "branch")
        found = compare(branches.load(Path(folder) / "branch"), test)
    print("\n".join(f"{name:24} {value}" for name, value in found.items()))
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "int8-parity.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def compare(branch: Branch, test: Rows) -> dict[str, Any]:
    texts, wanted = [row["text"] for row in test], np.array([row["label"] for row in test])
    labels, sure, states = {}, {}, {}
    for runtime in ("torch", "onnx"):
        engine = Engine(cache_bytes=0, runtime=runtime)
        engine.add("branch", branch)
        answers = [ask(engine, text) for text in texts]
        labels[runtime] = np.array([one["label"] for one in answers])
        sure[runtime] = np.array([one["probability"] for one in answers])
        (taps,), cut = engine.taps.values(), branch.backbone.layers - int(branch.depth)
        if taps.runtime != runtime:
            raise RuntimeError(
                f"the trunk runs in {taps.runtime}, not in {runtime}: this processor has no fast integers, or it was further apart"
            )
        tokens = [item.tokens[0] for item in branch.prepare([{"text": text} for text in texts[:500]])]
        states[runtime] = [taps([one], [cut])[0][cut][0] for one in tokens]
        engine.close()
    float32 = np.array([answer.value for answer in replace(branch, precision="float32").predict(texts)])
    alike = torch.cat([torch.nn.functional.cosine_similarity(*pair, -1) for pair in zip(states["torch"], states["onnx"])])
    return {
        "texts": len(texts),
        "the layers answer in": branch.precision,
        "labels as of float32": round(float((labels["torch"] == float32).mean()), 5),
        "accuracy of float32": round(float((float32 == wanted).mean()), 5),
        "labels the same": round(float((labels["torch"] == labels["onnx"]).mean()), 5),
        "accuracy in torch": round(float((labels["torch"] == wanted).mean()), 5),
        "accuracy in onnx": round(float((labels["onnx"] == wanted).mean()), 5),
        "cosine, mean": round(float(alike.mean()), 6),
        "cosine, least": round(float(alike.min()), 6),
        "probability, mean apart": round(float(np.abs(sure["torch"] - sure["onnx"]).mean()), 6),
        "probability, most apart": round(float(np.abs(sure["torch"] - sure["onnx"]).max()), 6),
    }


def ask(engine: Engine, text: str) -> dict[str, Any]:
    done, found = threading.Event(), dict[str, Any]()

    def take(reply: dict[str, Any]) -> None:
        found.update(reply)
        done.set()

    engine.ask(Ask([{"text": text}], ["branch"], take))
    done.wait()
    return found["answers"][0]["branch"]


if __name__ == "__main__":
    main()
