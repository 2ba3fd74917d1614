"""How much memory a states store takes: fills one, reads all of it twice in random order, and prints what the process held.

    python bench/states_memory.py                      # 100,000 texts of about 15 tokens, width 384, float32
    python bench/states_memory.py --dtype int8 --json

The trunk is a fast stand-in (embeddings and positions), so the seconds are those of the store and not of a model. "resident"
is the high-water mark of the whole process since its start, torch and the texts included (VmHWM; Linux only). The bar is
1,500 MB. Shards are in the system's file cache when they are read: random reads from a cold disk depend on the disk.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from trunkline.states.encode import encode
from trunkline.states.store import States
from trunkline.types import Tokens

VOCABULARY = 1000
BATCH = 256


class StandIn(torch.nn.Module):
    """A trunk that looks up words and places and does nothing else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.id, self.width, self.pad_id, self.device = "0" * 64, width, 0, torch.device("cpu")
        random = torch.Generator().manual_seed(0)
        self.words = torch.randn(VOCABULARY, width, generator=random)
        self.places = torch.randn(512, width, generator=random)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor:
        return self.words[ids] + self.places[: ids.shape[1]]


def resident_mb(field: str) -> float:
    """VmHWM (highest so far) or VmRSS (now) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def random_texts(rows: int, tokens: int, seed: int) -> list[Tokens]:
    random = np.random.default_rng(seed)
    lengths = np.clip(random.poisson(tokens, rows), 2, 500)
    return [Tokens(random.integers(1, VOCABULARY, length).astype(np.int32)) for length in lengths]


def read_all(states: States, texts: list[Tokens], random: np.random.Generator) -> list[float]:
    """Seconds of each read of 256 rows, over all texts in random order. What is read is compared with its stored mean."""
    seconds, order = [], random.permutation(len(texts))
    for start in range(0, len(texts), BATCH):
        some = [texts[at] for at in order[start : start + BATCH]]
        began = time.perf_counter()
        found = states.read(some)
        seconds.append(time.perf_counter() - began)
        if not np.allclose(found[0].mean(axis=0), states.pooled(some[:1])[0], atol=1e-5):
            raise SystemExit("The store gave back other states than it was given.")
    return seconds


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float | str]:
    trunk, texts = StandIn(arguments.width), random_texts(arguments.rows, arguments.tokens, arguments.seed)
    of_store = {"trunk_id": trunk.id, "width": trunk.width, "dtype": arguments.dtype}
    before = resident_mb("VmHWM")
    with torch.inference_mode():
        report = encode(texts, trunk, States.open(folder, **of_store))
    after_encode = resident_mb("VmHWM")
    began = time.perf_counter()
    states = States.open(folder, **of_store)
    opened, random = time.perf_counter() - began, np.random.default_rng(arguments.seed)
    reads = [second for _ in range(2) for second in read_all(states, texts, random)]
    return {
        "rows": len(states),
        "tokens": report.tokens,
        "dtype": arguments.dtype,
        "store_mb": round(states.bytes / 2**20, 1),
        "resident_before_mb": round(before, 1),
        "resident_after_encode_mb": round(after_encode, 1),
        "resident_highest_mb": round(resident_mb("VmHWM"), 1),
        "resident_at_end_mb": round(resident_mb("VmRSS"), 1),
        "encode_seconds": round(report.seconds, 2),
        "open_and_verify_seconds": round(opened, 2),
        "read_256_rows_median_ms": round(float(np.median(reads)) * 1000, 2),
        "read_256_rows_p99_ms": round(float(np.quantile(reads, 0.99)) * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=15, help="mean tokens of a text")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "int8"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder) / "states")
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(
            "\n".join(
                f"{name:26} {value:>12,}" if not isinstance(value, str) else f"{name:26} {value:>12}" for name, value in figures.items()
            )
        )


if __name__ == "__main__":
    main()
