"""The baselines learn what can be learned, in every shape of task, and are as fast as they say."""

import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from trunkline.errors import DataError, OptionError
from trunkline.evaluation.baselines import labels as module
from trunkline.evaluation.baselines.labels import baselines, learned_from, targets
from trunkline.evaluation.metrics import compute

WORDS = {"ship": "parcel late courier tracking", "pay": "card charged refund fee", "app": "login crash update screen"}
CHINESE = {"物流": "快递三天没到", "退款": "钱什么时候退给我", "质量": "用了两天就坏了"}


def messages(generator, count, themes, noise=0.15, joint=" "):
    names, rows = list(themes), []
    for _ in range(count):
        name = names[int(generator.integers(len(names)))]
        source = themes[name if generator.random() > noise else names[int(generator.integers(len(names)))]]
        parts = source.split() if joint else list(source)
        rows.append({"text": joint.join(generator.choice(parts, 3)) + joint + "please help", "label": name})
    return rows


def spec(labels=(), task="classify", multi_label=False):
    return SimpleNamespace(task=task, labels=tuple(labels), multi_label=multi_label)


@pytest.mark.parametrize(("themes", "joint", "said"), [(WORDS, " ", "words 1-2 and letters"), (CHINESE, "", "characters 1-4")])
def test_words_and_characters_are_learned(themes, joint, said):
    generator, told = np.random.default_rng(0), spec(sorted(themes))
    train, validation, test = (messages(generator, n, themes, joint=joint) for n in (200, 80, 120))
    majority, tfidf = baselines(train, test, told, validation=validation)
    truth = targets(test, told)
    assert said in tfidf.options["features"]
    assert compute(["accuracy"], truth, tfidf.test)["accuracy"] > 0.8
    assert compute(["accuracy"], truth, majority.test)["accuracy"] < 0.5
    for result in (majority, tfidf):
        assert result.validation.shape == (80, 3)
        assert np.allclose(result.test.sum(axis=1), 1)
    assert tfidf.options["C"] in tfidf.options["picked_from"]
    assert tfidf.options["converged"] is True


def test_pooled_states_are_learned_and_the_same_twice():
    generator, told = np.random.default_rng(1), spec(sorted(WORDS))
    split = {"train": messages(generator, 150, WORDS), "validation": messages(generator, 60, WORDS), "test": messages(generator, 90, WORDS)}
    directions = generator.normal(size=(3, 16))
    features = {k: directions[targets(v, told)] + generator.normal(size=(len(v), 16)) for k, v in split.items()}
    first, second = (baselines(split["train"], split["test"], told, validation=split["validation"], features=features)[2] for _ in range(2))
    assert first.name == "untuned"
    assert compute(["accuracy"], targets(split["test"], told), first.test)["accuracy"] > 0.9
    assert (first.test == second.test).all()


def test_any_number_of_labels_also_those_that_all_or_none_have():
    generator, told = np.random.default_rng(2), spec(["all", "app", "none", "pay", "ship"], multi_label=True)
    rows = [{**row, "label": ["all", row["label"]]} for row in messages(generator, 300, WORDS, noise=0.0)]
    majority, tfidf = baselines(rows[:200], rows[200:], told, validation=rows[150:200])
    truth = targets(rows[200:], told)
    assert truth.shape == tfidf.test.shape == (100, 5)
    assert (tfidf.test[:, 0] == 1).all()
    assert (tfidf.test[:, 2] == 0).all()
    assert compute(["micro_f1"], truth, tfidf.test)["micro_f1"] > 0.95
    assert ((majority.test >= 0) & (majority.test <= 1)).all()


