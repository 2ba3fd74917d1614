"""A reward branch on the pairs of hh-rlhf (harmless, the published test file): held-out pair accuracy beside lengths and untuned states.

python bench/align_reward.py --data DATA                       minilm; about ten minutes of one core, most of it `encode`
python bench/align_reward.py --data DATA --members 3           and an ensemble: its accuracy, and by how much members disagree where it errs
python bench/align_reward.py --data DATA --words               half a minute: no model, a linear one on words and on lengths, all pairs in five folds
python bench/align_reward.py --data DATA --folds 5             a branch for each of five folds by dialogue, so that every pair is held out once

Pairs are split by dialogue: 25% are measured on. Printed: the report's table, calibration, and what swapping the answers of a pair does. With --folds:
the share of all pairs that is told, with its interval, beside lengths; --model, --depth, --method, --rate and --pooling may be several, joined by commas
and one for each of several branches, whose margins are then also added (each divided by its deviation).
"""

import argparse
import gzip
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold

from trunkline.alignment.ensemble import tune_ensemble
from trunkline.data.read import read
from trunkline.data.split import Split, split
from trunkline.train.settings import Settings
from trunkline.train.tune import tune
from trunkline.types import Rows

OUT = Path(__file__).parent / "out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TRUNKLINE_DATA", "../shared/data")))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--method", default="full")
    parser.add_argument("--depth", default="2")
    parser.add_argument("--rate", default="3e-4")
    parser.add_argument("--pooling", default="answer")
    parser.add_argument("--precision", default="float32", help="of the trunk")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--words", action="store_true", help="Bradley-Terry on differences of TF-IDF, and of lengths, instead of a branch")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        file.write_bytes(gzip.decompress((told.data / "hh_rlhf_harmless_test/test.jsonl.gz").read_bytes()))
        rows = read(file, "reward", skip_bad=Path(folder) / "bad.jsonl")
    if told.words:
        OUT.mkdir(exist_ok=True)
        (OUT / "align_reward_words.json").write_text(json.dumps(on_words(rows)))
        return
    if told.folds:
        OUT.mkdir(exist_ok=True)
        (OUT / "align_reward_folds.json").write_text(
            json.dumps({"told": {k: str(v) for k, v in vars(told).items()}, **in_folds(rows, told)})
        )
        return
    parts, settings, depth = split(rows, by="group", validation=0.1, test=0.25), _settings(told, told.rate, told.pooling), int(told.depth)
    began = time.process_time()
    found = {}
    if told.members > 1:
        ensemble = tune_ensemble(parts, told.model, members=told.members, method=told.method, depth=depth, settings=settings)
        branch = ensemble.members[0]
        mean, apart = ensemble.predict(list(parts.test))
        both, each = ensemble.accuracy(parts.test)
        found = {"ensemble": both, "members": each, "apart right": apart[mean > 0].mean(), "apart wrong": apart[mean <= 0].mean()}
        print(f"ensemble: {both:.3f} of the test pairs; members alone {', '.join(f'{one:.3f}' for one in each)}; deviation over members "
              f"{found['apart right']:.3f} where it is right, {found['apart wrong']:.3f} where not")  # fmt: skip
    else:
        branch = tune(parts, told.model, method=told.method, depth=depth, settings=settings)
    print(branch.report)
    turned = [{**row, "text_b": row["rejected"], "rejected": row["text_b"]} for row in parts.test[:100]]
    one, other = ([answer.scores for answer in branch.predict(some)] for some in (list(parts.test[:100]), turned))
    flips = float(np.mean(np.sign(one) == -np.sign(other)))
    calibration = branch.report.calibration
    print(f"\nswapping the answers turned the sign in {flips:.0%} of {len(one)} pairs; calibration error {calibration['ece_before']:.3f} as trained, "
          f"{calibration['ece_after']:.3f} with temperature {calibration['temperature']:.2f}; {time.process_time() - began:.0f} s of the processor")  # fmt: skip
    OUT.mkdir(exist_ok=True)
    results = {"told": {k: str(v) for k, v in vars(told).items()}, "results": branch.report.results, "flips": flips, **found}
    (OUT / "align_reward.json").write_text(json.dumps(results, indent=2, default=float))


