"""A short list of words that a text for everybody does not have, and the rule over it.

It is a seed, written here: a few dozen words that are abuse or pornography in nearly every use. It finds open abuse and nothing subtle,
and words alone are unjust to those who speak of abuse; so one such word drops nothing, and a branch (`--toxicity-branch`) or your
own list reads better.
"""

from __future__ import annotations

import re
from pathlib import Path

from trunkline.errors import DataError

EMBEDDED = (
    "asshole", "assholes", "bastards", "bitches", "blowjob", "bullshit", "cocksucker", "cunt", "cunts", "dickhead", "dumbass", "faggot", "faggots",
    "fuck", "fucked", "fucker", "fuckers", "fucking", "gangbang", "jackass", "motherfucker", "motherfucking", "nigger", "niggers", "paki", "pussies",
    "retards", "shithead", "shitty", "slut", "sluts", "twat", "wanker", "whore", "whores", "milf", "creampie", "bukkake",
    "傻逼", "傻屄", "操你妈", "草泥马", "日你妈", "妈逼", "他妈的", "狗杂种", "贱人", "婊子", "臭婊子", "王八蛋", "滚犊子", "死全家", "脑残",
    "智障玩意", "支那猪", "黑鬼",
    "死基佬", "约炮", "裸聊", "成人视频", "色情电影", "一夜情", "援交",
)  # fmt: skip
_FEW = 3
_SHARE = 0.02


class ToxicWords:
    """Whether a text has so many words of a list that it is dropped: three, or one in fifty of its words (two characters a Chinese word)."""

    def __init__(self, words: tuple[str, ...]) -> None:
        spaced = [re.escape(word) for word in words if word.isascii()]
        others = [re.escape(word) for word in words if not word.isascii()]
        parts = ([rf"\b(?:{'|'.join(spaced)})\b"] if spaced else []) + others
        self._pattern = re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)

    def too_many(self, text: str) -> bool:
        count = len(self._pattern.findall(text))
        return count >= _FEW or (count > 0 and count >= _SHARE * _length(text))


def toxic_words(told: str | None) -> ToxicWords | None:
    """The rule over the embedded list, or over a file with one word a line. Raises: DataError for a file that cannot be read."""
    if told in (None, "none"):
        return None
    if told == "embedded":
        return ToxicWords(EMBEDDED)
    try:
        lines = Path(str(told)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{told}: the list of words cannot be read ({error}). Write one word a line, in UTF-8.") from error
    words = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not words:
        raise DataError(f"{told}: the list of words is empty. Write one word a line.")
    return ToxicWords(words)


def _length(text: str) -> float:
    return len(text.split()) if text.isascii() else len(text) / 2
