"""Few rows a class, ours against SetFit on Banking77: the same drawn rows and model, one thread each, in turned order, test accuracy once.

    python bench/peers.py --setup
    python bench/few_shot.py --per-class 8 16 --seeds 3      # runs what is not there yet, then prints the table
    python bench/few_shot.py --per-class 8 16 64 --report    # only the table

SetFit is as it comes, with the number of pairs that its authors recommend: 20 positive and 20 negative ones a row for one epoch (Tunstall et
al. 2022, section 4); --pairs sets another number. Ours is `tune` with --depth auto. Both tune on the same few rows: ours also reads up to 4
validation rows a class, by which only its probabilities are calibrated, so that no answer depends on them; the official test file is
read after the clock has stopped. Seconds of the processor are those of the process, user and system, from its start until the model is
saved; they stand beside those on the wall because other work on the machine lengthens only these. Lines as in bench/peers.py.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from peers import Bench

from trunkline.evaluation.interval import seeds

OURS = "ours depth=auto epochs=none test=after"


def main() -> int:
    asked = _asked()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    failed, every = 0, {}
    for count in asked.per_class:
        told = argparse.Namespace(**{**vars(asked), "per_class": count, "contenders": [OURS, f"setfit pairs={asked.pairs}"]})
        bench = Bench("banking77", told)
        if not asked.report:
            failed += bench.run()
        every[count] = summary(bench.done(), told.contenders)
    (asked.out / "few-shot.json").write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
    print(table(every))
    return 1 if failed else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-class", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--seeds", type=int, default=3, help="draws of the rows")
    parser.add_argument("--pairs", type=int, default=40, help="SetFit's pairs a row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/out/few-shot"))
    parser.add_argument("--report", action="store_true", help="only the table of what is done")
    parser.set_defaults(rows=None, warm=False, epochs=10, max_tokens=128, peers=[])
    return parser.parse_args()


def summary(runs: list[dict[str, Any]], contenders: list[str]) -> dict[str, Any]:
    """For each contender the seeds that are done, and of accuracy and seconds all values, their mean and the t interval over seeds."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if run["contender"] in contenders:
            groups[run["contender"]].append(run)
    found = {}
    for name, those in sorted(groups.items()):
        figures = {key: [run[key] for run in those] for key in ("test_accuracy", "processor_seconds", "seconds")}
        found[name] = {"seeds": [run["seed"] for run in those], "depths": [run.get("model", {}).get("depth") for run in those]}
        found[name] |= {key: {"values": values, **_interval(values)} for key, values in figures.items()}
    return found


def _interval(values: list[float]) -> dict[str, Any]:
    over = seeds(values)
    return {"mean": over.mean, "low": over.low, "high": over.high}


def table(every: dict[int, dict[str, Any]]) -> str:
    """Markdown: a row for each number of rows a class and contender; the ratio is SetFit's seconds over ours, on the seeds that both have."""
    lines = ["| rows a class | contender | seeds | test accuracy | processor s | wall s | SetFit : ours |", "|--:|---|--:|--:|--:|--:|--:|"]
    for count, found in every.items():
        ours = found.get(OURS)
        for name, one in found.items():
            shown = [
                f"{100 * one['test_accuracy']['mean']:.2f}" + _reach(one["test_accuracy"]),
                *(f"{one[k]['mean']:.0f}" for k in ("processor_seconds", "seconds")),
            ]
            ratio = "" if name == OURS or not ours else f"{_mean_of_both(one, ours) / _mean_of_both(ours, one):.1f}"
            lines.append(f"| {count} | {name} | {len(one['seeds'])} | {' | '.join(shown)} | {ratio} |")
    return "\n".join([*lines, "In brackets: 95% t interval over the draws of the rows. The ratio is of processor seconds."])


def _mean_of_both(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The mean processor seconds of the seeds that the other has too."""
    kept = [s for seed, s in zip(one["seeds"], one["processor_seconds"]["values"], strict=True) if seed in other["seeds"]]
    return sum(kept) / len(kept) if kept else float("nan")


def _reach(figure: dict[str, Any]) -> str:
    return "" if figure["low"] is None else f" ({100 * figure['low']:.2f} to {100 * figure['high']:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
