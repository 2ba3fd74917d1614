"""What was aimed at beside other tools, and what was measured: one table of all that lies in bench/peers/measured and bench/measured.

    python bench/bars.py             # the table, and of each figure the command that measures it
    python bench/bars.py --run       # measures first what is not there yet: a day on two cores

Ratios are of processor seconds (other work on a machine changes those less), seed by seed, and the median of them; the seconds behind them are
in docs/peers.md. A figure that was not measured has none. Needs what the commands need: TRUNKLINE_DATA, and `python bench/peers.py --setup`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PEERS, ENGINE = HERE / "peers/measured", HERE / "measured"
LORA, FULL = "lora precision=bfloat16", "full precision=bfloat16"
PROBE, TWO = "ours depth=0 method=probe trunk_precision=bfloat16", "ours depth=2 trunk_precision=bfloat16"
COLD_LORA = "lora precision=bfloat16 rate=0.001"
COLD_ONE, COLD_TWO = "ours depth=1 trunk_precision=bfloat16 test=after", "ours depth=2 trunk_precision=bfloat16 test=after"
FEW = "ours depth=auto epochs=none test=after"
POINTS = 0.3
"""How much less accurate, in points, still counts as the same."""


@dataclass(frozen=True)
class Found:
    """value: what the bar is about; text: the figure as people read it; fits: whether what has to go with it (accuracy, memory) does."""

    value: float
    text: str
    fits: bool = True


@dataclass(frozen=True)
class Bar:
    """aim: at least so much, or with `most` at most; find: the figure, None where it was not measured; command: measures it."""

    what: str
    aim: float
    find: Callable[[], Found | None]
    command: str
    most: bool = False

    def line(self) -> str:
        """The bar as a row of the table."""
        aim, found = f"at {'most' if self.most else 'least'} {self.aim:g}", self.find()
        if found is None:
            return f"| {self.what} | {aim} | not measured | |"
        kept = found.fits and (found.value <= self.aim if self.most else found.value >= self.aim)
        return f"| {self.what} | {aim} | {found.text} | {'yes' if kept else '**no**'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure first what is not there yet")
    if parser.parse_args().run:
        for command in dict.fromkeys(bar.command for bar in BARS if bar.find() is None):
            print(command, flush=True)
            subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True)
    print("| figure | bar | measured | kept |\n|---|---|---|---|")
    print("\n".join(bar.line() for bar in BARS))
    print("\nMeasured by:\n" + "\n".join(dict.fromkeys(f"  {bar.command}" for bar in BARS)))


def runs(label: str, contender: str, warm: bool = False) -> dict[int, dict[str, Any]]:
    """The finished runs of a contender on a set, by seed."""
    file = PEERS / f"{label}.jsonl"
    every = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return {run["seed"]: run for run in every if run["contender"] == contender and run["warm"] == warm}


def beside(
    label: str, ours: str, theirs: str, points: float, figure: str = "processor_seconds", warm: bool = False
) -> Callable[[], Found | None]:
    """Theirs : ours in seconds, or ours : theirs in memory; it counts where ours is at most so many points less accurate."""

    def find() -> Found | None:
        mine, other = runs(label, ours, warm), runs(label, theirs)
        seeds = sorted(mine.keys() & other.keys())
        if not seeds:
            return None
        ratios = [mine[seed][figure] / other[seed][figure] for seed in seeds]
        ratios = ratios if figure == "peak_bytes" else [1 / one for one in ratios]
        better = median(100 * (mine[seed]["test_accuracy"] - other[seed]["test_accuracy"]) for seed in seeds)
        spread = f" ({min(ratios):.3g} to {max(ratios):.3g})" if len(seeds) > 1 else ""
        found = median(ratios)
        count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        return Found(found, f"{found:.2f}x{spread} at {better:+.2f} points, {count}", better >= -points)

    return find


def trunk_in_int8() -> Found | None:
    found = _engine("trunk-banking77-minilm-depth-0.json")
    if found is None:
        return None
    int8 = found["precisions"]["int8"]
    points = int8["points_to_float32"][0]
    return Found(int8["times_float32"], f"{int8['times_float32']:.2f}x at {points:+.2f} points", points >= -0.5)


def trunk_share() -> Found | None:
    found = _engine("trunk-banking77-minilm-depth-0.json")
    shares = found and {name: found["precisions"][name]["share_of_matmul"] for name in ("float32", "bfloat16", "int8")}
    return Found(shares["float32"], ", ".join(f"{name} {share:.0%}" for name, share in shares.items())) if shares else None


def step_share() -> Found | None:
    found = _engine("step-banking77-depth-2.json")
    shares = found and {name: found[name]["share"] for name in ("float32", "bfloat16")}
    return Found(shares["float32"], ", ".join(f"{name} {share:.0%}" for name, share in shares.items())) if shares else None


def flat() -> Found | None:
    """By how much a row takes longer among more rows, at most, of all pairs of sizes."""
    rates = {size["rows"]: 1e3 * size["total"] / size["rows"] for size in _rows() or ()}
    if not rates:
        return None
    grown = max(more / fewer for (_, fewer), (_, more) in itertools.combinations(sorted(rates.items()), 2))
    return Found(grown, f"{grown:.2f} (ms a row: {', '.join(f'{rows:,} {rate:.2f}' for rows, rate in sorted(rates.items()))})")


def resident() -> Found | None:
    found = _rows()
    if found is None:
        return None
    return Found(max(size["peak_mib"] for size in found), ", ".join(f"{size['rows']:,}: {size['peak_mib']:,.0f}" for size in found))


def _rows() -> list[dict[str, Any]] | None:
    found: Any = _engine("scale.json")
    return found if found and max(size["rows"] for size in found) >= 1_000_000 else None


def _engine(name: str) -> dict[str, Any] | None:
    return json.loads((ENGINE / name).read_text(encoding="utf-8")) if (ENGINE / name).exists() else None


_ON = "--threads 1 --out bench/peers/measured"
_BANKING = f'python bench/peers.py banking77 --seeds 3 --peers "{LORA}" --ours "{PROBE[5:]}" --ours "{TWO[5:]}" --warm {_ON}'
_COLD = f'python bench/peers.py cold --rows 4000 --epochs 5 --seeds 3 --peers "{COLD_LORA}" --ours "{COLD_ONE[5:]}" --ours "{COLD_TWO[5:]}" {_ON}'
_TRUNK, _STEP = (
    "python bench/trunk.py banking77 --rounds 3 --out bench/measured",
    "python bench/step.py banking77 --rounds 3 --out bench/measured",
)
_SCALE = "python bench/scale.py --rows 1000 10000 100000 1000000 --trunk-precision bfloat16 --out bench/measured"


def _few(count: int, pairs: int) -> Bar:
    find = beside(f"banking77-{count}-per-class", FEW, f"setfit pairs={pairs}", 0.5)
    command = f"python bench/few_shot.py --per-class {count} --pairs {pairs} --seeds 2 --out bench/peers/measured"
    return Bar(f"Banking77, {count} a class, `--depth auto`; SetFit with {pairs} pairs a row : ours", 10, find, command)


BARS = (
    Bar("Banking77, file to saved branch, a head alone; LoRA on all layers : ours", 6, beside("banking77", PROBE, LORA, POINTS), _BANKING),
    Bar(
        "the same; full tuning : ours",
        8,
        beside("banking77", PROBE, FULL, POINTS),
        f'python bench/peers.py banking77 --seeds 3 --peers "{FULL}" --ours "{PROBE[5:]}" --warm {_ON}',
    ),
    Bar("the same, texts whose states are there; LoRA : ours", 20, beside("banking77", PROBE, LORA, POINTS, warm=True), _BANKING),
    Bar("COLD on e5-small, one layer; LoRA on all 12 : ours", 6, beside("cold-4000-rows", COLD_ONE, COLD_LORA, POINTS), _COLD),
    Bar("the same, two layers", 6, beside("cold-4000-rows", COLD_TWO, COLD_LORA, POINTS), _COLD),
    *(_few(*one) for one in ((8, 40), (16, 18), (64, 5))),
    Bar("encode in int8 : in float32, tokens a second", 2, trunk_in_int8, _TRUNK),
    Bar("memory at depth 2 : of LoRA", 0.5, beside("banking77", TWO, LORA, POINTS, "peak_bytes"), _BANKING, most=True),
    Bar("encode, share of the rate of plain products", 0.75, trunk_share, _TRUNK),
    Bar("a training step, likewise", 0.5, step_share, _STEP),
    Bar("seconds a row among more rows : among fewer, 1,000 to 1,000,000", 1.15, flat, _SCALE, most=True),
    Bar("resident MiB", 2048, resident, _SCALE, most=True),
)


if __name__ == "__main__":
    main()
