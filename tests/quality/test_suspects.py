"""Label errors: planted ones come first; the estimate and the ranking against cleanlab on the same probabilities; regression; folds."""

import numpy as np
import pytest
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores
from cleanlab.token_classification import rank
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from trunkline.errors import DataError, OptionError
from trunkline.quality.probe import Discriminant, Probe, fit_scale, folds_of, held_out, neighbour_shares, out_of_fold, softmax
from trunkline.quality.suspects import confident_errors, from_probabilities, number_suspects, suspects, word_suspects


def blobs(rows: int = 600, count: int = 4, width: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors in clouds, their labels with some wrong, and which are wrong."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, count, rows)
    vectors = (4 * np.eye(count, width)[truth] + generator.normal(size=(rows, width))).astype(np.float32)
    wrong = generator.random(rows) < noise
    return vectors, np.where(wrong, (truth + generator.integers(1, count, rows)) % count, truth), wrong


def test_shrinkage_goes_by_how_much_there_is_to_go_by() -> None:
    """Few rows in many dimensions are told apart by their means alone; with many, what is alike within a label counts. Each picks better than the other's."""
    generator = np.random.default_rng(0)
    turned, _ = np.linalg.qr(generator.normal(size=(60, 60)))
    noise, means = np.geomspace(0.3, 3, 60)[:, None] * turned, 0.25 * generator.normal(size=(4, 60))

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 4
        return means[labels] + generator.normal(size=(count, 60)) @ noise, labels

    test, truth = drawn(2000)
    few, many = drawn(60), drawn(4000)
    picked = [Discriminant.fit(*rows, 4) for rows in (few, many)]
    assert picked[0].shrinkage > picked[1].shrinkage

    def accuracy(rows: tuple[np.ndarray, np.ndarray], shrinkage: float | None) -> float:
        return float((Discriminant.fit(*rows, 4, shrinkage=shrinkage).logits(test).argmax(1) == truth).mean())

    assert accuracy(few, None) > accuracy(few, picked[1].shrinkage)
    assert accuracy(many, None) > accuracy(many, picked[0].shrinkage)


def test_planted_errors_come_first_and_are_put_right() -> None:
    vectors, labels, wrong = blobs()
    found = suspects(vectors, labels, 4)
    assert roc_auc_score(wrong, found.doubt) > 0.97
    assert wrong[found.order[: wrong.sum()]].mean() > 0.9
    assert abs(found.expected - wrong.sum()) < 0.4 * wrong.sum()
    truth = suspects(*blobs(noise=0)[:2], 4)
    assert truth.expected < 0.05 * len(labels)
    assert (found.proposed[wrong] == blobs(noise=0)[1][wrong]).mean() > 0.9


def test_against_cleanlab_on_the_same_probabilities() -> None:
    vectors, labels, wrong = blobs(noise=0.15)
    probabilities = held_out(vectors, labels, 4)
    found = from_probabilities(probabilities, labels)
    theirs = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    assert stats.spearmanr(-found.doubt, theirs).statistic > 0.95  # theirs is a difference of probabilities, ours of their logarithms
    assert abs(confident_errors(probabilities, labels) - num_label_issues(labels, probabilities)) <= 0.1 * wrong.sum() + 2


def test_the_discriminant_is_that_of_scikit_learn() -> None:
    vectors, labels, _ = blobs(200)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None).fit(vectors, labels)
    ours = Discriminant.fit(vectors, labels, 4, shrinkage=0.0)
    assert np.allclose(softmax(ours.logits(vectors)), theirs.predict_proba(vectors), atol=1e-4)


def test_weights_are_copies_of_rows() -> None:
    vectors, labels, _ = blobs(100)
    weights = np.where(np.arange(100) % 3 == 0, 2.0, 1.0)
    twice = np.concatenate([np.arange(100), np.arange(0, 100, 3)])
    left, right = Discriminant.fit(vectors, labels, 4, weights), Discriminant.fit(vectors[twice], labels[twice], 4)
    assert np.allclose(left.weight, right.weight, atol=1e-6)
    assert np.allclose(left.bias, right.bias, atol=1e-6)


def test_a_label_without_rows_never_wins() -> None:
    vectors, labels, _ = blobs(100)
    assert Discriminant.fit(vectors, labels, 5).logits(vectors).argmax(1).max() < 4
    assert np.allclose(Probe.fit(vectors, labels, 5).probabilities(vectors).sum(1), 1)


