"""PPO on a real model, and its speed and memory beside a plain PPO of four whole models.

    python bench/ppo.py sentiment --data FOLDER      # smollm2 goes on from openings of film reviews, for the reward of our own SST-2 branch
    python bench/ppo.py summaries --data FOLDER      # t5-small sums up dialogues, for ROUGE-L and a length
    python bench/ppo.py speed --peer PYTHON          # generation, scoring, update and memory: ours, four whole models, TRL (see bench/peers)

sentiment: FOLDER holds sst2/train.tsv and dev.tsv (text, tab, 0 or 1). A classifier branch is tuned on smollm2's trunk (the reward), another on
minilm (a second judge, which is only asked before and after). The policy is a LoRA branch at the same cut as the reward, so that one trunk pass,
made while writing, serves all. Before and after are measured on the same openings of reviews that nothing was trained on.

summaries: FOLDER holds dialogsum/normalised/*.jsonl. A seq2seq branch is tuned on --rows short dialogues (LoRA, the decoder's upper layers); from it the
policy learns on others, whose references the reward sees: 10 times ROUGE-L's F against the reference, less how far the answer is from --target words, as a
share of it. Measured on dialogues of the test file, answers drawn as in learning, and the likeliest ones ("greedy").

speed: beside a plain PPO that is written here, and where --peer is given TRL's PPOTrainer of its last version that had one (1.12). Both hold policy,
reference, value and reward as four whole models (float32), which score the whole sequences from token ids; LoRA of the same rank on the same top layers of
policy and value is trained, and the value's head; all epochs run both models whole. Same answers a step, same number of tokens (no end ends an
answer), same minibatches. Each runs in a process of its own, in turned order over --rounds; memory is its peak. Seconds are the processor's, so that
other work on the machine does not count. The model is smollm2, its prompts are drawn tokens: what they say changes no time.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, GenerationConfig

from trunkline import branch as branches
from trunkline import names
from trunkline.alignment import grpo, ppo, rloo
from trunkline.alignment.estimators import gae, policy_loss, token_rewards, value_loss, whiten
from trunkline.alignment.online import Loop, learn
from trunkline.alignment.rewards import Part, judge, parts_of
from trunkline.alignment.roles import fresh, token_log_probabilities
from trunkline.alignment.rollout import Drawing, roll_out
from trunkline.branch import Branch
from trunkline.model import sources
from trunkline.model.backbone import load_backbone
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Row, Rows

OUT = Path("bench/out/ppo")
LABELS = ("negative", "positive")
GOALS = {"ppo": ppo, "rloo": rloo, "grpo": grpo}
_SHORT = 500
"""Characters of a dialogue that is taken: about 160 tokens, so that nothing is cut off."""


def main() -> int:
    asked = _asked()
    torch.set_num_threads(asked.threads)
    OUT.mkdir(parents=True, exist_ok=True)
    found = {"sentiment": sentiment, "summaries": summaries, "speed": speed, "one": one}[asked.what](asked)
    if asked.what != "one":
        (OUT / f"{asked.what}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sentiment", "summaries", "speed", "one"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1000, help="that the classifiers are tuned on")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--new", type=int, default=12, help="tokens of an answer")
    parser.add_argument("--words", type=int, default=4, help="of an opening")
    parser.add_argument("--measured", type=int, default=100, help="openings that before and after are measured on")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--kl", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", choices=GOALS, default="ppo", help="used by summaries")
    parser.add_argument("--target", type=int, default=15, help="words of a summary")
    parser.add_argument("--group", type=int, default=4, help="answers to a dialogue")
    parser.add_argument("--who", choices=("ours", "plain"), default="ours", help="used by speed")
    parser.add_argument("--peer", help="a Python with trl==1.12.0, in speed")
    parser.add_argument("--rounds", type=int, default=1, help="of speed")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt, in speed")
    return parser.parse_args()


def sentiment(asked: argparse.Namespace) -> dict[str, Any]:
    train, dev = (_read(asked.data / "sst2" / f"{name}.tsv") for name in ("train", "dev"))
    started = time.process_time()
    reward = _judge(train[: asked.rows], "smollm2", "lora", asked.depth, OUT / "reward")
    second = _judge(train[: asked.rows], "minilm", "probe", 0, OUT / "second")
    tuned = time.process_time() - started
    openings = Rows(tuple(_opening(row, asked.words) for row in train[asked.rows :]), "generate")
    start = fresh(reward.backbone, openings, "lora", asked.depth, "float32")
    config = ppo.Config(
        steps=asked.steps, answers=asked.answers, minibatch=12, epochs=asked.epochs, max_new_tokens=asked.new, kl=asked.kl,
        learning_rate=asked.rate, seed=asked.seed, hacking="note",
    )  # fmt: skip
    part = Part(reward, label="positive")
    started, wall = time.process_time(), time.perf_counter()
    learned = learn(start, list(openings), part, ppo.GOAL, config, on_step=lambda entry: print(_line(entry), flush=True))
    seconds = {"tune the two judges": tuned, "ppo": time.process_time() - started, "ppo on the wall": time.perf_counter() - wall}
    measured = [_opening(row, asked.words) for row in dev[: asked.measured]]
    parts = {"reward": part, "second": Part(second, label="positive")}
    before, after = (_measured(policy, start, parts, measured, asked.new) for policy in (start, learned.policy))
    found = {
        "told": {k: str(v) for k, v in vars(asked).items()}, "seconds": seconds, "stopped": learned.stopped,
        "accuracy": {name: _accuracy(judge_, dev) for name, judge_ in (("reward", reward), ("second", second))},
        "before": before, "after": after, "history": learned.history,
    }  # fmt: skip
    learned.policy.save(OUT / "policy")
    print(_table(found))
    return found


def _read(path: Path) -> list[Row]:
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return [{"text": text, "label": LABELS[int(label)]} for text, label in lines]


def _opening(row: Row, words: int) -> Row:
    return {"text": " ".join(row["text"].split()[:words])}


def _judge(rows: list[Row], model: str, method: str, depth: int, folder: Path) -> Branch:
    if folder.is_dir():
        return branches.load(folder)
    settings = Settings(threads=torch.get_num_threads(), epochs=1, validation=0.1, test=0.1)
    return tune(Rows(tuple(rows), "classify"), model, method=method, depth=depth, settings=settings, out=folder)


def _accuracy(branch: Branch, rows: list[Row], most: int = 150) -> float:
    answers = branch.predict([row["text"] for row in rows[:most]])
    return float(np.mean([answer.value == row["label"] for answer, row in zip(answers, rows)]))


def _measured(policy: Branch, start: Branch, parts: dict[str, Part], rows: list[Row], new: int) -> dict[str, Any]:
    """On the same openings: rewards, KL, how likely the untouched model finds the answers, what is said."""
    rollouts = roll_out(policy, rows, Drawing(new), seed=7)
    told = judge(parts_of(parts, policy), rollouts, policy).parts
    ours = np.array([one.sum() for one in token_log_probabilities(policy, list(rollouts.items), rollouts.source)])
    theirs = np.array([one.sum() for one in token_log_probabilities(start, list(rollouts.items), rollouts.source)])
    tokens = sum(map(len, rollouts.ids))
    return {
        **{name: values.tolist() for name, values in told.items()},
        "kl": float((ours - theirs).mean()), "perplexity": math.exp(-theirs.sum() / tokens), "tokens": tokens / len(rows),
        "samples": [[row["text"], text, float(value)] for row, text, value in zip(rows[:12], rollouts.texts, told["reward"])],
    }  # fmt: skip


def _line(entry: dict[str, Any]) -> str:
    seconds = " ".join(f"{name} {value:.0f}s" for name, value in entry["seconds"].items())
    return (
        f"step {entry['step']:3d}  reward {entry['reward']:+.2f}  kl {entry['kl']:.2f}  entropy {entry['entropy']:.2f}  "
        f"clip {entry.get('clip_fraction', 0):.2f}  value {entry.get('explained_variance', 0):+.2f}  distinct {entry['distinct']:.2f}  {seconds}"
    )


def summaries(asked: argparse.Namespace) -> dict[str, Any]:
    train, test = (_dialogues(asked.data / "dialogsum/normalised" / f"{name}.jsonl") for name in ("train", "test"))
    started, folder = time.process_time(), OUT / "summaries"
    if folder.is_dir():
        start = branches.load(folder)
    else:
        settings = Settings(threads=asked.threads, epochs=2, validation=0.05, test=0.05, states="float32", batch_size=16,
                            task_options=rf"prefix=summarize\: :max_new_tokens={asked.new}")  # fmt: skip
        start = tune(
            Rows(tuple(train[: asked.rows]), "seq2seq"), "t5-small", method="lora", depth=asked.depth, settings=settings, out=folder
        )
    tuned, rouge, length = time.process_time() - started, _rouge(), _length(asked.target)
    goal = GOALS[asked.goal]
    epochs = {"epochs": 1} if asked.goal == "rloo" else {"epochs": asked.epochs}
    config = goal.Config(
        steps=asked.steps, answers=asked.answers, group=asked.group, minibatch=12, max_new_tokens=asked.new, kl=asked.kl, learning_rate=asked.rate,
        seed=asked.seed, hacking="note", **epochs,
    )  # fmt: skip
    parts = {"rouge": Part(rouge, weight=10.0), "length": Part(length)}
    started, wall = time.process_time(), time.perf_counter()
    learned = learn(start, train[asked.rows :], parts, goal.GOAL, config, on_step=lambda entry: print(_line(entry), flush=True))
    seconds = {"tune the start": tuned, asked.goal: time.process_time() - started, f"{asked.goal} on the wall": time.perf_counter() - wall}
    judges = {"reward": Part(lambda rows, said: [10 * one + other for one, other in zip(rouge(rows, said), length(rows, said))]),
              "rouge": Part(rouge), "length": Part(length)}  # fmt: skip
    found: dict[str, Any] = {"told": {k: str(v) for k, v in vars(asked).items()}, "seconds": seconds, "stopped": learned.stopped}
    for name, policy in (("before", start), ("after", learned.policy)):
        rows = test[: asked.measured]
        drawn, likeliest = _measured(policy, start, judges, rows, asked.new), [answer.value for answer in policy.predict(rows)]
        words = [len(text.split()) for text in likeliest]
        found[name] = drawn | {"greedy rouge": list(rouge(rows, likeliest)), "greedy length": list(length(rows, likeliest)), "greedy words": words,
                               "greedy": [[row["text"], row["label"][0], text] for row, text in zip(rows[:8], likeliest)]}  # fmt: skip
    found["history"] = learned.history
    print(_compared(found, ("reward", "rouge", "length", "greedy rouge", "greedy length", "greedy words")))
    for (text, label, one), (_, _, other) in zip(found["before"]["greedy"], found["after"]["greedy"]):
        print(f"\n{text}\n  reference: {label}\n  before:    {one}\n  after:     {other}")
    return found


def _dialogues(path: Path) -> list[Row]:
    """Short dialogues with their summaries, one in training, three in the test file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"text": row["dialogue"], "label": [row[name] for name in ("summary", "summary1", "summary2", "summary3") if name in row]}
            for row in rows if len(row["dialogue"]) <= _SHORT]  # fmt: skip