def _settings(told: argparse.Namespace, rate: str, pooling: str) -> Settings:
    options = f"max_tokens={told.tokens}:center=0.01:pooling={pooling}"
    return Settings(
        task_options=options, epochs=told.epochs, learning_rate=float(rate), threads=1, device="cpu", trunk_precision=told.precision
    )


def in_folds(rows: Rows, told: argparse.Namespace) -> dict[str, list[float]]:
    """The margin of each pair from a branch that did not see its dialogue, for each of the contenders, and of all of them together."""
    given = [one.split(",") for one in (told.model, told.depth, told.method, told.rate, told.pooling)]
    count = max(map(len, given))
    contenders = list(zip(*(one * count if len(one) == 1 else one for one in given), strict=True))
    groups = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    found = {" ".join(one): np.zeros(len(rows)) for one in contenders}
    for number, (rest, test) in enumerate(GroupKFold(told.folds).split(groups, groups=groups)):
        held = np.isin(
            groups[rest], np.random.default_rng(number).permutation(np.unique(groups[rest]))[: len(np.unique(groups[rest])) // 10]
        )
        parts = Split(*(replace(rows, rows=tuple(rows[at] for at in some)) for some in (rest[~held], rest[held], test)))
        for one in contenders:
            model, depth, method, rate, pooling = one
            branch = tune(parts, model, method=method, depth=int(depth), settings=_settings(told, rate, pooling))
            found[" ".join(one)][test] = [answer.scores for answer in branch.predict(list(parts.test))]
            print(f"fold {number}, {' '.join(one)}: {np.mean(found[' '.join(one)][test] > 0):.1%}", flush=True)
    if count > 1:
        found["together"] = np.sum([margins / margins.std() for margins in found.values()], axis=0)
    for name, margins in found.items():
        print(f"{name}: {_share(margins)}", flush=True)
    return {name: margins.tolist() for name, margins in found.items()}


def _share(margins: np.ndarray) -> str:
    """Of how many pairs the better answer is told, with a 95% interval."""
    low, high = np.quantile(np.random.default_rng(0).choice(margins > 0, (2000, len(margins))).mean(1), [0.025, 0.975])
    return f"{np.mean(margins > 0):.1%} ({low:.1%} to {high:.1%}) of {len(margins):,} pairs"


def on_words(rows: Rows) -> dict[str, list[float]]:
    """By what is read: of each pair the preferred answer's score less the other's, from the fold in which the pair was held out; printed as accuracy.

    What a pair is known by is a difference, so the model has no intercept, and sees each pair both ways round. How much it shrinks is chosen within the training folds.
    """
    groups = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    found = {}
    for name, ngrams in (("lengths", 0), ("words", 1), ("words and pairs of words", 2)):
        scores = np.zeros(len(rows))
        for train, test in GroupKFold(5).split(groups, groups=groups):
            differences = _differences(rows, train, ngrams)
            both = sparse.vstack([differences[train], -differences[train]]).tocsr()
            search = GridSearchCV(LogisticRegression(fit_intercept=False, max_iter=300), {"C": [1e-3, 1e-2, 0.1, 1, 10]}, cv=GroupKFold(5))
            search.fit(both, np.repeat([1, 0], len(train)), groups=np.tile(groups[train], 2))
            scores[test] = search.decision_function(differences[test])
        print(f"{name}: {_share(scores)}", flush=True)
        found[name] = scores.tolist()
    return found


def _differences(rows: Rows, train: np.ndarray, ngrams: int) -> sparse.csr_matrix:
    """(N, features): TF-IDF of the preferred answers less that of the others, weighted as in the training rows; or, of 0 words, of lengths."""
    better, worse = ([row[name] for row in rows] for name in ("text_b", "rejected"))
    if not ngrams:
        sizes = np.array([[[len(text), len(text.split()), 100 * np.log1p(len(text))] for text in texts] for texts in (better, worse)])
        return sparse.csr_matrix((sizes[0] - sizes[1]) / 100)
    known = TfidfVectorizer(ngram_range=(1, ngrams), min_df=2, sublinear_tf=True)
    known.fit([texts[at] for at in train for texts in (better, worse)])
    return (known.transform(better) - known.transform(worse)).tocsr()


if __name__ == "__main__":
    main()
