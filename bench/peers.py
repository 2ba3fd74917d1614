"""The peers side by side: the same rows, model and limits, each contender in a process of its own, from the files to a saved model.

    python bench/peers.py --setup                                       # the peers' environment, bench/.venvs/peers
    python bench/peers.py banking77 --choose                            # learning rates on validation rows, into bench/peers/rates.json
    python bench/peers.py banking77 --seeds 3 --threads 2 --ours depth=2 --ours "depth=0 method=probe" --warm
    python bench/peers.py banking77 --per-class 8 --seeds 3             # few-shot; SetFit joins
    python bench/peers.py banking77 --report --reference "ours depth=2" # the table of what is there: text, JSON and SVG

What is done stands in OUT/SET.jsonl, a line a run; a run that was stopped goes on from there. A contender may have options behind its
name: --peers full "lora precision=bfloat16". Needs the data in the folder that TRUNKLINE_DATA names (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from main_job import SETS

sys.path.append(str(Path(__file__).parent / "peers"))

import torch
from report import report

from trunkline import storage
from trunkline.data.quality import drop_leaks
from trunkline.data.split import Split
from trunkline.model import sources
from trunkline.train import machine
from trunkline.types import Rows

HERE = Path(__file__).parent
VENV = HERE / ".venvs/peers"
RATES = HERE / "peers/rates.json"
SCRIPTS = {"full": "full", "lora": "lora", "lora_top": "lora", "logreg": "logreg", "setfit": "with_setfit", "ours": "ours"}
GRIDS = {"full": (1e-4, 3e-4, 1e-3), "lora": (1e-3, 3e-3, 1e-2), "lora_top": (1e-3, 3e-3, 1e-2)}
TOP_LAYERS = {"minilm": "2", "e5-small": "4"}
PATIENCE = 2
BATCH_SIZE = 32
CHOOSE_ROWS = 2000
VALIDATION_PER_CLASS = 4
"""At most, and never more than there are training rows of a class: who has 8 examples has no hundred to choose by."""


def main() -> int:
    asked = _asked()
    if asked.setup:
        return _setup()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    failed = 0
    for name in asked.sets:
        bench = Bench(name, asked)
        if asked.choose:
            bench.choose()
            continue
        if not asked.report:
            failed += bench.run()
        report(asked.out / bench.label, bench.done(), asked.reference)
    return 1 if failed else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help="banking77, sst2 or cold")
    parser.add_argument("--peers", nargs="*", help="of full, lora, lora_top, logreg, setfit  [default: all; setfit in few-shot only]")
    parser.add_argument("--ours", action="append", help='options of one contender of ours, as "depth=2 method=full"  [default: depth=2]')
    parser.add_argument("--warm", action="store_true", help="run ours a second time, on the states that the first run left")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="at most; stops after 2 without gain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, help="train on so many rows, drawn by seed 0")
    parser.add_argument(
        "--per-class", type=int, help="few-shot: so many training rows a class, drawn by the seed, and at most 4 to choose by"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/out/peers"))
    parser.add_argument("--reference", help="whom the others are compared with  [default: the first of ours]")
    parser.add_argument("--report", action="store_true", help="only the table of what is done")
    parser.add_argument("--choose", action="store_true", help="only choose the peers' learning rates")
    parser.add_argument("--setup", action="store_true", help="only make the peers' environment")
    asked = parser.parse_args()
    if not asked.sets and not asked.setup:
        parser.error("name at least one set: banking77, sst2, cold.")
    if wrong := sorted(set(asked.sets) - {"banking77", "sst2", "cold"}):
        parser.error(f"set {wrong[0]!r}: use banking77, sst2 or cold.")
    if asked.rows and asked.per_class:
        parser.error("--rows and --per-class: give one of the two.")
    if asked.rows and asked.choose:
        parser.error("--choose draws its own part of the rows: leave --rows out.")
    if asked.peers is None:
        asked.peers = ["full", "lora", "lora_top", "logreg", *(["setfit"] if asked.per_class else [])]
    asked.contenders = [*asked.peers, *(f"ours {options}" for options in asked.ours or ["depth=2"])]
    for contender in asked.contenders:
        name, *options = contender.split()
        if name not in SCRIPTS or any("=" not in option for option in options):
            parser.error(f"{contender!r}: use one of {', '.join(SCRIPTS)}, with options as name=value.")
    return asked


def _setup() -> int:
    """A fresh environment with exactly the versions of requirements.txt."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    install = [VENV / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "-r", HERE / "peers/requirements.txt"]
    return subprocess.run(install, check=False).returncode


