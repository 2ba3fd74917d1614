"""What is odd in texts by themselves: lengths, writing systems, damaged encoding, personal data. No model."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trunkline.data import personal

_BLOCKS = (
    ("Latin", re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\uff21-\uff5a]")),
    ("Han", re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")),
    ("Kana", re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]")),
    ("Hangul", re.compile(r"[\u1100-\u11ff\uac00-\ud7af]")),
    ("Cyrillic", re.compile(r"[\u0400-\u052f]")),
    ("Arabic", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("Hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("Thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("Devanagari", re.compile(r"[\u0900-\u097f]")),
    ("Greek", re.compile(r"[\u0370-\u03ff]")),
)
# What UTF-8 becomes when it is read as Latin-1 or cp1252: a lead byte and its followers, each a letter of its own.
_TWICE = re.compile(
    r"[\u00c2\u00c3][\u0080-\u00bf\u20ac\u201a-\u201e\u2020-\u2022\u2030\u2039\u203a\u0152\u0153\u0160\u0161\u017d\u017e\u0178\u02c6\u02dc\u2013\u2014\u2018-\u201d\u2122]"
    r"|\u00e2\u20ac[\u0080-\u00bf\u02dc\u0153\u2122\u201c\u201d\u00a6\u2013\u2014]|\u00ef\u00bb\u00bf|\u00f0\u0178"
    r"|(?:[\u00e4-\u00e9][\u0080-\u00bf\u0152-\u0178\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{2}){2}"
)
_GBK_AS_UTF8 = re.compile(r"锟斤拷|烫烫烫|屯屯屯|锘縚?|鈥[渚濇淀檚]|銆[\u3400-\u9fff]|锛[\u3400-\u9fff]")
_MARKUP = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});|</?(?:p|br|div|span|a|b|i|li|td|tr)\b[^<>]{0,80}>", re.IGNORECASE)


def script(text: str) -> str:
    """The writing system that most letters of the text are of; "none" without letters.

    >>> script("我的卡丢了 OK"), script("12:30"), script("Привет")
    ('Han', 'none', 'Cyrillic')
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in _BLOCKS}
    if counts["Kana"] and counts["Kana"] * 10 >= counts["Han"]:  # Japanese has both
        counts["Kana"] += counts.pop("Han")
    known = sum(counts.values())
    rest = sum(char.isalpha() for char in text) - known
    counts["other"] = max(rest, 0)
    name, count = max(counts.items(), key=lambda pair: pair[1])
    return name if count else "none"


def odd_scripts(texts: Sequence[str], share: float = 0.05) -> tuple[dict[str, int], list[int]]:
    """How many texts are of each writing system, and the places of those in a system that fewer than `share` are of.

    Languages of one system (English, Spanish) are not told apart.
    """
    found = [script(text) for text in texts]
    counts = Counter(found)
    rare = {name for name, count in counts.items() if name != "none" and count < share * len(texts)}
    return dict(counts.most_common()), [at for at, name in enumerate(found) if name in rare]


def odd_lengths(texts: Sequence[str], limit: float = 4.0) -> tuple[list[int], list[int]]:
    """Places of texts that are far shorter, and far longer, than the usual: by the logarithm of their characters, in robust standard deviations."""
    sizes = np.log1p([len(text.strip()) for text in texts])
    if not len(sizes):
        return [], []
    middle = float(np.median(sizes))
    spread = max(1.4826 * float(np.median(np.abs(sizes - middle))), 0.1)
    score = (sizes - middle) / spread
    order = np.argsort(score, kind="stable")
    return [int(at) for at in order if score[at] < -limit], [int(at) for at in order[::-1] if score[at] > limit]


def damage(text: str) -> str:
    """What is broken in a text's characters, or "" where nothing is seen.

    >>> damage("donâ€™t"), damage("a � b"), damage("锟斤拷"), damage("fish &amp; chips"), damage("naïve café 我")
    ('UTF-8 read as Latin-1', 'replacement characters', 'UTF-8 read as GBK', 'HTML left in', '')
    """
    if "\ufffd" in text:
        return "replacement characters"
    if _TWICE.search(text):
        return "UTF-8 read as Latin-1"
    if _GBK_AS_UTF8.search(text):
        return "UTF-8 read as GBK"
    if any(unicodedata.category(char) in ("Co", "Cs", "Cn") for char in text if ord(char) > 0x2FF):
        return "characters that mean nothing"
    return "HTML left in" if _MARKUP.search(text) else ""


@dataclass(frozen=True)
class Private:
    """A row with personal data: its place, and how much of each kind."""

    row: int
    kinds: dict[str, int]


def private(texts: Sequence[str]) -> list[Private]:
    """Rows with mail addresses, phone numbers, cards (Luhn), IBANs (modulo 97), Chinese identity numbers (check character), IP addresses."""
    found = [Private(at, dict(Counter(one.kind for one in personal.find(text)))) for at, text in enumerate(texts)]
    return [one for one in found if one.kinds]


def repaired(text: str) -> str:
    """The text with its damage undone where that can be done without guessing, or "" where it cannot or nothing is damaged.

    >>> repaired("donâ€™t &amp; wonâ€™t"), repaired("fine")
    ('don’t & won’t', '')
    """
    better = html.unescape(text) if _MARKUP.search(text) else text
    if _TWICE.search(better):
        for encoding in ("cp1252", "latin-1"):
            try:
                better = better.encode(encoding).decode("utf-8")
                break
            except UnicodeError:
                continue
    return better if better != text and not damage(better) else ""
