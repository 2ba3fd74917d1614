"""Open-loop load on `trunkline serve`: requests come at their own times, whether or not those before were answered.

    python bench/open_loop.py                                    # minilm, Banking77's test texts (TRUNKLINE_DATA), some eight minutes
    python bench/open_loop.py --seconds 30 --rounds 5 --svg docs/open-loop.svg

Arrivals are Poisson. A latency runs from the time at which a request was meant to come until its answer is read, so a client or a server that falls
behind hides nothing (coordinated omission). Each round first measures the capacity, answers a second to 16 clients that ask as fast as they are
answered (so few are never refused), and then offers shares of it, in an order of its own. One branch of depth 2, one text a request, states not kept
(--cache-mb 0), all other settings as they come, the limits of overload among them.

goodput: requests with an answer within the time, a second. late: how much later than meant the client itself sent, p99. Server and client run in
processes of their own on the cores that this command may use; beside them stands how much of those cores each took, and what others took. What was
measured while others took more than --others of the cores is thrown away; it is waited until they take less, and measured again.
Source: Schroeder et al. 2006, "Open Versus Closed: A Cautionary Tale" (NSDI); Tene 2013, "How NOT to Measure Latency" (coordinated omission).
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import psutil
import torch
from serve import DATA, Running, _post

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import load_backbone
from trunkline.train.machine import describe

AT_ONCE = 16


@dataclass(frozen=True)
class Reply:
    """status: of HTTP, 0 where the connection was lost; seconds: since the request was meant to come; late: until it was sent; done: on the clock."""

    status: int
    seconds: float
    late: float
    done: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--loads", type=int, nargs="+", default=[50, 70, 90, 100, 150, 200], help="in %% of the capacity")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load and round  [default: 20]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=float, default=0.1, help="of the cores, beside server and client, at most  [default: 0.1]")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that each measurement waits for that  [default: 600]")
    parser.add_argument("--seed", type=int, default=0, help="of texts, times and order")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--svg", type=Path, help="where the picture goes  [default: beside the JSON]")
    asked = parser.parse_args()
    with (DATA / "banking77/test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with tempfile.TemporaryDirectory() as folder:
        made = save(Path(folder), asked.model, sorted({row["category"] for row in rows}))
        server = Running(["-m", "trunkline.cli", "serve", str(made), "--port", "0", "--cache-mb", "0"])
        try:
            server.wait()
            runtime = server.get("/v1/branches")["branches"][0]["runtime"]
            rounds = [one_round(server, [row["text"] for row in rows], asked, random.Random(asked.seed + at)) for at in range(asked.rounds)]
        finally:
            server.stop()
    found = {"told": vars(asked) | {"out": str(asked.out), "svg": str(asked.svg)}, "machine": describe(torch.device("cpu")), "runtime": runtime,
             "cores": sorted(os.sched_getaffinity(0)), "rounds": rounds, "loads": [summary(rounds, load) for load in sorted(asked.loads)]}  # fmt: skip
    show(found)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "open_loop.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (asked.svg or asked.out / "open_loop.svg").write_text(plot(found["loads"]), encoding="utf-8")


def save(folder: Path, model: str, labels: list[str]) -> Path:
    """A branch of depth 2 with drawn weights: its speed does not depend on what it learned."""
    torch.manual_seed(0)
    spec = names.task("classify").TaskSpec(labels=tuple(labels), max_tokens=128)
    return Branch.new(load_backbone(model), spec, "full", names.method("full").Config(), 2).save(folder / "intent")


def one_round(server: Running, texts: list[str], asked: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    """The capacity, and the replies to each load, as shares of the cores beside them."""

    def bodies(count: int) -> list[bytes]:
        return [_post({"inputs": [chance.choice(texts)]}) for _ in range(count)]

    asyncio.run(closed(server.port, bodies(64), 2.0))  # warm
    capacity, cores = quietly(server, asked, lambda: asyncio.run(closed(server.port, bodies(4096), max(5.0, asked.seconds / 2))))
    found: dict[str, Any] = {"capacity": capacity, "cores": cores, "loads": {}}
    for load in chance.sample(asked.loads, len(asked.loads)):
        times = arrivals(capacity * load / 100, asked.seconds, chance)
        replies, cores = quietly(server, asked, lambda times=times: asyncio.run(opened(server.port, bodies(len(times)), times)))  # type: ignore[misc]
        found["loads"][str(load)] = told(replies, asked.seconds) | {"cores": cores}
        print(load, {k: v for k, v in found["loads"][str(load)].items() if not isinstance(v, list)}, file=sys.stderr, flush=True)
    return found


def quietly(server: Running, asked: argparse.Namespace, measure: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `measure` gives while others leave the cores alone, and how many cores server, client and others took."""
    end, most = time.perf_counter() + asked.patience, asked.others * len(os.sched_getaffinity(0))
    while time.perf_counter() < end:
        if _cores(server, lambda: time.sleep(2.0))[1]["others"] > most:
            continue
        found, cores = _cores(server, measure)
        if cores["others"] <= most:
            return found, cores
        print(f"thrown away: others took {cores['others']:.2f} cores", file=sys.stderr, flush=True)
    raise SystemExit(f"Others used these cores for {asked.patience:g} seconds. Wait for a quieter machine, or allow more with --others.")


