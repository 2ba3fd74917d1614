"""Nearest neighbours: recall@10 against the exact ones, and queries a second, at three sizes.

    python bench/search.py                        # some eight minutes of the processor, most of them for 1,000,000 vectors
    python bench/search.py --sizes 40000 real

Vectors are what minilm makes of real English sentences (Tatoeba, Multi30k, Banking77, SST-2), the mean of their states; 1,000 of them are kept back as
queries. "real" is all of them; more are made of three real ones each, a + (b - c) / 2. Up to 50,000 the search is exact, beyond it goes through FAISS's
lists. One thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from pathlib import Path

import faiss
import numpy as np
from sets import DATA

import trunkline as tl
from trunkline.states.search import Index

QUERIES, NEAR = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["40000", "real", "1000000"])
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rows = [{"text": text} for text in texts()]
    real = np.random.default_rng(0).permutation(tl.vectors(rows, model="minilm").rows)
    queries, real = real[:QUERIES], real[QUERIES:]
    lines = []
    print("| vectors | built in s | queries/s, one at a time | 100 at a time | recall@10 % | peak MiB |\n|--:|--:|--:|--:|--:|--:|")
    for size in asked.sizes:
        count = len(real) if size == "real" else int(size)
        lines.append(measured(made(real, count), queries))
        one = lines[-1]
        print(
            f"| {count:,} | {one['built']:.1f} | {one['alone']:.0f} | {one['together']:.0f} | {100 * one['recall']:.2f} | {one['peak']:.0f} |",
            flush=True,
        )
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "search.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


def texts() -> list[str]:
    """Each sentence once."""
    found = [line.split("\t")[0] for line in (DATA / "tatoeba_en_zh/cmn.txt").read_text(encoding="utf-8").splitlines()]
    with gzip.open(DATA / "multi30k/train.en.gz", "rt", encoding="utf-8") as lines:
        found += lines.read().splitlines()
    for part in ("train", "test"):
        found += [row["text"] for row in tl.read(DATA / f"banking77/{part}.csv", text="text", label="category")]
        found += [row["text"] for row in tl.read(DATA / f"sst2/{part}.tsv", header=False, text="0", label="1")]
    return list(dict.fromkeys(text for text in found if text.strip()))


def made(real: np.ndarray, count: int) -> np.ndarray:
    if count <= len(real):
        return real[:count]
    generator = np.random.default_rng(1)
    a, b, c = (generator.integers(0, len(real), count - len(real)) for _ in range(3))
    found = np.empty((count, real.shape[1]), dtype=np.float32)
    found[: len(real)] = real
    for start in range(0, len(a), 50_000):
        some = slice(start, start + 50_000)
        found[len(real) + start : len(real) + start + len(a[some])] = real[a[some]] + (real[b[some]] - real[c[some]]) / 2
    return found


def measured(vectors: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    index = Index(vectors.shape[1])
    index.add(list(map(str, range(len(vectors)))), vectors)
    started = time.process_time()
    index.search(queries[:1], NEAR)  # builds the lists where there are any
    built, started = time.process_time() - started, time.process_time()
    alone = [index.search(query[None], NEAR)[0] for query in queries[:200]]
    first, started = time.process_time() - started, time.process_time()
    together = [hits for start in range(0, len(queries), 100) for hits in index.search(queries[start : start + 100], NEAR)]
    second = time.process_time() - started
    if [[name for name, _ in hits] for hits in alone] != [[name for name, _ in hits] for hits in together[:200]]:
        raise SystemExit("a query alone finds others than among 100")
    return {
        "vectors": len(vectors), "built": built, "alone": 200 / first, "together": len(queries) / second,
        "recall": recall(vectors, queries, together), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def recall(vectors: np.ndarray, queries: np.ndarray, found: list[list[tuple[str, float]]]) -> float:
    """Of the ten nearest by a plain product with all vectors, the share that was found."""
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.full((len(queries), NEAR), -np.inf)
    places = np.zeros((len(queries), NEAR), dtype=np.int64)
    for start in range(0, len(vectors), 20_000):
        some = vectors[start : start + 20_000]
        scores = np.concatenate([best, asked @ (some / np.linalg.norm(some, axis=1, keepdims=True)).T], axis=1)
        where = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(some)), (len(queries), len(some)))], axis=1)
        top = np.argpartition(-scores, NEAR, axis=1)[:, :NEAR]
        best, places = np.take_along_axis(scores, top, 1), np.take_along_axis(where, top, 1)
    right = [len({int(name) for name, _ in hits} & set(true.tolist())) for hits, true in zip(found, places)]
    return sum(right) / (NEAR * len(queries))


if __name__ == "__main__":
    main()
