"""Reports made from random scores, for the tests of the report and its page: every shape a user can have."""

from dataclasses import asdict
from functools import cache

import numpy as np

from trunkline.evaluation.calibration import fit_temperature, probabilities, reliability
from trunkline.evaluation.interval import bootstrap, paired
from trunkline.evaluation.metrics import METRICS, check, compute, confusion, per_class
from trunkline.evaluation.report import Report, confident_errors

TOPICS = (
    *("card_arrival", "card_lost", "pin_blocked", "refund_missing", "transfer_pending", "top_up_failed", "exchange_rate", "atm_support"),
    *("verify_identity", "lost_phone", "direct_debit", "cash_withdrawal", "extra_charge", "age_limit", "change_pin", "country_support"),
)
MESSAGES = (
    "Where is my card? It has been two weeks and nothing came",
    "I was charged twice for the same coffee, please give one back",
    "my phone is gone and so is the app",
    "The machine kept my card!!",
    "Why does the rate differ from the one I saw yesterday",
)
CHINESE_LABELS = ("物流", "退款", "质量", "客服态度", "发票", "账户")
CHINESE_MESSAGES = ("快递三天了还没到，查不到物流信息", "钱什么时候退给我", "用了两天就坏了，太差了", "客服一直不回消息，态度也不好")


def classified(labels, messages, *, rows=600, sure=2.6, multi=False, seed=0):
    """A report as `evaluate` makes it, for labels that are right about nine times in ten."""
    generator, count = np.random.default_rng(seed), len(labels)
    hidden = (generator.random((rows, count)) < 0.2).astype(int) if multi else np.eye(count)[generator.integers(0, count, rows)]
    truth = hidden if multi else hidden.argmax(axis=1)
    near = np.roll(np.eye(count), 1, axis=1) * 1.6 + np.eye(count) * sure
    logits = {
        name: 2.0 * (hidden @ near * strength + generator.normal(0, 0.72, (rows, count))) - 2.2 * multi
        for name, strength in STRENGTHS.items()
    }
    temperature = fit_temperature(logits["tuned"], truth)
    scores = {name: probabilities(each, temperature=temperature, multi=multi) for name, each in logits.items()}
    scores["majority"] = np.repeat(hidden.mean(axis=0, keepdims=True), rows, axis=0)
    plain = probabilities(logits["tuned"], multi=multi)
    texts = [{"text": f"{messages[at % len(messages)]} ({at})"} for at in range(rows)]
    rest = {} if multi else {"confusion": {"labels": labels, "matrix": confusion(truth, scores["tuned"])}}
    return Report(
        "classify",
        **about("trunkline tune messages.csv --task classify --text text --label intent --model minilm --seeds 3 --out runs/messages"),
        data=described({label: int(n) for label, n in zip(labels, hidden.sum(axis=0))}, rows),
        **compared(truth, scores, "accuracy"),
        per_class=per_class(truth, scores["tuned"], labels),
        calibration={
            "temperature": temperature,
            "ece_before": compute(["ece"], truth, plain)["ece"],
            "ece_after": compute(["ece"], truth, scores["tuned"])["ece"],
            "bins": reliability(truth, scores["tuned"]),
            "bins_before": reliability(truth, plain),
        },
        errors=confident_errors(texts, truth, scores["tuned"], labels, count=12),
        history=runs(generator, "accuracy"),
        **rest,
    )


STRENGTHS = {"tfidf": 0.78, "untuned": 0.86, "tuned": 1.0}


def regressed():
    generator = np.random.default_rng(0)
    truth = np.round(generator.uniform(0, 5, 700), 1)
    scores = {name: truth + generator.normal(0, noise, 700) for name, noise in (("tfidf", 1.4), ("untuned", 0.9), ("tuned", 0.6))}
    scores = {"mean": np.full(700, truth.mean()), **scores}
    texts = [{"text": MESSAGES[at % 5], "text_b": MESSAGES[(at + 1) % 5]} for at in range(700)]
    return Report(
        "regress",
        **about("trunkline tune pairs.tsv --task regress --model minilm --out runs/pairs"),
        data=described({}, 700),
        **compared(truth, scores, "pearson"),
        scatter={"truth": truth, "predicted": scores["tuned"]},
        errors=confident_errors(texts, truth, scores["tuned"], count=8),
        history=runs(generator, "pearson"),
    )


