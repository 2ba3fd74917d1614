"""How many requests a processor second `trunkline serve` answers, beside `transformers` pipelines behind FastAPI with the same weights.

    python bench/serve.py                       # minilm, Banking77's test texts (TRUNKLINE_DATA), some minutes
    python bench/serve.py --requests 200 --out bench/out

One server of ours for each precision, and that of pipelines, which are float32; all are asked in turns. In "float32+int8" the trunk computes in
float32 and the layers above it in int8 (--branch-precision int8); in "int8" both in int8. Servers run in processes
of their own with one thread each (--threads), on the cores that this command may use; the client is not counted. "requests a cpu second": by the processor
time of the server and its workers (others on the machine change that less than the clock on the wall). p50 is by the clock. Every request is
another text, and states are not kept (--cache-mb 0). The branches have drawn weights and Banking77's 77 labels: speed does not depend on what
they learned. Their answers are compared first: same labels, and by how much probabilities differ (int8: bench/int8_parity.py, of tuned ones).

The peer is a FastAPI application with one `text-classification` pipeline for each branch: a whole model with the branch's own weights, mean pooling
and the linear layer. One request runs them one after the other, one request at a time (faster than in threads that compete for one core).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import csv
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import psutil
import torch
from pydantic import BaseModel

from trunkline import branch as branches
from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import load_backbone
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings
from trunkline.train.machine import describe

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
EIGHT = [f"b{number}" for number in range(8)]
HEADS = [f"h{number}" for number in range(10)]
ONES = [f"o{number}" for number in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--requests", type=int, default=120, help="of each measurement; those of the slowest are a third")
    parser.add_argument("--precisions", nargs="+", default=["float32", "float32+int8", "int8"], help="of ours, a server each")
    parser.add_argument("--threads", type=int, default=1, help="of each server, ours and that of pipelines")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--inside", action="store_true", help="both servers in threads of this process, whose client's time is taken off: starts faster"
    )
    parser.add_argument("--quick", action="store_true", help="without the ten heads and the ten branches of depth 1")
    parser.add_argument("--peer", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        peer(asked.peer, asked.threads)
        return
    with (DATA / "banking77/test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts, labels = [row["text"] for row in rows], sorted({row["category"] for row in rows})
    random.Random(0).shuffle(texts)
    with tempfile.TemporaryDirectory() as folder:
        made = {one: save(Path(folder) / one, asked.model, labels, one) for one in asked.precisions}
        if asked.quick:
            made = {one: {name: path for name, path in paths.items() if name in EIGHT} for one, paths in made.items()}
        result = {"model": asked.model, "threads": asked.threads, "machine": describe(torch.device("cpu")), **measure(made, texts, asked)}
    show(result)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "serve.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def save(folder: Path, model: str, labels: list[str], precision: str) -> dict[str, Path]:
    """Branches of depth 1 and 2, 10 heads, and 10 of depth 1. precision: of the trunk, and behind a plus of the layers above it."""
    of_trunk, _, of_layers = precision.partition("+")
    backbone = load_backbone(model, trunk_precision=of_trunk)
    spec = names.task("classify").TaskSpec(labels=tuple(labels), max_tokens=128)
    depths = {**{name: 1 + at % 2 for at, name in enumerate(EIGHT)}, **dict.fromkeys(HEADS, 0), **dict.fromkeys(ONES, 1)}
    made = {}
    for seed, (name, depth) in enumerate(depths.items()):
        torch.manual_seed(seed)
        branch = Branch.new(backbone, spec, "full", names.method("full").Config(), depth)
        with torch.no_grad():
            branch.network.head.linear.weight.normal_(std=0.3)
            for parameter in branch.network.learned().values():
                parameter.add_(0.01 * torch.randn_like(parameter))
        answers_in = (of_layers or of_trunk) if depth else "float32"  # on an int8 trunk as `tune` has it by itself
        made[name] = replace(branch, precision=answers_in).save(folder / name)
    return made


def measure(made: dict[str, dict[str, Path]], texts: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"ours": {one: {} for one in made}, "peer": {}, "runtimes": {}, "equal": {}}
    ours, theirs = (inside if asked.inside else outside)(made, asked)
    few = max(10, asked.requests // 3)
    loads = [
        ("1 branch, 1 at a time", ["b0"], asked.requests, 1),
        ("1 branch, 32 at a time", ["b0"], 2 * asked.requests, 32),
        ("8 branches, 1 at a time", EIGHT, few, 1),
        ("8 branches, 32 at a time", EIGHT, 2 * few, 32),
    ]
    tens = [("1 head", HEADS[:1]), ("10 heads", HEADS), ("1 of depth 1", ONES[:1]), ("10 of depth 1", ONES)]
    loads += [(name, wanted, asked.requests, 1) for name, wanted in tens if not asked.quick]
    try:
        for server in (*ours.values(), theirs):
            server.wait()
        for one, server in ours.items():
            said = {about["name"]: about["runtime"] for about in server.get("/v1/branches")["branches"]}
            found["runtimes"][one], found["equal"][one] = said["b0"], equal(server, theirs, texts[:8])
        for _ in range(asked.rounds):  # in turns, so that what else runs here meets all alike
            for name, *load in loads:
                for one, server in ours.items():
                    found["ours"][one].setdefault(name, []).append(server.load(texts, *load))
                if load[0] in (["b0"], EIGHT):
                    found["peer"].setdefault(name, []).append(theirs.load(texts, *load))
                print(name, {one: round(runs[name][-1]["per_cpu_second"], 1) for one, runs in found["ours"].items()}, file=sys.stderr)
    finally:
        for server in (*ours.values(), theirs):
            server.stop()
    return found


def outside(made: dict[str, dict[str, Path]], asked: argparse.Namespace) -> tuple[dict[str, Running], Running]:
    told = ["--port", "0", "--threads", str(asked.threads), "--workers", "1", "--cache-mb", "0", "--runtime", asked.runtime]
    patient = ["--max-wait", "600", "--deadline", "600", "--stuck-seconds", "600"]
    ours = {one: Running(["-m", "trunkline.cli", "serve", *map(str, paths.values()), *told, *patient]) for one, paths in made.items()}
    first = next(iter(made.values()))
    return ours, Running([__file__, "--threads", str(asked.threads), "--peer", *(str(first[name]) for name in EIGHT)])


def inside(made: dict[str, dict[str, Path]], asked: argparse.Namespace) -> tuple[dict[str, Running], Running]:
    torch.set_num_threads(asked.threads)
    settings = ServeSettings(port=0, threads=asked.threads, cache_mb=0, runtime=asked.runtime, max_wait=600.0, deadline=600.0)
    ours: dict[str, Running] = {}
    for one, paths in made.items():
        ours[one] = server = InThread()
        server.port = int(server.stack.enter_context(serving(list(paths.values()), settings)).rpartition(":")[2])
    theirs, ready, first = InThread(), threading.Event(), next(iter(made.values()))

    def say(address: str) -> None:
        theirs.port = int(address.rpartition(":")[2])
        ready.set()

    threading.Thread(target=peer, args=([str(first[name]) for name in EIGHT], asked.threads, say), daemon=True).start()
    ready.wait()
    return ours, theirs


class Running:
    """A server in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = 0

    def wait(self) -> None:
        """Until it says where it listens."""
        self.port = int(self._process.stdout.readline().split()[-1].rpartition(":")[2])  # type: ignore[union-attr]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def seconds(self) -> float:
        """Processor time of the server and its workers so far."""
        root = psutil.Process(self._process.pid)
        return sum(one.cpu_times().user + one.cpu_times().system for one in [root, *root.children(recursive=True)])

    def get(self, path: str) -> Any:
        return asyncio.run(self._once(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))

    def post(self, body: dict[str, Any]) -> Any:
        return asyncio.run(self._once(_post(body)))

    def load(self, texts: list[str], wanted: list[str], count: int, at_once: int) -> dict[str, float]:
        """So many requests, so many at a time, each another text; a few before that are not counted."""
        start = random.randrange(len(texts) - count - 8) if len(texts) > count + 8 else 0
        bodies = [_post({"inputs": [text], "branches": wanted}) for text in texts[start : start + count + 8]]
        ask = self._one_by_one if at_once == 1 else lambda some: asyncio.run(self._many(some, at_once))
        ask(bodies[:8])
        cpu, began = self.seconds(), time.perf_counter()
        times = ask(bodies[8:])
        wall, cpu = time.perf_counter() - began, self.seconds() - cpu
        return {
            "per_cpu_second": len(times) / cpu,
            "per_second": len(times) / wall,
            "p50": statistics.median(times),
            "requests": len(times),
        }

    def _one_by_one(self, bodies: list[bytes]) -> list[float]:
        """On a plain socket: a client with an event loop takes more of the core itself, of every request to either server."""
        times = []
        with socket.create_connection(("127.0.0.1", self.port)) as end, end.makefile("rb") as reader:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for body in bodies:
                began = time.perf_counter()
                end.sendall(body)
                head = b"".join(iter(reader.readline, b"\r\n")).lower()
                found = reader.read(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                times.append(time.perf_counter() - began)
                if b" 200 " not in head.partition(b"\r\n")[0]:
                    raise RuntimeError(found[:200])
        return times

    async def _once(self, data: bytes) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = await _exchange(reader, writer, data)
        writer.close()
        return json.loads(found)

    async def _many(self, bodies: list[bytes], at_once: int) -> list[float]:
        left, times = list(reversed(bodies)), []

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while left:
                body, began = left.pop(), time.perf_counter()
                await _exchange(reader, writer, body)
                times.append(time.perf_counter() - began)
            writer.close()

        await asyncio.gather(*(one() for _ in range(at_once)))
        return times


class InThread(Running):
    """A server in a thread of this process: what the client's own thread takes is not counted."""

    def __init__(self) -> None:
        self.port, self.stack = 0, contextlib.ExitStack()

    def wait(self) -> None:
        """Both are ready when they are made."""

    def stop(self) -> None:
        self.stack.close()

    def seconds(self) -> float:
        return time.process_time() - time.thread_time()


def _post(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    found = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(found[:200])
    return found


def equal(ours: Running, theirs: Running, texts: list[str]) -> dict[str, Any]:
    """Whether both servers say the same."""
    pairs = [(ours.post({"inputs": [text], "branches": EIGHT}), theirs.post({"inputs": [text], "branches": EIGHT})) for text in texts]
    both = [(a["answers"][0][name], b["answers"][0][name]) for a, b in pairs for name in EIGHT]
    return {
        "answers": len(both),
        "same_label": sum(a["label"] == b["label"] for a, b in both),
        "largest_difference": max(abs(a["probability"] - b["probability"]) for a, b in both),
    }


class Body(BaseModel):
    """What the peer is asked."""

    inputs: list[str]
    branches: list[str]


def peer(folders: list[str], threads: int, say: Callable[[str], None] = lambda address: print(address, flush=True)) -> None:
    """A FastAPI application with a pipeline for each branch."""
    import uvicorn
    from fastapi import FastAPI
    from transformers import AutoTokenizer, BertPreTrainedModel, pipeline
    from transformers.modeling_outputs import SequenceClassifierOutput
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    torch.set_num_threads(threads)

    class MeanPooled(BertPreTrainedModel):  # type: ignore[misc]
        """A whole model, mean pooling, one linear layer: what the branch is, as transformers has it."""

        def __init__(self, config: Any, bert: Any, linear: Any) -> None:
            super().__init__(config)
            self.bert, self.classifier = bert, linear

        def forward(self, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None, **_: Any) -> Any:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
            weight = attention_mask / attention_mask.sum(1, keepdim=True)
            return SequenceClassifierOutput(logits=self.classifier((hidden * weight[..., None]).sum(1)))

    made = {}
    for folder in folders:
        one = branches.load(folder)
        config = copy.deepcopy(one.backbone.config)
        config.id2label = dict(enumerate(one.spec.labels))
        whole = copy.deepcopy(one.backbone.whole(one.network.upper, one.depth))
        model = MeanPooled(config, whole, copy.deepcopy(one.network.head.linear)).eval()
        tokenizer = AutoTokenizer.from_pretrained(one.backbone.folder, local_files_only=True)
        made[Path(folder).name] = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    app, lock = FastAPI(), threading.Lock()

    @app.post("/v1/predict")
    def predict(body: Body) -> Any:
        with lock:
            found = {name: made[name](body.inputs, truncation=True) for name in body.branches}
        each = [
            {name: {"label": said[at]["label"], "probability": said[at]["score"]} for name, said in found.items()}
            for at in range(len(body.inputs))
        ]
        return {"answers": each}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            say("http://127.0.0.1:" + str(self.servers[0].sockets[0].getsockname()[1]))

    Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False)).run()