def test_numbers_and_pairs():
    generator, told = np.random.default_rng(3), spec(task="regress")
    words, rows = ["red", "blue", "green", "old", "new", "big", "small", "fast", "slow", "warm", "cold"], []
    for _ in range(500):
        first = generator.choice(words, 4, replace=False)
        kept = int(generator.integers(0, 5))
        second = [*first[:kept], *generator.choice(words, 4 - kept)]
        rows.append({"text": " ".join(first), "text_b": " ".join(second), "label": float(kept)})
    mean, tfidf = baselines(rows[:350], rows[400:], told, validation=rows[350:400])
    truth = targets(rows[400:], told)
    assert mean.name == "mean"
    assert compute(["pearson"], truth, mean.test)["pearson"] == 0
    assert compute(["pearson"], truth, tfidf.test)["pearson"] > 0.7
    assert tfidf.test.shape == (100,)


def test_a_label_without_a_training_row_gets_no_probability():
    told = spec(["a", "b", "rare"])
    train = [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}] * 10
    result = baselines(train, [{"text": "good", "label": "rare"}], told)[1]
    assert result.test[0, 2] == 0
    assert result.test[0].argmax() == 0
    assert result.validation is None
    one = baselines(train[::2], [{"text": "bad", "label": "b"}], told)[1]
    assert one.test.tolist() == [[1.0, 0.0, 0.0]]


def test_texts_without_a_word_do_not_stop_it():
    told = spec(["a", "b"])
    rows = [{"text": "", "label": "a"}, {"text": "", "label": "b"}, {"text": "", "label": "a"}]
    assert baselines(rows, rows, told)[1].test.argmax(axis=1).tolist() == [0, 0, 0]


def test_many_rows_are_sampled_and_it_is_said(monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 60)
    rows = messages(np.random.default_rng(4), 200, WORDS)
    features = {"train": np.ones((60, 4)), "test": np.ones((200, 4))}
    for result in baselines(rows, rows, spec(sorted(WORDS)), features=features)[1:]:
        assert (result.options["train_rows"], result.options["of"]) == (60, 200)


def test_what_belongs_to_rows_is_sampled_as_they_are(monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 60)
    assert learned_from(range(60)) == range(60)
    kept = learned_from(range(200), seed=1)
    assert kept == sorted(set(kept))
    assert learned_from([n * n for n in range(200)], seed=1) == [n * n for n in kept]
    assert learned_from(range(200)) != kept


def test_texts_to_measure_on_are_weighed_block_by_block(monkeypatch):
    """The TF-IDF of all these takes 20 MB, and it is 13 MB for a thirtieth of them."""
    monkeypatch.setattr("trunkline.evaluation.vectors.BLOCK", 300)
    told, rows = spec(sorted(WORDS)), messages(np.random.default_rng(6), 300, WORDS)
    baselines(rows, rows, told)  # what is imported and compiled stays in memory
    tracemalloc.start()
    baselines(rows, rows * 30, told)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


def test_bad_rows_and_features_are_refused():
    told, rows = spec(["a", "b"]), [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]
    with pytest.raises(DataError, match="Did you mean"):
        baselines(rows, [{"text": "x", "label": "aa"}], told)
    with pytest.raises(DataError, match="has no label"):
        baselines(rows, [{"text": "x"}], told)
    with pytest.raises(DataError, match="at least one"):
        baselines(rows, [], told)
    with pytest.raises(OptionError, match=r"features\['test'\]: 1 for 2 rows"):
        baselines(rows, rows, told, features={"train": np.ones((2, 3)), "test": np.ones((1, 3))})
    with pytest.raises(OptionError, match=r"features\['test'\]: none"):
        baselines(rows, rows, told, features={"train": np.ones((2, 3))})


@pytest.mark.slow
def test_ten_thousand_rows_with_77_labels_take_about_twenty_seconds():
    generator = np.random.default_rng(5)
    letters = ["".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 7)) for _ in range(2500)]
    themes = {f"label {k:02}": " ".join(generator.choice(letters, 40)) for k in range(77)}
    rows = messages(generator, 10_000, themes)
    start = time.process_time()
    baselines(rows, rows[:500], spec(sorted(themes)), validation=rows[500:1000])
    assert time.process_time() - start < 40
