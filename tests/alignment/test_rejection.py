"""rejection: the best of several by a function, the curve by counting, and a policy that learns to write what is rewarded."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from trunkline.alignment import rejection
from trunkline.alignment.rejection import Best, Config, best_of, drift, improve
from trunkline.alignment.roles import fresh, token_log_probabilities
from trunkline.alignment.rollout import Drawing
from trunkline.data.split import split
from trunkline.errors import OptionError
from trunkline.model.backbone import load_backbone
from trunkline.train.settings import Settings
from trunkline.types import Rows

WORDS = ("card", "order", "money", "account", "password", "package")


@pytest.fixture
def start(tiny_folder):
    rows = Rows(tuple({"text": f"my {word}", "label": "please"} for word in WORDS), "generate")
    return fresh(load_backbone(tiny_folder("llama")), rows, "lora", 2, "float32")


def worth(rows, answers):
    """Letters a: a policy can find this by chance, and write more of them."""
    return [text.count("a") for text in answers]


def test_the_best_is_the_one_that_the_function_likes_most(start):
    rows = [{"text": f"my {word}"} for word in WORDS]
    found = best_of(start, rows, worth, answers=4, drawing=Drawing(max_new_tokens=6))
    assert found.scores.shape == (6, 4)
    assert np.array_equal(found.best, found.scores.max(axis=1))
    assert found.best.tolist() == worth(rows, found.texts)


def test_the_curve_is_the_mean_over_all_draws():
    scores = np.random.default_rng(0).normal(size=(3, 5))
    curve = Best(("",) * 3, scores.max(axis=1), scores).curve()
    for k in range(1, 6):
        every = [max(one) for row in scores for one in itertools.combinations(row, k)]
        assert curve[k - 1] == pytest.approx(np.mean(every), abs=1e-12)
    assert drift(1) == 0
    assert drift(4) == pytest.approx(math.log(4) - 0.75)


@pytest.mark.wide
def test_a_policy_learns_to_write_what_is_rewarded_and_the_start_stays(start):
    rows = Rows(tuple({"text": f"my {a} {b}", "group": f"{a}{b}"} for a in WORDS for b in WORDS[:4]), "generate")
    parts = split(rows, by="group", validation=0.15, test=0.3)
    settings = Settings(epochs=6, batch_size=4, learning_rate=0.03, dropout=0.0, precision="float32", patience=None)
    items = start.prepare([{"text": "my card", "label": "today"}])
    was = token_log_probabilities(start, items)[0]
    policy = improve(start, parts, worth, Config(answers=6, rounds=2, max_new_tokens=6), settings)
    assert np.array_equal(was, token_log_probabilities(start, items)[0])
    asked = [{"text": row["text"]} for row in parts.test]
    before, after = (
        best_of(branch, asked, worth, answers=4, drawing=Drawing(max_new_tokens=6), seed=9).scores for branch in (start, policy)
    )
    assert after.mean() > before.mean() + 0.3
    assert "held-out prompts" in policy.report.data["notes"][-1]
    assert policy.report.html()


def test_a_stopped_run_goes_on_at_its_round_and_one_of_other_settings_is_refused(start, tmp_path, monkeypatch):
    parts = split(Rows(tuple({"text": f"my {a} {b}"} for a in WORDS for b in WORDS[:3]), "generate"), validation=0.2, test=0.2)
    config, settings = Config(answers=2, rounds=2, max_new_tokens=3), Settings(epochs=1, batch_size=4, learning_rate=0.03)
    clean = improve(start, parts, worth, config, settings)
    whole, calls = rejection._round, []

    def round_(*given):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(given[5])
        return whole(*given)

    monkeypatch.setattr(rejection, "_round", round_)
    with pytest.raises(KeyboardInterrupt):
        improve(start, parts, worth, config, settings, tmp_path / "out")
    monkeypatch.setattr(rejection, "_round", lambda *given: calls.append(given[5]) or whole(*given))
    with pytest.raises(OptionError, match="belongs to another run"):
        improve(start, parts, worth, config, replace(settings, learning_rate=0.01), tmp_path / "out")
    policy = improve(start, parts, worth, config, settings, tmp_path / "out")
    assert calls == [0, 1]
    assert [note.partition(":")[0] for note in policy.report.data["notes"][:2]] == ["round 1", "round 2"]
    for one, other in zip(policy.network.learned().values(), clean.network.learned().values()):
        assert one.equal(other)


def test_what_makes_no_sense_is_refused(start):
    with pytest.raises(OptionError, match="nothing would be rejected"):
        Config(answers=2, keep=2)
    parts = split(Rows(tuple({"text": word} for word in WORDS), "generate"), validation=0.2, test=0.2)
    with pytest.raises(OptionError, match="what is rewarded"):
        rejection.align(start, parts, replace(Config()), Settings())
