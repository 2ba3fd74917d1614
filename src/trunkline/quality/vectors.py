"""`vectors`: one vector a row, the mean of its stored states. What all the work on data looks at; a text that was encoded before costs nothing.

The only file of this folder that needs a model: everything else reads arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from trunkline import names, storage
from trunkline.errors import DataError
from trunkline.model.backbone import Backbone, load_backbone
from trunkline.model.standard import standard
from trunkline.quality.duplicates import Vectors, Words, slightly_changed, unit
from trunkline.states.encode import encode
from trunkline.states.live import LiveStates
from trunkline.states.search import vectors_of
from trunkline.states.store import States
from trunkline.types import Row, Rows, Tokens

_EDITED = 300
_MOST_WORDS = 60_000  # in double precision, as the probe computes, some 200 MB


def vectors(
    rows: Sequence[Row], against: Sequence[Row] = (), *, model: str | Path | Backbone | None = None, depth: int = 0, max_tokens: int = 256,
    seed: int = 0,
) -> Vectors:  # fmt: skip
    """The mean-pooled states of rows at the cut of `depth`, from the store; what it lacks is encoded first.

    How near is near differs from model to model, so it is measured: 300 of the texts are changed as copies are (a letter, a word, case, marks) and
    encoded too; 99% of them keep the cosine `near` to their original, half of them `same`.

    Of `Rows` for the task `tag` also a vector for each word, in texts drawn by chance with some 60,000 words in all.

    Raises: DataError without rows; ModelError where there is no such model; OptionError for a depth it does not have.
    """
    if not len(rows):
        raise DataError("no rows, so there is nothing to look at. Give at least one.")
    backbone = model if isinstance(model, Backbone) else load_backbone(model or standard("encoder", [*rows, *against]))
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
    words = _words(rows, backbone, store, limit, seed) if isinstance(rows, Rows) and rows.task == "tag" else ()
    return Vectors(found[: len(rows)], found[len(rows) :], backbone.name, trunk.id, near, same, words)


def _words(rows: Rows, backbone: Backbone, store: States, limit: int, seed: int) -> tuple[Words | None, ...]:
    """The state of each word's first token, row by row; tokens are those of the task, so a word is what `tag` would give a label."""
    task = names.task("tag")
    spec, found, count = task.TaskSpec(max_tokens=limit, labels=("O",)), dict[int, Words](), 0
    for at in np.random.default_rng(seed).permutation(len(rows)).tolist():
        item = task.prepare({name: rows[at][name] for name in ("text", "words") if name in rows[at]}, backbone.tokenizer, spec)
        if count and count + len(item.about.words) > _MOST_WORDS:
            continue
        count += len(item.about.words)
        states = store.read([item.tokens[0]])[0]
        found[at] = Words(tuple(item.about.words), states[item.about.slots].astype(np.float16))
    return tuple(found.get(at) for at in range(len(rows)))
