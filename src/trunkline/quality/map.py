"""Places of vectors on a flat map: near ones near each other, so that a person sees what there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from trunkline.quality.duplicates import unit

DRAWN = 2_000
_FEW = 12


def places(vectors: np.ndarray, wanted: Sequence[int] = (), *, drawn: int = DRAWN, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are drawn (M,) and where (M, 2), within -1 and 1: `wanted` first, then others by chance, at most `drawn` in all.

    Source: van der Maaten and Hinton 2008 (t-SNE), through scikit-learn, on the 50 strongest directions; under a dozen rows, and for vectors that are
    all the same, the two strongest directions alone. How far apart two far dots are means nothing.
    """
    generator = np.random.default_rng(seed)
    first = list(dict.fromkeys(wanted))[:drawn]
    others = np.setdiff1d(np.arange(len(vectors)), first)
    more = generator.choice(others, min(len(others), drawn - len(first)), replace=False)
    chosen = np.sort(np.concatenate([np.array(first, dtype=np.int64), more.astype(np.int64)]))
    ready = unit(vectors[chosen].astype(np.float64))
    ready = ready - ready.mean(0)
    if not len(chosen) or not np.abs(ready).max() > 1e-9:
        return chosen, np.zeros((len(chosen), 2))
    strongest = PCA(min(50, *ready.shape), random_state=seed).fit_transform(ready)
    flat = np.pad(strongest, ((0, 0), (0, 2)))[:, :2]
    if len(chosen) >= _FEW:
        flat = TSNE(2, perplexity=min(30.0, (len(chosen) - 1) / 3), init=flat / max(flat[:, 0].std(), 1e-12) * 1e-4, random_state=seed, n_jobs=1,
                    max_iter=500).fit_transform(strongest.astype(np.float32))  # fmt: skip
    low, high = flat.min(0), flat.max(0)
    return chosen, 2 * (flat - low) / np.maximum(high - low, 1e-12) - 1
