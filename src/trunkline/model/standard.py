"""The model that is taken where none is named. Light on purpose: the help of the command line reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MODELS = {"encoder": "minilm", "decoder": "smollm2", "encoder-decoder": "t5-small"}
"""By the first kind that a task can stand on. All of them read English."""
MANY_LANGUAGES = "e5-small"
"""The encoder for texts in other letters than Latin ones: minilm knows few of them, and most Chinese words not at all."""
ENCODER = f"{MODELS['encoder']}, or {MANY_LANGUAGES} where texts are not in Latin letters"
"""What the help says of it."""
_SHARE = 0.1  # of the letters: English names of products stand in most Chinese messages, and hardly a Chinese word in English ones
_TEXTS, _CHARACTERS = 1000, 500  # looked at, of so many rows and of each
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00aa-\u024f\u1e00-\u1eff]")


def standard(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The name of a model of this kind for the texts of these rows.

    >>> standard("encoder", [{"text": "My card has not arrived"}]), standard("encoder", [{"text": "iPhone 什么时候发货"}])
    ('minilm', 'e5-small')
    """
    return MANY_LANGUAGES if kind == "encoder" and _other_letters(rows) > _SHARE else MODELS[kind]


def why(name: str) -> str | None:
    """A note where `standard` gave another model than the usual one of its kind."""
    if name != MANY_LANGUAGES:
        return None
    return f"no model was named, and the texts are not in Latin letters: {name} is taken, which reads 100 languages"


def _other_letters(rows: Sequence[Mapping[str, Any]]) -> float:
    """The share of letters that are not Latin, in rows from all over."""
    some = [rows[at] for at in range(0, len(rows), max(1, len(rows) // _TEXTS))]
    text = "".join(row[part][:_CHARACTERS] for row in some for part in ("text", "text_b") if isinstance(row.get(part), str))
    letters = len(_LETTER.findall(text))
    return 1 - len(_LATIN.findall(text)) / letters if letters else 0.0
