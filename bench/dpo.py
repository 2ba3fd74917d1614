"""A step of DPO: ours beside TRL's DPOTrainer with LoRA, on the same model, pairs, batch, tokens, rank, and one thread each.

python bench/dpo.py --data DATA --peer PYTHON          minutes; PYTHON has trl==1.16.0 (see bench/peers)
python bench/dpo.py --data DATA                        ours alone

Each contender runs in a process of its own. Printed: the median step, what comes before the steps once, tokens, peak memory. Seconds are those
of the processor, since other work on a machine changes those on the wall.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

OUT = Path(__file__).parent / "out"


def rows(data: Path, count: int, tokens: int) -> list[dict[str, str]]:
    """Pairs of real answers, as many as fit: each prompt and each answer cut to half of so many tokens (about four characters each)."""
    found = []
    with gzip.open(data / "hh_rlhf_harmless_test/test.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            pair = json.loads(line)
            (prompt, good), (_, bad) = (pair[name].rsplit("\n\nAssistant:", 1) for name in ("chosen", "rejected"))
            if min(len(good), len(bad), len(prompt)) >= 2 * tokens:
                size = 2 * tokens
                found.append({"prompt": prompt[-size:] + "\n\nAssistant:", "chosen": good[:size], "rejected": bad[:size]})
    return found[:count]


def ours(job: dict) -> dict:
    """One run of the loop from stored states."""
    import torch

    from trunkline.alignment import dpo, preference
    from trunkline.alignment.preference import Job, PairGoal
    from trunkline.alignment.roles import fresh, policy_from
    from trunkline.model.backbone import load_backbone
    from trunkline.train.fit import Data, fit
    from trunkline.train.settings import Settings
    from trunkline.train.tune import stored
    from trunkline.types import Rows

    torch.set_num_threads(1)
    made = Rows(tuple({"text": r["prompt"], "text_b": r["chosen"], "rejected": r["rejected"]} for r in job["rows"]), "reward")
    start = fresh(load_backbone(job["model"]), preference.written(made, "generate"), "lora:rank=16:alpha=32", job["layers"])
    start = replace(start, spec=replace(start.spec, max_tokens=job["max_tokens"]))
    spec = dpo.TaskSpec(policy=start.spec)
    settings = Settings(epochs=1, batch_size=job["batch"], precision="float32", evaluate_every=10**6, patience=None)
    began = time.process_time()
    items = preference.make(made, start, spec)
    source, _ = stored(start.backbone, start.depth, {"train": items}, start.states)
    encoded = time.process_time() - began
    items = Job(PairGoal(preference.make), start, spec, settings, None).with_reference({"train": items}, source, start)["train"]
    before = time.process_time() - began
    policy, seconds, at = policy_from(start), [], [time.process_time()]

    def note(progress: object, steps: int) -> None:
        seconds.append(time.process_time() - at[0])
        at[0] = time.process_time()

    train = items[: job["batch"] * job["steps"]]
    fit(
        policy.network,
        Data(train, items[:1], source, spec, start.backbone.tokenizer.pad_id),
        settings,
        learning_rate=job["rate"],
        seed=0,
        on_step=note,
    )
    tokens = sum(len(one) for item in train for one in item.tokens) / job["steps"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = sum(p.numel() for p in policy.network.learned().values())
    return {"seconds": seconds[:-1], "before": before, "encode": encoded, "tokens": tokens, "trained": trained, "peak": peak}


def contender(python: str, file: str, job: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.json").write_text(json.dumps(job))
        environment = {**os.environ, "TRUNKLINE_CACHE": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        words = (
            [python, file, str(Path(folder) / "job.json")]
            if "with_trl" in file
            else [python, file, "--job", str(Path(folder) / "job.json")]
        )
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{file} failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TRUNKLINE_DATA", "../shared/data")))
    parser.add_argument("--peer", help="a Python with trl")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--depth", type=int, default=7, help="layers above the cut; TRL's adapter is on all layers, and then on as many")
    parser.add_argument("--pairs", type=int, default=4, help="pairs a step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="about so many in prompt and answer together")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.job:
        print("RESULT " + json.dumps(ours(json.loads(Path(told.job).read_text()))))
        return
    from trunkline.model.sources import locate

    job = {"model": str(locate(told.model)), "rows": rows(told.data, told.pairs * told.steps, told.tokens), "batch": told.pairs, "steps": told.steps,
           "layers": told.depth, "max_tokens": 2 * told.tokens, "rate": 1e-4, "precompute": False}  # fmt: skip
    found = {f"ours, LoRA on the top {told.depth}": contender(sys.executable, __file__, job)}
    if told.peer:
        trl = str(Path(__file__).parent / "peers/with_trl.py")
        found["TRL, LoRA on all layers"] = contender(told.peer, trl, {**job, "layers": 0})
        found[f"TRL, LoRA on the top {told.depth}"] = contender(told.peer, trl, job)
    mine = next(iter(found.values()))
    print(f"{told.model}, {told.pairs} pairs a step, {told.steps} steps, float32, one thread\n")
    print(f"{'':28} {'s a step':>9} {'times ours':>10} {'before (s)':>10} {'tokens a step':>14} {'trained':>10} {'peak MB':>8}")
    for name, one in found.items():
        step = statistics.median(one["seconds"])
        ratio = step / statistics.median(mine["seconds"])
        print(
            f"{name:28} {step:9.2f} {ratio:10.2f} {one['before']:10.1f} {one['tokens']:14.0f} {one['trained']:10,} {one['peak'] / 1e6:8.0f}"
        )
    OUT.mkdir(exist_ok=True)
    (OUT / "dpo.json").write_text(json.dumps({"told": {k: str(v) for k, v in vars(told).items()}, "found": found}, indent=2))


if __name__ == "__main__":
    main()
