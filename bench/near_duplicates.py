"""Near-duplicates in a million short texts with planted truth: minutes, memory, recall and precision, beside datasketch.

    python bench/near_duplicates.py                        # a million of ours, 20,000 of datasketch's; about ten minutes
    python bench/near_duplicates.py --texts 20000          # both on the same 20,000

Texts are made from real ones (TRUNKLINE_DATA: Banking77, SST-2, Tatoeba): pieces of some words are drawn and put together, so that all
are different and read like short messages, a third of them Chinese. One in ten is a copy of an earlier text that was changed: case and spaces,
punctuation, one letter, two letters, a word left out, a word replaced. The Jaccard index of each copy with its source is worked out exactly; copies at
or over the threshold are what has to be found, and a text that is named a duplicate and is no copy counts against precision.

datasketch: MinHash over the same windows with as many hash functions and the same bands, MinHashLSH, each text queried before it is
inserted; a candidate counts where the estimated Jaccard index is at least the threshold. It runs on a smaller sample, and its time for all texts
is a linear extrapolation and said to be one. Seconds are of the processor; memory is the most that the process held, texts included.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from trunkline.corpus.duplicates import InMemory, duplicates
from trunkline.corpus.minhash import Sketch, folded, jaccard, shingles

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
THRESHOLD = 0.8
COPIES = 10
KINDS = ("case and spaces", "punctuation", "one letter", "two letters", "a word left out", "a word replaced")


def main() -> int:
    asked = _asked()
    if asked.only:
        print(json.dumps(run(asked.only, asked.texts, asked.seed)))
        return 0
    figures = [
        _apart("ours", asked.texts, asked.seed),
        _apart("ours", asked.sample, asked.seed),
        _apart("datasketch", asked.sample, asked.seed),
    ]
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "near-duplicates.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures, asked.texts))
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000, help="texts for datasketch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one contender, in this process: ours or datasketch")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    return parser.parse_args()


def _apart(name: str, texts: int, seed: int) -> dict[str, Any]:
    """A contender in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--only", name, "--texts", str(texts), "--seed", str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(name: str, count: int, seed: int) -> dict[str, Any]:
    """Seconds, memory, recall and precision of one contender on `count` texts."""
    texts, source, kinds = made(count, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, wall = time.process_time(), time.monotonic()
    first, more = {"ours": ours, "datasketch": datasketch}[name](texts)
    seconds, wall = time.process_time() - start, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    about = {"name": name, "texts": count, "seconds": seconds, "wall_seconds": wall, "peak_mb": peak, "texts_mb": before, **more}
    return about | judged(texts, source, kinds, first)


def ours(texts: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    found = duplicates(InMemory(texts), THRESHOLD)
    return found.first, {"compared": found.compared, "passed_over": found.passed_over}


def datasketch(texts: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    from datasketch import MinHash, MinHashLSH

    sketch = Sketch()
    size = sketch.bands * sketch.rows
    index = MinHashLSH(num_perm=size, params=(sketch.bands, sketch.rows))
    first, kept = np.arange(len(texts)), {}
    for place, text in enumerate(texts):
        made = MinHash(num_perm=size)
        made.update_batch(list(shingles(folded(text), sketch.window)))
        alike = [other for other in index.query(made) if kept[other].jaccard(made) >= THRESHOLD]
        if alike:
            first[place] = first[min(alike)]
        index.insert(place, made)
        kept[place] = made
    return first, {}


def judged(texts: list[str], source: np.ndarray, kinds: list[str | None], first: np.ndarray) -> dict[str, Any]:
    """Recall over the copies that are at least as alike as the threshold, by how alike they are; precision over all that were named."""
    copies = np.flatnonzero(source >= 0)
    alike = np.array([jaccard(*(shingles(folded(texts[i]), 6) for i in (at, source[at]))) for at in copies])
    found = first[copies] == first[source[copies]]
    named = first != np.arange(len(texts))
    right = int((found & named[copies]).sum())
    known = np.array([kinds[at] for at in copies])
    over = alike >= THRESHOLD
    return {
        "copies": len(copies), "copies_over": int(over.sum()), "recall": float(found[over].mean()),
        "recall_09": float(found[alike >= 0.9].mean()), "copies_09": int((alike >= 0.9).sum()),
        "precision": right / max(1, int(named.sum())), "named": int(named.sum()),
        "kinds": {kind: {"jaccard": float(alike[known == kind].mean()), "found": float(found[known == kind].mean())} for kind in KINDS},
    }  # fmt: skip


def made(count: int, seed: int) -> tuple[list[str], np.ndarray, list[str | None]]:
    """The texts, for each copy the place of its source (else -1), and how it was changed."""
    generator, pieces = random.Random(seed), _pieces()
    texts: list[str] = []
    source, kinds = np.full(count, -1), []
    seen: set[str] = set()
    while len(texts) < count:
        if len(texts) % COPIES == COPIES - 1:
            at = generator.randrange(len(texts))
            if source[at] < 0:
                kind = generator.choice(KINDS)
                source[len(texts)] = at
                texts.append(changed(texts[at], kind, generator))
                kinds.append(kind)
                continue
        language = "zh" if generator.random() < 1 / 3 else "en"
        text = ("，" if language == "zh" else " ").join(generator.choices(pieces[language], k=generator.randint(2, 4)))
        if text not in seen:
            seen.add(text)
            texts.append(text)
            kinds.append(None)
    return texts, source, kinds


def changed(text: str, kind: str, generator: random.Random) -> str:
    """A copy of a text that is not quite it."""
    words = text.split() if text.isascii() or " " in text else [text[at : at + 2] for at in range(0, len(text), 2)]
    joint = " " if " " in text else ""
    place = generator.randrange(len(words))
    if kind == "case and spaces":
        return text.upper() if text.isascii() else f" {text} "
    if kind == "punctuation":
        return text.rstrip(".!?。！？") + generator.choice([".", "!", "?", "！", "。"])
    if kind in ("a word left out", "a word replaced"):
        words[place : place + 1] = [] if kind == "a word left out" else [words[generator.randrange(len(words))]]
        return joint.join(words)
    for _ in range(1 if kind == "one letter" else 2):
        at = generator.randrange(len(text))
        text = text[:at] + generator.choice("的一是了" if not text.isascii() else "etaoin") + text[at + 1 :]
    return text


def _pieces() -> dict[str, list[str]]:
    """Runs of 4 to 8 words, and Chinese clauses of 5 to 14 characters, of the real texts."""
    english, chinese = set(), set()
    for text in _texts():
        for clause in re.findall(r"[\u3400-\u9fff]{5,14}", text):
            chinese.add(clause)
        words = text.split()
        if text.isascii():
            english.update(" ".join(words[at : at + 6]) for at in range(0, len(words), 6) if len(words[at : at + 6]) >= 4)
    return {"en": sorted(english), "zh": sorted(chinese)}


def _texts() -> list[str]:
    def cells(path: str, column: int, delimiter: str = ",") -> list[str]:
        with (DATA / path).open(encoding="utf-8") as lines:
            return [
                row[column]
                for row in csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else 0)
                if len(row) > column
            ]

    return [
        *cells("banking77/train.csv", 0), *cells("sst2/train.tsv", 0, "\t"), *cells("tatoeba_en_zh/cmn.txt", 0, "\t"),
        *cells("tatoeba_en_zh/cmn.txt", 1, "\t"),
    ]  # fmt: skip


def table(figures: list[dict[str, Any]], total: int) -> str:
    lines = [
        "| | texts | processor s | peak MB (texts alone) | recall, Jaccard from 0.8 | from 0.9 | precision |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in figures:
        lines.append(
            f"| {one['name']} | {one['texts']:,} | {one['seconds']:.1f} | {one['peak_mb']:.0f} ({one['texts_mb']:.0f}) | "
            f"{one['recall']:.2%} of {one['copies_over']:,} | {one['recall_09']:.2%} | {one['precision']:.2%} of {one['named']:,} |"
        )
    theirs = figures[-1]
    lines.append(
        f"\ndatasketch for {total:,} texts, extrapolated from {theirs['texts']:,}: {theirs['seconds'] * total / theirs['texts'] / 60:.0f} minutes."
    )
    lines.append(
        "By kind of change (Jaccard index, found by ours): "
        + "; ".join(f"{k} {v['jaccard']:.2f}, {v['found']:.1%}" for k, v in figures[0]["kinds"].items())
    )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
