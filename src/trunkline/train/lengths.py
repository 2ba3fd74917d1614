"""How long texts are in a model's tokens, and what a task would leave out of them: the part of `prepare` that needs a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trunkline import names
from trunkline.data.prepare import Prepared, Tokens, quantiles
from trunkline.errors import DataError
from trunkline.model.backbone import load_backbone
from trunkline.model.tokenizer import Tokenizer
from trunkline.train.tune import spec_for
from trunkline.types import Row

MOST_ROWS = 20_000
"""More rows than this are not looked at: that many, evenly spaced, are."""
_WHOLE = 1 << 17


def in_tokens(found: Prepared, model: str | Path, *, task_options: str = "") -> Prepared:
    """`found` with `tokens`: each row prepared as `tune` would do it. Where its labels do not allow that, `unmeasured` says why.

    Raises: OptionError, ModelError.
    """
    backbone = load_backbone(model)
    rows = found.rows[:: -(-len(found.rows) // MOST_ROWS)]
    try:
        spec = spec_for(backbone, found.parts.train, task_options)
        task = names.task(found.rows.task)
        items = [task.prepare(row, backbone.tokenizer, spec) for row in rows]
    except DataError as error:
        return replace(found, unmeasured=f"Tokens were not counted: {error}")
    lengths, unknown = zip(*(_look(backbone.tokenizer, row) for row in rows))
    cut, sequences = sum(item.was_cut for item in items), sum(len(item.tokens) for item in items) / len(rows)
    counted = Tokens(backbone.name, spec.max_tokens, len(rows), cut, sequences, sum(unknown) / sum(lengths), quantiles(lengths))
    return replace(found, tokens=counted, unmeasured="")


def _look(tokenizer: Tokenizer, row: Row) -> tuple[int, int]:
    """How many tokens the whole text has, and how many of them stand for what the model does not know."""
    encoding = tokenizer.encodings(row["text"], row.get("text_b"), max_tokens=_WHOLE)[0]
    # a control id that the tokenizer did not add itself: what users write as one is encoded as plain text
    unknown = sum(one in tokenizer.control_ids and not added for one, added in zip(encoding.ids, encoding.special_tokens_mask))
    return len(encoding), unknown