def test_copies_stay_together_and_do_not_vouch_for_each_other() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    labels = generator.integers(0, 3, 40)[groups]
    where = folds_of(labels, 5, 0, groups)
    assert all(len(set(where[groups == group])) == 1 for group in range(40))
    vectors = generator.normal(size=(40, 4))[groups]
    alone = neighbour_shares(vectors, np.arange(120) // 3, 40, groups=groups)
    assert alone[np.arange(120), np.arange(120) // 3].max() < 0.01
    assert (neighbour_shares(vectors, np.arange(120) // 3, 40)[np.arange(120), np.arange(120) // 3] > 0.1).all()


def test_a_row_has_no_say_in_its_own_probability() -> None:
    vectors, labels, _ = blobs(120, noise=0)
    other = labels.copy()
    other[7] = (labels[7] + 1) % 4
    assert held_out(vectors, labels, 4, rounds=1)[7].argmax() == labels[7]
    assert held_out(vectors, other, 4, rounds=1)[7].argmax() == labels[7]


def test_numbers() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 6))
    numbers = vectors @ np.arange(6.0) + 0.2 * generator.normal(size=300)
    wrong = generator.choice(300, 15, replace=False)
    numbers[wrong] += 30
    assert set(number_suspects(vectors, numbers).order[:15].tolist()) == set(wrong.tolist())


def test_the_same_seed_gives_the_same() -> None:
    vectors, labels, _ = blobs(100)
    assert np.array_equal(suspects(vectors, labels, 4, seed=3).doubt, suspects(vectors, labels, 4, seed=3).doubt)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="one vector"):
        suspects(np.zeros((3, 2)), np.zeros(4, dtype=int), 2)
    with pytest.raises(OptionError, match="NaN"):
        suspects(np.full((30, 2), np.nan), np.zeros(30, dtype=int), 2)
    with pytest.raises(DataError, match="at least 10"):
        suspects(np.zeros((5, 2)), np.zeros(5, dtype=int), 2)


def texts_of_words(
    count: int = 150, noise: float = 0.1, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Texts of 3 to 9 words of four classes, the first of which most words have; in some texts one word's label is wrong."""
    generator = np.random.default_rng(seed)
    truth = [np.where(generator.random(size) < 0.6, 0, generator.integers(1, 4, size)) for size in generator.integers(3, 10, count)]
    vectors = [(4 * np.eye(4, 8)[one] + generator.normal(size=(len(one), 8))).astype(np.float32) for one in truth]
    wrong, labels = np.full(count, -1), [one.copy() for one in truth]
    for at in np.flatnonzero(generator.random(count) < noise):
        wrong[at] = generator.integers(len(truth[at]))
        labels[at][wrong[at]] = (labels[at][wrong[at]] + generator.integers(1, 4)) % 4
    return vectors, labels, wrong, truth


def test_texts_are_ranked_by_their_worst_word() -> None:
    vectors, labels, wrong, truth = texts_of_words()
    found = word_suspects(vectors, labels, 4)
    planted = np.flatnonzero(wrong >= 0)
    assert roc_auc_score(wrong >= 0, found.doubt) > 0.97
    assert np.isin(found.order[: len(planted)], planted).mean() > 0.85
    assert (found.worst[planted] == wrong[planted]).mean() > 0.85
    right = [truth[at][wrong[at]] for at in planted]
    assert (found.proposed[planted] == right).mean() > 0.8
    assert abs(found.expected - len(planted)) < len(planted)
    assert found.share < 0.3


def test_words_against_cleanlab_on_the_same_probabilities() -> None:
    vectors, labels, _, _ = texts_of_words()
    found = word_suspects(vectors, labels, 4)
    ids, each = np.repeat(np.arange(len(labels)), [len(one) for one in labels]), np.concatenate(labels)
    logits, _ = out_of_fold(np.concatenate(vectors), each, 4, groups=ids)
    probabilities = softmax(logits * fit_scale(logits, each))
    split_up = [probabilities[ids == at] for at in range(len(labels))]
    scores, _ = rank.get_label_quality_scores(
        [one.tolist() for one in labels], split_up, token_score_method="normalized_margin", sentence_score_method="min"
    )
    assert stats.spearmanr(-found.doubt, scores).statistic > 0.95


def test_words_of_copies_do_not_vouch_for_each_other_and_texts_without_words_are_passed_over() -> None:
    vectors, labels, wrong, _ = texts_of_words()
    at = int(np.flatnonzero(wrong >= 0)[0])
    vectors, labels = [*vectors, *[vectors[at]] * 12, np.zeros((0, 8), np.float32)], [*labels, *[labels[at]] * 12, np.zeros(0, np.int64)]
    groups = np.array([*range(150), *[at] * 12, 162])
    apart, together = (word_suspects(vectors, labels, 4, groups=one).doubt[at] for one in (None, groups))
    assert together > apart
    assert 162 not in word_suspects(vectors, labels, 4, groups=groups).order
    with pytest.raises(OptionError, match="one label a word"):
        word_suspects(vectors, labels[1:], 4)
