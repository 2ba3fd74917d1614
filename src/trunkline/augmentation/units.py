"""A text as units that can be moved, and back: words with the spaces behind them, and Chinese characters one by one."""

from __future__ import annotations

import re

_UNIT = re.compile(r"[\u3400-\u9fff]\s*|[^\s\u3400-\u9fff]+\s*|\s+")
HAN = re.compile("[\u3400-\u9fff]")


def units(text: str) -> list[str]:
    """The pieces of a text; joined they are the text again.

    >>> units("my card 丢了")
    ['my ', 'card ', '丢', '了']
    """
    return _UNIT.findall(text)


def word(unit: str) -> tuple[str, str, str]:
    """A unit as what stands before its word, the word, and what stands behind it.

    >>> word('"card," ')
    ('"', 'card', '," ')
    """
    found = re.search(r"\w(?:.*\w)?", unit, re.DOTALL)
    return (unit, "", "") if found is None else (unit[: found.start()], found[0], unit[found.end() :])


def like(old: str, new: str) -> str:
    """`new` with the capital letters of `old`."""
    return new.upper() if len(old) > 1 and old.isupper() else new.capitalize() if old[:1].isupper() else new
