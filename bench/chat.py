"""A chat served to several clients at once, against `transformers` generate in a loop: tokens a second at equal answers, in one run.

    python bench/chat.py                                  # smollm2, 8 streams of 48 tokens, three rounds; some minutes
    python bench/chat.py --streams 4 --rounds 1

Served: `trunkline`'s server on loopback, one branch (LoRA, depth 2, as it is before training, so that it says what the model says), and as many
threads of OpenAI's Python client, each reading a stream. Loop: `generate` of `transformers` for one prompt after the other, the same weights,
template, threads, length, greedy. The two take turns. Other work on the machine changes seconds of the clock, and much less those of the
processor; the latter count clients and server together. Answers that are not the same to the
last character end the run: on a machine that is so slow that the server's 60 seconds cut an answer off, ask for fewer tokens. "first": seconds
to the first piece of an answer when all clients ask at once. "again": seconds to the first piece of a dialogue whose long beginning was read before,
and of one whose was not.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import openai
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import load_backbone
from trunkline.serving.serve import serving
from trunkline.serving.settings import ServeSettings

QUESTIONS = [
    "Where is my order?",
    "How do I return a pair of shoes that are too small?",
    "Write a short story about a lighthouse.",
    "What is the capital of France, and what is it known for?",
    "Explain how a bicycle stays upright.",
    "My card was charged twice. What should I do now?",
    "List three things to see in Norway.",
    "Why is the sky blue in the day and red in the evening?",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a decoder  [default: smollm2]")
    parser.add_argument("--streams", type=int, default=8, help="clients at once  [default: 8]")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each answer, at most  [default: 48]")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed  [default: 3]")
    told = parser.parse_args()
    backbone = load_backbone(told.model)
    spec = names.task("generate").TaskSpec(form="chat", max_new_tokens=told.tokens)
    branch = Branch.new(backbone, spec, "lora", names.method("lora").Config(), 2)
    questions = [QUESTIONS[at % len(QUESTIONS)] + ("" if at < len(QUESTIONS) else f" ({at})") for at in range(told.streams)]
    plain = Plain(backbone.folder, told.tokens)
    rounds: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving([branch.save(Path(folder) / "chat")], ServeSettings(port=0)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client,
    ):
        read(client, [{"role": "user", "content": "Hi"}], max_tokens=2)  # warm
        for _ in range(told.rounds):
            rounds.append(one_round(client, plain, questions))
            print(json.dumps(rounds[-1]), file=sys.stderr)
        again = beginnings(client)
    found: dict[str, Any] = {"model": told.model, "streams": told.streams, "threads": torch.get_num_threads()}
    found |= {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    by = [one["times by processor"] for one in rounds]
    found |= {"lowest by processor": min(by), "highest by processor": max(by), **again}
    print("\n".join(f"{name:>32}: {value}" for name, value in found.items()))
    out = Path(__file__).parent / "out" / "chat.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"told": vars(told), **found, "rounds": rounds}, indent=2) + "\n", encoding="utf-8")
    return 0


class Plain:
    """The library alone."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.words, self.tokens = AutoTokenizer.from_pretrained(folder), tokens

    def __call__(self, question: str) -> tuple[str, int]:
        """An answer, and how many tokens it has, its end included."""
        chat = [{"role": "user", "content": question}]
        ids = self.words.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            made = self.model.generate(**ids, max_new_tokens=self.tokens, do_sample=False)[0, ids["input_ids"].shape[1] :]
        return self.words.decode(made, skip_special_tokens=True), len(made)


def one_round(client: openai.OpenAI, plain: Plain, questions: list[str]) -> dict[str, float]:
    began = clocks()
    looped = [plain(question) for question in questions]
    loop = clocks() - began
    answers, firsts = [""] * len(questions), [0.0] * len(questions)
    began = clocks()

    def ask(at: int) -> None:
        answers[at], firsts[at] = read(client, [{"role": "user", "content": questions[at]}])

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(questions))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    served = clocks() - began
    if answers != [text for text, _ in looped]:
        raise SystemExit(f"the answers differ, so their times mean nothing: {answers} and {looped}")
    tokens = sum(count for _, count in looped)
    return {
        "tokens": tokens,
        "loop tokens a second": round(tokens / loop[0], 2),
        "served tokens a second": round(tokens / served[0], 2),
        "times": round(loop[0] / served[0], 2),
        "loop tokens a processor second": round(tokens / loop[1], 2),
        "served tokens a processor second": round(tokens / served[1], 2),
        "times by processor": round(loop[1] / served[1], 2),
        "first": round(statistics.median(firsts), 3),
    }


def clocks() -> np.ndarray:
    """Seconds of the clock, and of the processor: all threads of this process, and so clients and server too."""
    return np.array([time.perf_counter(), time.process_time()])


def read(client: openai.OpenAI, messages: list[dict[str, str]], **told: Any) -> tuple[str, float]:
    """The whole of a stream, and the seconds to its first piece."""
    began, first, text = time.perf_counter(), 0.0, ""
    for chunk in client.chat.completions.create(model="chat", messages=messages, stream=True, **told):  # type: ignore[call-overload]
        piece = chunk.choices[0].delta.content or ""
        first = first or (time.perf_counter() - began if piece else 0.0)
        text += piece
    return text, first


def beginnings(client: openai.OpenAI) -> dict[str, float]:
    """Seconds to the first piece behind a beginning of some hundred tokens, new and known."""
    new, known = [], []
    for number in range(2):
        rules = f"You are helper number {number} of a shop. " + "Be short, be friendly, and never promise what you cannot keep. " * 10
        asked = [[{"role": "system", "content": rules}, {"role": "user", "content": question}] for question in QUESTIONS[:2]]
        new.append(read(client, asked[0], max_tokens=2)[1])
        known.append(read(client, asked[1], max_tokens=2)[1])
    return {"first, new beginning": round(statistics.median(new), 3), "first, known beginning": round(statistics.median(known), 3)}


if __name__ == "__main__":
    sys.exit(main())
