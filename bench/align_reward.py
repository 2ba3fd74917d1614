"""A reward branch on the pairs of hh-rlhf (harmless, the published test file): held-out pair accuracy beside lengths and untuned states.

python bench/align_reward.py --data DATA                       minilm; about ten minutes of one core, most of it `encode`
python bench/align_reward.py --data DATA --members 3           and an ensemble: its accuracy, and by how much members disagree where it errs

Pairs are split by dialogue: 25% are measured on. Printed: the report's table, calibration, and what swapping the answers of a pair does.
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from trunkline.alignment.ensemble import tune_ensemble
from trunkline.data.read import read
from trunkline.data.split import split
from trunkline.train.settings import Settings
from trunkline.train.tune import tune

OUT = Path(__file__).parent / "out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TRUNKLINE_DATA", "../shared/data")))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--method", default="full")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--members", type=int, default=1)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        file.write_bytes(gzip.decompress((told.data / "hh_rlhf_harmless_test/test.jsonl.gz").read_bytes()))
        rows = read(file, "reward", skip_bad=Path(folder) / "bad.jsonl")
    parts = split(rows, by="group", validation=0.1, test=0.25)
    settings = Settings(
        task_options=f"max_tokens={told.tokens}:center=0.01", epochs=told.epochs, learning_rate=told.rate, threads=1, device="cpu"
    )
    began = time.process_time()
    found = {}
    if told.members > 1:
        ensemble = tune_ensemble(parts, told.model, members=told.members, method=told.method, depth=told.depth, settings=settings)
        branch = ensemble.members[0]
        mean, apart = ensemble.predict(list(parts.test))
        both, each = ensemble.accuracy(parts.test)
        found = {"ensemble": both, "members": each, "apart right": apart[mean > 0].mean(), "apart wrong": apart[mean <= 0].mean()}
        print(f"ensemble: {both:.3f} of the test pairs; members alone {', '.join(f'{one:.3f}' for one in each)}; deviation over members "
              f"{found['apart right']:.3f} where it is right, {found['apart wrong']:.3f} where not")  # fmt: skip
    else:
        branch = tune(parts, told.model, method=told.method, depth=told.depth, settings=settings)
    print(branch.report)
    turned = [{**row, "text_b": row["rejected"], "rejected": row["text_b"]} for row in parts.test[:100]]
    one, other = ([answer.scores for answer in branch.predict(some)] for some in (list(parts.test[:100]), turned))
    flips = float(np.mean(np.sign(one) == -np.sign(other)))
    calibration = branch.report.calibration
    print(f"\nswapping the answers turned the sign in {flips:.0%} of {len(one)} pairs; calibration error {calibration['ece_before']:.3f} as trained, "
          f"{calibration['ece_after']:.3f} with temperature {calibration['temperature']:.2f}; {time.process_time() - began:.0f} s of the processor")  # fmt: skip
    OUT.mkdir(exist_ok=True)
    results = {"told": {k: str(v) for k, v in vars(told).items()}, "results": branch.report.results, "flips": flips, **found}
    (OUT / "align_reward.json").write_text(json.dumps(results, indent=2, default=float))


if __name__ == "__main__":
    main()