def _cores(server: Running, measure: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `measure` gives, and how many cores server, client and others took meanwhile."""
    before, began = _spent(server), time.perf_counter()
    found = measure()
    wall = time.perf_counter() - began
    own, client, every = (1 / wall * (b - a) for a, b in zip(before, _spent(server)))
    return found, {"server": own, "client": client, "others": every - own - client}


def told(replies: list[Reply], seconds: float) -> dict[str, Any]:
    """What is kept of the replies to one load."""
    good = [one for one in replies if one.status == 200]
    return {
        "offered": len(replies) / seconds,
        "goodput": sum(one.done <= seconds for one in good) / seconds,
        "seconds": [round(one.seconds, 5) for one in good],
        "refused": {str(status): sum(one.status == status for one in replies) for status in {one.status for one in replies} - {200}},
        "refusals": [round(one.seconds - one.late, 5) for one in replies if one.status in (429, 503)],
        "late": [round(one.late, 5) for one in replies],
    }


def arrivals(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """When requests come, so many a second on average, each without regard to the others."""
    times, now = list[float](), chance.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += chance.expovariate(rate)
    return times


async def closed(port: int, bodies: list[bytes], seconds: float) -> float:
    """Answers a second to `AT_ONCE` clients of which each asks again as soon as it was answered."""
    answered, end = 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal answered
        ends = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            status = await exchange(*ends, bodies[number % len(bodies)])  # before the sum is read: others add to it meanwhile
            answered += status == 200
            number += AT_ONCE
        ends[1].close()

    await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    return answered / seconds


async def opened(port: int, bodies: Sequence[bytes], times: Sequence[float]) -> list[Reply]:
    """Sends each body at its time, on a connection that nobody uses, and waits for all replies."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    start = time.perf_counter() + 0.1

    async def one(body: bytes, due: float) -> Reply:
        sent = status = 0
        try:
            ends = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            sent = time.perf_counter() - start
            status = await exchange(*ends, body)
            idle.append(ends)
        except (OSError, EOFError):
            pass
        now = time.perf_counter() - start
        return Reply(status, now - due, (sent or now) - due, now)

    tasks = []
    for body, due in zip(bodies, times, strict=True):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(body, due)))
    replies = await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return replies


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """The status of the reply, when all of it is read."""
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    return int(head.split(b" ", 2)[1])


def _spent(server: Running) -> tuple[float, float, float]:
    """Processor seconds of the server, of this process, and of everything on the cores that both may use."""
    cores = psutil.cpu_times(percpu=True)
    busy = sum(
        sum(cores[at]) - cores[at].idle - cores[at].iowait - cores[at].guest - cores[at].guest_nice for at in os.sched_getaffinity(0)
    )
    return server.seconds(), time.process_time(), busy


def summary(rounds: list[dict[str, Any]], load: int) -> dict[str, Any]:
    """One load over all rounds: medians of rates and shares, quantiles of all requests together."""
    runs = [(one["capacity"], one["loads"][str(load)]) for one in rounds]

    def middle(of: Any) -> float:
        return statistics.median(of(run) for _, run in runs)

    def quantile(name: str, share: float) -> float | None:
        values = sorted(value for _, run in runs for value in run[name])
        return 1000 * values[min(len(values) - 1, int(share * len(values)))] if values else None

    refused = sum(sum(run["refused"].values()) for _, run in runs)
    shares = [run["goodput"] / capacity for capacity, run in runs]
    return {
        "load": load,
        "offered": middle(lambda run: run["offered"]),
        "goodput": middle(lambda run: run["goodput"]),
        "share": statistics.median(shares),
        "shares": [min(shares), max(shares)],
        "p50": quantile("seconds", 0.5),
        "p99": quantile("seconds", 0.99),
        "per_cpu_second": middle(lambda run: run["goodput"] / run["cores"]["server"]),
        "refused": refused / (refused + sum(len(run["seconds"]) for _, run in runs)),
        "other": sum(number for _, run in runs for status, number in run["refused"].items() if status not in ("429", "503")),
        "refusals_p99": quantile("refusals", 0.99),
        "late_p99": quantile("late", 0.99),
        **{name: middle(lambda run, name=name: run["cores"][name]) for name in ("server", "client", "others")},  # type: ignore[misc]
    }


