"""How fast `clean` is and how much memory it takes: documents of about a kilobyte, made of real sentences, a third in Chinese, one in ten a changed copy.

    python bench/clean.py                         # 5 and 20 MB, two minutes of the processor
    python bench/clean.py --megabytes 200

Each size runs in a process of its own, with one worker and all that `clean` does by default.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import near_duplicates

import trunkline as tl

SENTENCES, CLAUSES = 14, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--only", type=int, help="one size, in this process")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measured(asked.only)))
        return
    found = []
    print("| MB | documents | kept | near-duplicates | processor s | MB/s | peak MiB |\n|--:|--:|--:|--:|--:|--:|--:|")
    for size in asked.megabytes:
        command = [sys.executable, __file__, "--only", str(size)]
        one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        found.append(one)
        print(
            f"| {size} | {one['read']:,} | {one['kept']:,} | {one['near']:,} | {one['seconds']:.0f} | {size / one['seconds']:.2f} | {one['peak']:.0f} |",
            flush=True,
        )
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "clean.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measured(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.jsonl"
        subprocess.run(
            [sys.executable, "-c", f"import clean; clean.write({str(file)!r}, {size << 20})"], check=True, cwd=Path(__file__).parent
        )
        started = time.process_time()
        report = tl.clean([file], Path(folder) / "out", tl.CleanSettings(workers=1)).to_json()
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "read": report["read"],
        "kept": report["kept"],
        "near": report["dropped"].get("near_duplicate", 0),
        "seconds": seconds,
        "peak": peak,
    }


def write(path: str, size: int) -> None:
    generator, pieces, written = random.Random(0), near_duplicates._pieces(), 0
    earlier: list[str] = []
    with Path(path).open("w", encoding="utf-8") as file:
        while written < size:
            text = document(generator, pieces)
            if earlier and generator.random() < 0.1:
                text = near_duplicates.changed(generator.choice(earlier), "one letter", generator)
            elif len(earlier) < 10_000:
                earlier.append(text)
            line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode())


def document(generator: random.Random, pieces: dict[str, list[str]]) -> str:
    if generator.random() < 1 / 3:
        return "。".join("，".join(generator.choices(pieces["zh"], k=CLAUSES)) for _ in range(SENTENCES)) + "。"
    return " ".join(" ".join(generator.choices(pieces["en"], k=CLAUSES)).capitalize() + "." for _ in range(SENTENCES))


if __name__ == "__main__":
    main()