class Bench:
    """One set of rows: its files, its finished runs, and the next ones."""

    def __init__(self, name: str, asked: argparse.Namespace) -> None:
        self.name, self.asked = name, asked
        self.load, self.model = SETS[name]
        self.label = name + (f"-{asked.per_class}-per-class" if asked.per_class else f"-{asked.rows}-rows" if asked.rows else "")
        self.settings = {"epochs": asked.epochs, "patience": PATIENCE, "batch_size": BATCH_SIZE, "max_tokens": asked.max_tokens,
                         "threads": asked.threads}  # fmt: skip

    @property
    def file(self) -> Path:
        return self.asked.out / f"{self.label}.jsonl"

    @property
    def rates_label(self) -> str:
        """Under which name the learning rates are kept. A set cut by --rows has those of the whole set."""
        return self.name if self.asked.rows else self.label

    def done(self) -> list[dict[str, Any]]:
        """The finished runs with these settings."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [run for run in map(json.loads, lines) if run["settings"] == self.settings]

    def run(self) -> int:
        """Everything that is not done yet; the order of contenders turns and reverses with the seed. Gives how many failed."""
        rates = self.rates()
        have = {(run["contender"], run["seed"], run["warm"]) for run in self.done()}
        failed = 0
        self.warm_up()
        with tempfile.TemporaryDirectory() as temporary:
            folder, parts = Path(temporary), drop_leaks(self.load())
            for seed in range(self.asked.seeds):
                files = _write(self.drawn(parts, seed), folder / f"rows-{seed}")
                for contender in turned(self.asked.contenders, seed):
                    failed += self.contend(contender, seed, files, rates, have)
        return failed

    def warm_up(self) -> None:
        """Import everything once, off the clock: otherwise whoever comes first reads the libraries from a cold disk for all."""
        for script in dict.fromkeys(SCRIPTS[contender.split()[0]] for contender in self.asked.contenders):
            subprocess.run([_python(script), "-c", f"import {script}"], cwd=HERE / "peers", check=True, stderr=subprocess.DEVNULL)

    def contend(self, contender: str, seed: int, files: dict[str, str], rates: dict[str, str], have: set[tuple[str, int, bool]]) -> int:
        """One contender with one seed, and for ours the warm run in the same cache; what is there already is not written again."""
        name, *given = contender.split()
        wanted = [False, True] if name == "ours" and self.asked.warm else [False]
        if all((contender, seed, warm) in have for warm in wanted):
            return 0
        options = dict(option.split("=", 1) for option in given)
        if name in GRIDS and "rate" not in options:
            options["rate"] = rates[name]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "models").symlink_to((storage.cache_folder() / "models").absolute())
            for warm in wanted:
                about = {"set": self.label, "contender": contender, "warm": warm, "seed": seed, "settings": self.settings,
                         "created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine(self.asked.threads)}  # fmt: skip
                found = self.process(name, options, seed, files, Path(folder), self.settings)
                if found is None:
                    return 1
                if (contender, seed, warm) not in have:
                    with self.file.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({**about, "options": options, **found}, ensure_ascii=False) + "\n")
                said = f"{contender}{', warm' if warm else ''}, seed {seed}"
                print(f"{self.label}  {said:40} test {100 * found['test_accuracy']:6.2f}   {found['seconds']:8.1f} s   "
                      f"{found['peak_bytes'] / 2**20:6.0f} MiB", flush=True)  # fmt: skip
        return 0

    def process(
        self, name: str, options: dict[str, str], seed: int, files: dict[str, str], folder: Path, settings: dict[str, int]
    ) -> dict[str, Any] | None:
        """The result line of one contender's process; None, and the end of its stderr on ours, where it failed."""
        if name == "lora_top":
            options = {**options, "layers": TOP_LAYERS[self.model]}
        job = {"files": files, "model": self.model if name == "ours" else str(sources.get(self.model)), "seed": seed, "options": options,
               **settings, "out": str(folder / f"out-{time.monotonic_ns()}"), "started": time.monotonic()}  # fmt: skip
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [_python(name), str(HERE / f"peers/{SCRIPTS[name]}.py"), str(folder / "job.json")]
        found = subprocess.run(command, capture_output=True, text=True, env=_environment(self.asked.threads, folder), check=False)
        if found.returncode:
            print(f"{self.label}  {name}, seed {seed}: failed with status {found.returncode}:\n{found.stderr[-3000:]}", file=sys.stderr)
            return None
        return json.loads(found.stdout.splitlines()[-1])

    def choose(self) -> None:
        """For each peer with a grid, the rate that is best on the validation rows, in runs on a part of the rows; the test rows are not read."""
        rates = json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            parts = self.drawn(drop_leaks(self.load()), 0)
            files = _write(replace(parts, train=_part(parts.train, CHOOSE_ROWS)), folder / "rows")
            del files["test"]
            for name, *given in [peer.split() for peer in self.asked.peers if peer.split()[0] in GRIDS]:
                tried, options = {}, dict(option.split("=", 1) for option in given)
                for rate in GRIDS[name]:
                    found = self.process(name, {**options, "rate": f"{rate:g}"}, 0, files, folder, self.settings)
                    if found is None:
                        sys.exit(1)
                    tried[f"{rate:g}"] = found["validation_accuracy"]
                best = max(tried, key=lambda rate: tried[rate])  # of equals the first, the lowest
                print(f"{self.label}  {name}: {best} of {', '.join(f'{r}: {100 * v:.2f}' for r, v in tried.items())}", flush=True)
                rows = {part: Path(path).read_bytes().count(b"\n") for part, path in files.items()}
                rates.setdefault(self.rates_label, {})[name] = {
                    "rate": best,
                    "validation_accuracy": tried,
                    "rows": rows,
                    "epochs": self.settings["epochs"],
                    "options": options,
                }
                RATES.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")

    def rates(self) -> dict[str, str]:
        """The chosen rate of each peer that needs one."""
        label = self.rates_label
        chosen = (json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}).get(label, {})
        needed = {peer.split()[0] for peer in self.asked.peers if "rate=" not in peer} & set(GRIDS)
        if lacking := sorted(needed - chosen.keys()):
            few = f" --per-class {self.asked.per_class}" if self.asked.per_class else ""
            sys.exit(f"{RATES}: no learning rate for {', '.join(lacking)} on {label}. Run: python bench/peers.py {self.name}{few} --choose")
        return {name: entry["rate"] for name, entry in chosen.items()}

    def drawn(self, parts: Split, seed: int) -> Split:
        """The rows of one seed: all, the first draw of --rows, or a few of each class."""
        if self.asked.rows:
            return replace(parts, train=_part(parts.train, self.asked.rows))
        if not self.asked.per_class:
            return parts
        few = min(self.asked.per_class, VALIDATION_PER_CLASS)
        return replace(parts, train=_few(parts.train, self.asked.per_class, seed), validation=_few(parts.validation, few, seed))