def show(found: dict[str, Any]) -> None:
    loads, capacities = found["loads"], [one["capacity"] for one in found["rounds"]]
    print(
        f"{found['told']['model']} in {found['runtime']}, {found['machine']['processor']}, cores {found['cores']}, for server and client together"
    )
    print(f"capacity {statistics.median(capacities):.1f} answers a second ({min(capacities):.1f} to {max(capacities):.1f})\n")
    names = ["load", "offered/s", "goodput/s", "of capacity (range)", "p50 ms", "p99 ms", "refused", "refusal p99 ms", "late p99 ms",
             "answers a processor second", "cores: server, client, others"]  # fmt: skip
    print(f"| {' | '.join(names)} |\n|{'--:|' * len(names)}")
    for one in loads:
        cells = [f"{one['load']}%", f"{one['offered']:.1f}", f"{one['goodput']:.1f}",
                 "{:.0%} ({:.0%} to {:.0%})".format(one["share"], *one["shares"]), _ms(one["p50"]), _ms(one["p99"]), f"{one['refused']:.1%}",
                 _ms(one["refusals_p99"]), _ms(one["late_p99"]), f"{one['per_cpu_second']:.0f}",
                 f"{one['server']:.2f}, {one['client']:.2f}, {one['others']:.2f}"]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    by, peak = {one["load"]: one for one in loads}, max(one["share"] for one in loads)
    if 70 in by:
        ratio = by[70]["p99"] / by[70]["p50"]
        print(f"\np99 at 70% is {ratio:.1f} times p50: {'met' if ratio <= 5 else 'MISSED'} (5)")
    if 200 in by:
        kept = by[200]["share"] / peak
        print(f"goodput at 200% is {kept:.0%} of the highest: {'met' if kept >= 0.9 else 'MISSED'} (90%)")
    print(f"neither answered nor refused with 429 or 503: {sum(one['other'] for one in loads)}")


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def plot(loads: list[dict[str, Any]]) -> str:
    """Left goodput, right p50 and p99 (logarithmic), against the load that was offered."""
    most, top, bottom, width, height = max(one["load"] for one in loads), 40, 280, 760, 330
    low, high = min(one["p50"] for one in loads) / 1.5, max(one["p99"] for one in loads) * 1.5
    ticks = [m * 10.0**e for e in range(0, 5) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    parts = _panel(50, "goodput, % of capacity", most, {at: bottom - at / 120 * (bottom - top) for at in range(0, 121, 20)})
    right = _panel(
        430, "milliseconds from the time a request was meant to come", most, {at: _log(at, low, high, top, bottom) for at in ticks}
    )
    ends = 50 + 100 / most * 280, bottom - 100 / 120 * (bottom - top)
    parts += [f'<path d="M50 {bottom}L{ends[0]:.1f} {ends[1]:.1f}H330" fill="none" stroke="#999" stroke-dasharray="4 4"/>', *right]
    for left, of, colour, name in (
        (50, lambda one: bottom - 100 * one["share"] / 120 * (bottom - top), "#c2410c", ""),
        (430, lambda one: _log(one["p50"], low, high, top, bottom), "#c2410c", "p50"),
        (430, lambda one: _log(one["p99"], low, high, top, bottom), "#1d4ed8", "p99"),
    ):
        places = [(left + one["load"] / most * 280, of(one)) for one in loads]
        parts.append(f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{places[-1][0] + 8:.1f}" y="{places[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{inside}\n</svg>\n'
    )


def _panel(left: int, title: str, most: int, ticks: dict[Any, float]) -> list[str]:
    """Lines and numbers of one of the two pictures."""
    parts = [f'<text x="{left}" y="22" font-size="13">{title}</text>']
    parts.append(f'<text x="{left + 140}" y="318" text-anchor="middle">offered, % of capacity</text>')
    for value, y in ticks.items():
        parts.append(
            f'<path d="M{left} {y:.1f}h280" stroke="#ddd"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for load in range(0, most + 1, 50):
        parts.append(f'<text x="{left + load / most * 280:.1f}" y="298" text-anchor="middle">{load}</text>')
    return parts


def _log(value: float, low: float, high: float, top: int, bottom: int) -> float:
    return bottom - (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (bottom - top)


if __name__ == "__main__":
    main()