def show(result: dict[str, Any]) -> None:
    """A table for each precision, as docs/serve.md has it; a ratio is that of a round, and its range over rounds stands behind it."""
    print(f"{result['model']}, threads of each server: {result['threads']}, {result['machine']['processor']}")
    for one, ours in result["ours"].items():
        same = result["equal"][one]
        print(
            f"\n{one}, runs in {result['runtimes'][one]}; {same['same_label']} of {same['answers']} labels as the pipelines say, ",
            end="",
        )
        print(f"largest difference of a probability {same['largest_difference']:.1e}")
        print("\n| | requests a cpu second | pipelines | ratio | p50 ms | pipelines | ratio |\n|---|--:|--:|--:|--:|--:|--:|")
        for name, theirs in result["peer"].items():
            rates, waits = _ratio(ours[name], theirs, "per_cpu_second"), _ratio(theirs, ours[name], "p50")
            speeds = f"{_median(ours[name], 'per_cpu_second'):.1f} | {_median(theirs, 'per_cpu_second'):.1f} | {rates}"
            print(f"| {name} | {speeds} | {1e3 * _median(ours[name], 'p50'):.1f} | {1e3 * _median(theirs, 'p50'):.1f} | {waits} |")
        for first, ten in (("1 head", "10 heads"), ("1 of depth 1", "10 of depth 1")):
            if ten in ours:
                print(f"\n{ten} : {first}: p50 {_ratio(ours[ten], ours[first], 'p50')} times", end="")
                print(
                    f" ({1e3 * _median(ours[first], 'p50'):.1f} ms alone), processor time {_ratio(ours[first], ours[ten], 'per_cpu_second')} times"
                )


def _ratio(runs: list[dict[str, float]], others: list[dict[str, float]], name: str) -> str:
    ratios = [a[name] / b[name] for a, b in zip(runs, others)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in runs)


if __name__ == "__main__":
    main()
