"""HumanEval with a decoder model as it is: how many problems it solves, its programs run in the locked-down process.

    python bench/code.py                              # smollm2, the first ten problems, one program each
    python bench/code.py --problems 164 --samples 10

Writes what was written and what became of it as JSON. Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data).
The right solutions that come with the problems are run first: where one of them fails, nothing else is worth counting.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from trunkline.branch import Branch
from trunkline.evaluation.programs.sandbox import check, read_problems
from trunkline.evaluation.programs.solve import solve
from trunkline.evaluation.wording import with_interval
from trunkline.methods.full import Config
from trunkline.model.backbone import load_backbone
from trunkline.tasks.generate import TaskSpec

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="[default: smollm2]")
    parser.add_argument("--problems", type=int, default=10, help="the first so many  [default: 10]")
    parser.add_argument("--samples", type=int, default=1, help="programs a problem  [default: 1]")
    parser.add_argument("--threads", type=int, default=1, help="[default: 1]")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    problems = read_problems(DATA / "humaneval/HumanEval.jsonl.gz")[: asked.problems]
    right = [check(problem, problem.solution) for problem in problems]
    print(f"{sum(one.status == 'passed' for one in right)} of {len(problems)} right solutions pass; guards: {', '.join(right[0].guards)}")
    branch = Branch.new(load_backbone(asked.model), TaskSpec(max_tokens=1024), "full", Config(), 1)
    report = solve(branch, problems, samples=asked.samples)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "code.json").write_bytes(report.to_json())
    for metric, found in report.results[0]["metrics"].items():
        print(f"{metric} {with_interval(metric, found)}")
    print("\n".join([*report.data["notes"], f"{report.results[0]['seconds']:.0f} s"]))


if __name__ == "__main__":
    main()