def compared(truth, scores, metric):
    kind = check(truth, scores["tuned"])[2]
    names = [name for name, one in METRICS.items() if kind in one.kinds and not name.startswith("micro_") and name != "exact_match"]
    seconds = {"majority": 0.001, "mean": 0.001, "tfidf": 8.1, "untuned": 1.4, "tuned": 64.2}
    results = []
    for name, each in scores.items():
        found = {m: asdict(i) for m, i in bootstrap(names, truth, each, resamples=200).items()}
        repeated = {metric: [found[metric]["value"] + d for d in (0, 0.004, -0.003)]} if name == "tuned" else None
        results.append({"name": name, "metrics": found, "seconds": seconds[name], "seeds": repeated})
    results.sort(key=lambda result: list(seconds).index(result["name"]))
    pairs = [("untuned", "tuned"), ("tfidf", "tuned")]
    return {
        "results": results,
        "comparisons": [{"before": a, "after": b, **asdict(paired(metric, truth, scores[a], scores[b], resamples=200))} for a, b in pairs],
    }


def about(command):
    return {
        "created": "2026-11-22 14:30",
        "command": command,
        "model": {
            "name": "minilm",
            "id": "3f" * 32,
            "layers": 6,
            "depth": 2,
            "method": "lora",
            "trained": 184_909,
            "total": 22_713_216,
            "dtype": "float16",
        },
        "settings": {
            "learning_rate": 0.0005,
            "epochs": 12,
            "batch_size": 32,
            "warmup": 0.1,
            "schedule": "linear",
            "patience": 3,
            "seed": 0,
        },
        "cost": {
            "seconds": {"read": 0.4, "encode": 38.2, "tune": 64.2, "evaluate": 3.1, "baselines": 9.5},
            "tokens_per_second": 8123.4,
            "peak_memory_bytes": 1_310_000_000,
            "cache_bytes": 151_000_000,
        },
        "versions": {"trunkline": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
        "machine": {"device": "CPU, 2 cores", "system": "Linux"},
        "seeds": [0, 1, 2],
        "next": [
            'trunkline predict runs/messages "It stopped working after two days"',
            "trunkline evaluate runs/messages held_out.csv --json",
        ],
    }


def described(labels, rows):
    return {
        "source": "messages.csv",
        "rows": {"train": 4 * rows, "validation": rows // 2, "test": rows},
        "labels": labels,
        "fingerprint": "9c" * 32,
        "notes": ["column `text` read as the text, `intent` as the label", "3 exact duplicates were dropped"],
        "findings": ["2 texts carry two different labels"],
    }


def runs(generator, metric):
    return [
        [
            {"step": 60 * e, "epoch": e, "seconds": 5.0 * e, "train_loss": 3 * 0.7**e + 0.1 + 0.05 * generator.random(),
             "metrics": {metric: 0.94 - 0.5 * 0.6**e + 0.01 * generator.random()}}
            for e in range(1, 13)
        ]
        for _ in range(3)
    ]  # fmt: skip


SAMPLES = {
    "two": cache(lambda: classified(["complaint", "praise"], MESSAGES, sure=2.1)),
    "many": cache(lambda: classified([f"{topic}_{n}" for n in range(5) for topic in TOPICS][:77], MESSAGES, rows=3080, sure=3.4)),
    "multi": cache(lambda: classified(TOPICS[:8], MESSAGES, multi=True)),
    "regress": cache(regressed),
    "chinese": cache(lambda: classified(CHINESE_LABELS, CHINESE_MESSAGES)),
    "bare": cache(lambda: Report("classify")),
}
