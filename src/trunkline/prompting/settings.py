"""Everything that `prompt` can be told beside rows, model, template and demonstrations, each with its default.

Light on purpose: `trunkline prompt --help` reads it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trunkline.choices import between, duration, one_of

TASKS = ("classify", "tag")
PICKS = ("fixed", "random", "nearest", "diverse")
CALIBRATIONS = ("none", "contextual", "pmi")
WAYS = ("auto", "likelihood", "similarity", "cloze")
SCORES = ("auto", "mean", "sum")
REUSE = ("prefix", "row", "none")
MOST_SHOTS = 64


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PromptSettings:
    """How to prompt. The shares and the seed are those of `tune`, so that both measure on the same rows."""

    by: str = _say("auto", f"how labels are scored: one of {', '.join(WAYS)}; auto: likelihood where the model writes, else similarity")
    score: str = _say(
        "auto", f"log-probability of a label of several tokens: one of {', '.join(SCORES)}; auto: the sum with pmi, else the mean"
    )
    balance: bool | None = _say(None, "as many demonstrations of each label; none: yes for fixed and random")
    neighbours: str | None = _say(None, "model whose states find the nearest texts; none: the model itself, minilm for a server")
    max_tokens: int = _say(2048, "longest prompt; never more than the model holds")
    reuse: str = _say("prefix", f"what of a prompt is computed once: one of {', '.join(REUSE)}; the results are the same")
    seed: int = _say(0, "of the split and of random demonstrations")
    validation: float = _say(0.1, "share of rows to choose by")
    test: float = _say(0.2, "share of rows to measure on")
    split: str = _say("label", "how rows are divided: one of label, group, time, given")
    test_rows: int | None = _say(None, "measure on so many of the test rows, drawn by the seed; none: on all")
    baseline_rows: int = _say(2000, "the baselines learn from at most so many training rows, drawn by the seed; 0: no baselines")
    budget: str = _say("5m", "time to choose among several prompts on validation rows, as 90s, 5m or 1h")
    device: str = _say("auto", "cpu, cuda, mps, or auto")
    threads: int = _say(0, "processor threads; 0: one for each physical core")
    server: str | None = _say(None, "address of an OpenAI-compatible server, as http://localhost:8000/v1; --model is then its name there")
    key_from: str = _say("TRUNKLINE_API_KEY", "environment variable that holds the server's key")
    per_minute: float = _say(600.0, "most requests to the server in a minute")
    parallel: int = _say(4, "requests to the server at a time")
    retries: int = _say(5, "how often a request that failed for a while is sent again")
    timeout: float = _say(60.0, "seconds to wait for the server")
    fresh: bool = _say(False, "ask the server again although its answer is on disk; else the same is asked only once")
    price_in: float | None = _say(None, "what a million tokens read costs, to show the cost")
    price_out: float | None = _say(None, "what a million tokens written costs")

    def __post_init__(self) -> None:
        for name, allowed in (("by", WAYS), ("score", SCORES), ("reuse", REUSE)):
            one_of(name, getattr(self, name), allowed)
        duration("budget", self.budget)
        for name, low, high in (("max_tokens", 16, 131072), ("seed", 0, 2**31), ("validation", 0.0, 0.5), ("test", 0.01, 1.0),
                                ("test_rows", 1, 10**9), ("baseline_rows", 0, 50_000), ("threads", 0, 1024), ("per_minute", 0.1, 1e6),
                                ("parallel", 1, 64), ("retries", 0, 20), ("timeout", 0.1, 3600), ("price_in", 0, 1e6),
                                ("price_out", 0, 1e6)):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                between(name, value, low, high)
