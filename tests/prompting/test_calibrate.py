"""The formulas, against the papers' own terms worked out by hand."""

import numpy as np

from trunkline.prompting.calibrate import contextual, domain_pmi, plain

SCORES = np.log(np.array([[0.30, 0.10], [0.02, 0.06]]))
FREE = np.log(np.array([[[0.40, 0.10], [0.10, 0.10]]]))  # normalised: 0.8, 0.2 and 0.5, 0.5; their mean: 0.65, 0.35


def test_plain_is_over_the_labels_alone() -> None:
    assert np.allclose(plain(SCORES), [[0.75, 0.25], [0.25, 0.75]])


def test_contextual_divides_by_what_no_content_gives() -> None:
    weights = np.linalg.inv(np.diag([0.65, 0.35]))
    wanted = np.array([[0.75, 0.25], [0.25, 0.75]]) @ weights.T
    assert np.allclose(contextual(SCORES, FREE), wanted / wanted.sum(axis=1, keepdims=True))


def test_a_row_without_content_becomes_even() -> None:
    assert np.allclose(contextual(np.log([[0.5, 0.1, 0.2]]), np.log([[[0.5, 0.1, 0.2]]])), 1 / 3)


def test_each_row_has_its_own_content_free_figures() -> None:
    free = np.concatenate([FREE, np.zeros_like(FREE)])
    assert np.allclose(contextual(SCORES, free)[0], contextual(SCORES[:1], FREE)[0])
    assert np.allclose(contextual(SCORES, free)[1], plain(SCORES)[1])


def test_pmi_is_a_ratio_of_likelihoods() -> None:
    ratio = np.array([[0.30 / 0.5, 0.10 / 0.1], [0.02 / 0.5, 0.06 / 0.1]])
    assert np.allclose(domain_pmi(SCORES, np.log([0.5, 0.1])), ratio / ratio.sum(axis=1, keepdims=True))
