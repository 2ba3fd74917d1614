"""Which language a text is in: py3langid, whose model lies in its package, so nothing is fetched."""

from __future__ import annotations

import re

from trunkline.errors import MissingExtra

try:
    import py3langid
except ModuleNotFoundError as error:
    raise MissingExtra("py3langid", "corpus", "Cleaning") from error

_READ = 500  # characters are enough, and long documents cost no more than short ones
_KANA = re.compile("[\u3040-\u30ff]")
_HAN = re.compile("[\u3400-\u9fff]")


def language(text: str) -> str:
    """The code of the language ("en", "zh", 97 in all), or "" for a text without letters.

    Texts of Chinese characters without any kana are Chinese: the model takes some short ones for Japanese.
    Source: Lui and Baldwin 2012, "langid.py". Below some 20 characters it is often wrong.

    >>> language("Where is my card?"), language("我的卡丢了"), language("42")
    ('en', 'zh', '')
    """
    text = text[:_READ]
    if not any(char.isalpha() for char in text):
        return ""
    if not text.isascii() and len(_HAN.findall(text)) * 2 > len(text) and not _KANA.search(text):
        return "zh"
    return str(py3langid.classify(text)[0])