def turned(contenders: list[str], seed: int) -> list[str]:
    """The contenders, beginning with another one for each seed, and backwards for odd ones.

    >>> turned(["a", "b", "c"], 1)
    ['a', 'c', 'b']
    """
    at = seed % len(contenders)
    order = contenders[at:] + contenders[:at]
    return order[::-1] if seed % 2 else order


def _part(rows: Rows, count: int) -> Rows:
    """So many rows at random, always the same, with at least one of each class."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    first = {rows[place]["label"]: place for place in reversed(order)}
    if count < len(first):
        sys.exit(f"{count} training rows: there are {len(first)} classes. Take at least one row of each.")
    must = set(first.values())
    picked = [*must, *(place for place in order if place not in must)][:count]
    return replace(rows, rows=tuple(rows[place] for place in sorted(picked)))


def _few(rows: Rows, count: int, seed: int) -> Rows:
    """So many rows of each class, or what there is."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row["label"]].append(place)
    chance = random.Random(seed)
    picked = [place for label in sorted(places) for place in chance.sample(places[label], min(count, len(places[label])))]
    return replace(rows, rows=tuple(rows[place] for place in sorted(picked)))


def _write(parts: Split, folder: Path) -> dict[str, str]:
    """The three parts as JSON Lines, the only rows that any contender sees."""
    folder.mkdir()
    files = {}
    for name, part in parts.parts().items():
        lines = (json.dumps({"text": row["text"], "label": row["label"]}, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        files[name] = str(folder / f"{name}.jsonl")
    print(f"{folder.name}: {', '.join(f'{len(part):,} {name}' for name, part in parts.parts().items())}", flush=True)
    return files


def _python(name: str) -> str:
    """Ours runs where the runner does; the peers in their own environment."""
    if name != "ours" and not (VENV / "bin/python").exists():
        sys.exit(f"{VENV}: is not there. Make it with: python bench/peers.py --setup")
    return sys.executable if name == "ours" else str((VENV / "bin/python").absolute())


def _environment(threads: int, cache: Path) -> dict[str, str]:
    """The same threads for everybody, nothing from the network, and a cache of states that only this contender has."""
    number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**os.environ, **number, **quiet, "OMP_WAIT_POLICY": "PASSIVE", "TRUNKLINE_CACHE": str(cache)}


def _machine(threads: int) -> dict[str, Any]:
    """What the machine is, and how fast it multiplies just now."""
    # bfloat16 on the small shape alone: a machine without instructions for it takes minutes for the large one
    tried = (("float32", (2048, 2048, 2048)), ("float32", (512, 384, 1536)), ("bfloat16", (512, 384, 1536)))
    rates = {f"{name} {'x'.join(map(str, shape))}": _gigaflops(*shape, getattr(torch, name)) for name, shape in tried}
    return {**machine.describe(torch.device("cpu")), "threads": threads, "load": os.getloadavg()[0], "gigaflops": rates}


def _gigaflops(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """The rate of (m, k) x (k, n), in 10^9 operations a second: the median of at least 5 products and a fifth of a second."""
    a, b = torch.ones(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype)
    a @ b
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < 0.2:
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return round(2 * m * k * n / median(seconds) / 1e9, 1)


if __name__ == "__main__":
    sys.exit(main())