def _rouge() -> Any:
    """A reward: ROUGE-L's F against the nearest reference, 0 to 1."""
    from rouge_score import rouge_scorer  # brings some 30 MB along, and `speed` measures memory

    scorer = rouge_scorer.RougeScorer(["rougeL"])
    return lambda rows, said: [
        max(scorer.score(right, text)["rougeL"].fmeasure for right in row["label"]) for row, text in zip(rows, said, strict=True)
    ]


def _length(target: int) -> Any:
    """A reward: 0 at so many words, -1 where there are none or twice as many."""
    return lambda rows, said: [-abs(len(text.split()) - target) / target for text in said]


def _compared(found: dict[str, Any], names: Sequence[str]) -> str:
    before, after = found["before"], found["after"]
    lines = ["| | before | after | difference |", "|---|--:|--:|--:|"]
    for name in names:
        apart = np.array(after[name]) - np.array(before[name])
        lines.append(f"| {name} | {_interval(before[name])} | {_interval(after[name])} | {_interval(apart)} |")
    lines += [f"| {name} | {before[name]:.2f} | {after[name]:.2f} | |" for name in ("kl", "perplexity", "tokens")]
    return "\n".join(lines) + "\n\n" + ", ".join(f"{name}: {value / 60:.1f} min" for name, value in found["seconds"].items())


