"""Against label bias: what a model would answer without a text is taken out of what it answers with one."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

CONTENT_FREE = ("N/A", "[MASK]", "")
"""The texts without content that the paper averages over."""


def plain(scores: np.ndarray) -> np.ndarray:
    """(N, K) log-probabilities of labels -> (N, K) probabilities over the labels alone."""
    return softmax(scores, axis=1)


def contextual(scores: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) after contextual calibration.

    scores: (N, K) log-probabilities; free: (N or 1, F, K), those of the same prompts with content-free texts in place of the row's
    Source: Zhao et al. 2021 (Calibrate Before Use), section 5: W = diag(p_cf)^-1, b = 0. As in the authors' code the result is divided by its
    sum, where equation 1 writes a softmax: the label chosen is the same, and probabilities stay probabilities.
    """
    expected = logsumexp(log_softmax(free, axis=2), axis=1) - np.log(free.shape[1])  # log of the mean over content-free texts
    return softmax(log_softmax(scores, axis=1) - expected, axis=1)


def domain_pmi(scores: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) in proportion to how much more likely each label is behind the prompt than behind the domain's words alone.

    scores: (N, K) log P(label | prompt); domain: (K,) log P(label | domain)
    Source: Holtzman et al. 2021 (Surface Form Competition), equation 3; the softmax over labels is ours, for metrics that want probabilities.
    """
    return softmax(scores - domain[None], axis=1)
