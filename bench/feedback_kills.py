"""Kills processes that write feedback with SIGKILL, and lets many write at once; then compares the store with what was acknowledged.

    python bench/feedback_kills.py                          # 500 kills of 4 writers; 8 writers of 1,000 entries each
    python bench/feedback_kills.py --kills 50 --each 100

Each writer notes what the store acknowledged. One of them is killed after a random while, started again, and first sends once more what was
not acknowledged, under the same key. "lost": acknowledged and not there under its id; "twice": there more than once. Every hash of the
store is compared at the end. Exit code 1 unless nothing is lost or twice. The milliseconds are those of one `add`, waiting for the
other writers included: of processes, each with a synced commit of its own, and then of threads of one process, as in a server, which share commits.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.feedback.killed import kill_writers, write_in_threads, write_together


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500, help="how many kills  [default: 500]")
    parser.add_argument("--writers", type=int, default=8, help="how many write at once without being killed  [default: 8]")
    parser.add_argument("--each", type=int, default=1000, help="how many entries each of those  [default: 1000]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments  [default: 0]")
    parser.add_argument(
        "--folder", help="where the stores are meanwhile; its disk is what is measured  [default: the system's folder for such]"
    )
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=told.folder) as first, tempfile.TemporaryDirectory(dir=told.folder) as second:
        found: dict[str, float] = dict(kill_writers(Path(first), told.kills, seed=told.seed))
        print(json.dumps(found), file=sys.stderr)
        began = time.perf_counter()
        seconds = write_together(Path(second), writers=told.writers, each=told.each)
        spent = time.perf_counter() - began
        began = time.perf_counter()
        threads = write_in_threads(Path(second), writers=told.writers, each=told.each)
        spent_by_threads = time.perf_counter() - began
    found |= {"writers at once": told.writers, "entries": len(seconds), "entries a second": round(len(seconds) / spent, 1)}
    found |= _milliseconds("", seconds)
    found |= {"threads: entries a second": round(len(threads) / spent_by_threads, 1), **_milliseconds("threads: ", threads)}
    print("\n".join(f"{name:>26}: {value}" for name, value in found.items()))
    out = Path(__file__).parent / "out" / "feedback_kills.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"told": vars(told), **found}, indent=2) + "\n", encoding="utf-8")
    return 0 if found["lost"] == found["twice"] == 0 else 1


def _milliseconds(of: str, seconds: list[float]) -> dict[str, float]:
    return {
        f"{of}p50 ms": round(1000 * statistics.median(seconds), 1),
        f"{of}p99 ms": round(1000 * statistics.quantiles(seconds, n=100)[98], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