def _interval(values: Any) -> str:
    drawn = np.random.default_rng(0).choice(np.asarray(values), (2000, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{np.mean(values):+.3f} ({low:+.3f} to {high:+.3f})"


def _table(found: dict[str, Any]) -> str:
    before, after = found["before"], found["after"]
    lines = ["| | before | after | difference |", "|---|--:|--:|--:|"]
    for name, title in (
        ("reward", "reward (log-odds of positive, the branch on smollm2)"),
        ("second", "second judge (log-odds, minilm; not trained on)"),
    ):
        apart = np.array(after[name]) - np.array(before[name])
        lines.append(f"| {title} | {_interval(before[name])} | {_interval(after[name])} | {_interval(apart)} |")
        shares = [np.mean(np.array(one[name]) > 0) for one in (before, after)]
        lines.append(f"| share positive, {name} | {shares[0]:.0%} | {shares[1]:.0%} | |")
    lines += [f"| {name} | {before[key]:.2f} | {after[key]:.2f} | |" for name, key in
              (("KL, nats an answer", "kl"), ("perplexity under the untouched model", "perplexity"), ("tokens an answer", "tokens"))]  # fmt: skip
    lines.append(
        "\n" + ", ".join(f"{name}: {value / 60:.1f} min" for name, value in found["seconds"].items()) + f", accuracy {found['accuracy']}"
    )
    for one, other in zip(before["samples"], after["samples"]):
        lines.append(f"\n{one[0]} ...\n  before {one[2]:+.1f}: {one[1]!r}\n  after  {other[2]:+.1f}: {other[1]!r}")
    return "\n".join(lines)


def speed(asked: argparse.Namespace) -> dict[str, Any]:
    told = {
        "depth": asked.depth,
        "answers": asked.answers,
        "epochs": asked.epochs,
        "new": asked.new,
        "prompt": asked.prompt,
        "threads": asked.threads,
    }
    runs: dict[str, list[dict[str, float]]] = {who: [] for who in ("ours", "plain", *(["TRL 1.12"] if asked.peer else []))}
    for number in range(asked.rounds):
        for who in list(runs)[:: -1 if number % 2 else 1]:
            runs[who].append(_process(who, told, asked))
            print(f"round {number + 1}, {who}: {_figure(runs[who][-1], 'all'):.1f} s", file=sys.stderr, flush=True)
    others = [who for who in runs if who != "ours"]
    heads = [part for who in others for part in (who.replace("plain", "four whole models"), "ratio")]
    print(f"| | ours | {' | '.join(heads)} |\n|---|{'--:|' * (1 + len(heads))}")
    for name in ("generate", "score", "update", "score + update", "all", "memory"):
        unit, each = "MB" if name == "memory" else "s", {who: [_figure(one, name) for one in some] for who, some in runs.items()}
        cells = [f"{median(each['ours']):,.1f} {unit}"]
        for who in others:
            ratios = [there / here for here, there in zip(each["ours"], each[who])]
            cells += [f"{median(each[who]):,.1f} {unit}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        print(f"| {name} | {' | '.join(cells)} |")
    return {"told": told, **runs}


def _process(who: str, told: dict[str, int], asked: argparse.Namespace) -> dict[str, float]:
    """What one contender's process prints."""
    if who in ("ours", "plain"):
        command = [sys.executable, __file__, "one", "--who", who, *(f"--{name}={value}" for name, value in told.items())]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    folder = _model_of_this_form()
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    job = {
        **told,
        "layers": told["depth"],
        "minibatch": min(16, told["answers"]),
        "model": str(folder),
        "prompts": _prompts(asked, size).tolist(),
    }
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [asked.peer, str(Path(__file__).parent / "peers/with_trl_ppo.py"), f"{temporary}/job.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{asked.peer}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.rpartition("RESULT ")[2])


def _figure(one: dict[str, float], name: str) -> float:
    parts = {"score + update": ("score", "update"), "all": ("generate", "score", "update")}.get(name, (name,))
    return sum(one[part] for part in parts)


def one(asked: argparse.Namespace) -> dict[str, Any]:
    """One contender, one step, from a model just loaded."""
    folder = _model_of_this_form()
    run = (_ours if asked.who == "ours" else _plain)(folder, asked)
    seconds = run()
    print(json.dumps(seconds | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    return {}


def _model_of_this_form() -> Path:
    """smollm2's folder: its weights do not matter here, only its form. Not loaded, so that no memory is counted twice."""
    return sources.locate("smollm2")


def _prompts(asked: argparse.Namespace, vocabulary: int) -> torch.Tensor:
    return torch.randint(100, vocabulary - 100, (asked.answers, asked.prompt), generator=torch.Generator().manual_seed(0))


def _ours(folder: Path, asked: argparse.Namespace) -> Any:
    """A step of our loop, with a reward branch at the policy's cut."""
    backbone = load_backbone(folder)
    backbone.ends = ()  # every answer has its full length, as for the other
    start = fresh(backbone, Rows(({"text": "a", "label": "b"},), "generate"), "lora", asked.depth, "float32")
    spec = names.task("classify").TaskSpec(labels=LABELS, pooling="last")
    reward = Branch.new(backbone, spec, "lora", names.method("lora").Config(), asked.depth, "float32")
    config = ppo.Config(
        steps=10**5, answers=asked.answers, minibatch=16, epochs=asked.epochs, max_new_tokens=asked.new, hacking="off", learning_rate=1e-5
    )
    rows = [{"text": backbone.tokenizer.text(row.tolist())} for row in _prompts(asked, backbone.config.vocab_size)]
    loop = Loop(start, rows, reward, ppo.GOAL, config, None, None)

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        rollouts = _clocked(seconds, "generate", loop.draw)
        found = _clocked(seconds, "score", lambda: loop.score(rollouts))
        _clocked(seconds, "update", lambda: loop.update(found))
        return seconds | {"tokens": float(sum(len(item.tokens[0]) for item in rollouts.items))}

    return run


def _plain(folder: Path, asked: argparse.Namespace) -> Any:
    """A step of PPO with four whole models. Log-probabilities are made from the answer's logits alone, as in ours."""
    policy, reference, value, reward = (
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval() for _ in range(4)
    )
    for model in (reference, value, reward, policy):
        model.requires_grad_(False)
    layers = list(range(policy.config.num_hidden_layers - asked.depth, policy.config.num_hidden_layers))
    names_of = [f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=names_of, layers_to_transform=layers)
    policy, value = (inject_adapter_in_model(lora, model) for model in (policy, value))
    heads = [torch.nn.Linear(policy.config.hidden_size, 1) for _ in range(2)]
    learned = [p for model in (policy, value) for p in model.parameters() if p.requires_grad] + list(heads[0].parameters())
    optimizer = torch.optim.AdamW(learned, lr=1e-5, fused=True)
    prompts = _prompts(asked, policy.config.vocab_size)

    def logs(model: Any, ids: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids).last_hidden_state[:, asked.prompt - 1 : -1]
        return torch.log_softmax(model.lm_head(hidden), -1).gather(2, ids[:, asked.prompt :, None])[..., 0]

    def values(ids: torch.Tensor) -> torch.Tensor:
        return heads[0](value.model(input_ids=ids).last_hidden_state[:, asked.prompt - 1 : -1])[..., 0]

    def in_parts(function: Any, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([function(part) for part in ids.split(32)])

    def draw() -> torch.Tensor:
        settings = GenerationConfig(max_new_tokens=asked.new, do_sample=True, top_k=0, eos_token_id=None, pad_token_id=0)
        return policy.generate(input_ids=prompts, generation_config=settings)

    @torch.no_grad()
    def score(ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        old, theirs, was = (in_parts(f, ids) for f in (lambda x: logs(policy, x), lambda x: logs(reference, x), values))
        judged = in_parts(lambda x: heads[1](reward.model(input_ids=x).last_hidden_state[:, -1])[:, 0], ids)
        mask = torch.ones_like(old, dtype=torch.bool)
        advantages, returns = gae(token_rewards(judged, old - theirs, mask, 0.05), was, mask)
        return old, was, whiten(advantages, mask), returns

    def update(ids: torch.Tensor, told: tuple[torch.Tensor, ...]) -> None:
        for _ in range(asked.epochs):
            for part in torch.randperm(len(ids)).split(16):
                old, was, advantages, returns = (one[part] for one in told)
                mask = torch.ones_like(old, dtype=torch.bool)
                loss = policy_loss(logs(policy, ids[part]), old, advantages, mask, 0.2).loss
                loss = loss + value_loss(values(ids[part]), was, returns, mask, 0.2)[0]
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learned, 1.0)
                optimizer.step()

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        ids = _clocked(seconds, "generate", draw)
        told = _clocked(seconds, "score", lambda: score(ids))
        _clocked(seconds, "update", lambda: update(ids, told))
        return seconds | {"tokens": float(ids.numel())}

    return run


def _clocked(seconds: dict[str, float], name: str, work: Any) -> Any:
    started = time.process_time()
    found = work()
    seconds[name] = time.process_time() - started
    return found


if __name__ == "__main__":
    raise SystemExit(main())
