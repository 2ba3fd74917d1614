"""`vectors`: one vector a row, the mean of its stored states. What all the work on data looks at; a text that was encoded before costs nothing.

The only file of this folder that needs a model: everything else reads arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from trunkline import storage
from trunkline.errors import DataError
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.quality.duplicates import Vectors, slightly_changed, unit
from trunkline.states.encode import encode
from trunkline.states.live import LiveStates
from trunkline.states.search import vectors_of
from trunkline.states.store import States
from trunkline.types import Row, Tokens

_EDITED = 300


def vectors(
    rows: Sequence[Row], against: Sequence[Row] = (), *, model: str | Path | Backbone = "minilm", depth: int = 0, max_tokens: int = 256,
    seed: int = 0,
) -> Vectors:  # fmt: skip
    """The mean-pooled states of rows at the cut of `depth`, from the store; what it lacks is encoded first.

    How near is near differs from model to model, so it is measured: 300 of the texts are changed as copies are (a letter, a word, case, marks) and
    encoded too; 99% of them keep the cosine `near` to their original, half of them `same`.

    Raises: DataError without rows; ModelError where there is no such model; OptionError for a depth it does not have.
    """
    if not len(rows):
        raise DataError("no rows, so there is nothing to look at. Give at least one.")
    backbone = model if isinstance(model, Backbone) else load_backbone(model)
    trunk = backbone.trunk(depth)
    dtype = "float32" if backbone.family.kind == "encoder-decoder" else "float16"
    store = States.open(storage.cache_folder() / "states" / f"{trunk.id[:24]}-{dtype}", trunk_id=trunk.id, width=trunk.width, dtype=dtype)
    limit = min(max_tokens, backbone.max_tokens)

    def tokens_of(texts: Sequence[tuple[str, str | None]]) -> list[Tokens]:
        return [backbone.tokenizer.encode(text, other, max_tokens=limit)[0] for text, other in texts]

    pairs = [(row["text"], row.get("text_b")) for row in [*rows, *against]]
    tokens = tokens_of(pairs)
    encode(tokens, trunk, store)
    found = store.pooled(tokens)
    some = Random(seed).sample(range(len(pairs)), min(_EDITED, len(pairs)))
    random = Random(seed)
    edited = [(slightly_changed(pairs[at][0], random), pairs[at][1]) for at in some]
    changed = vectors_of(tokens_of(edited), store, LiveStates(trunk, dtype=dtype))
    kept = (unit(found[some]) * unit(changed)).sum(1)
    near, same = np.quantile(kept, [0.01, 0.5]).tolist()
    return Vectors(found[: len(rows)], found[len(rows) :], backbone.name, trunk.id, near, same)
