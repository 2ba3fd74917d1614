"""Small edits of a text by chance, for English and Chinese alike: words moved or left out, marks put in, slips of hand, eye and ear.

Each is a function (text, share, random) -> text that changes about `share` of the units, at least one where the text has one to change.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from random import Random

from trunkline.augmentation.units import HAN, like, units, word
from trunkline.errors import MissingExtra

Edit = Callable[[str, float, Random], str]
_MARKS, _CHINESE_MARKS = ".;?:!,", "。；？：！，"
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKS = (
    "0Oo", "1lI", "5S", "8B", "2Z", "6b", "9g", "ce", "uv", "hn", "已己巳", "未末", "土士", "人入八", "日曰目", "大太犬", "天夭夫", "干千于", "贷货", "候侯", "晴睛",
    "帐账", "戊戌戍", "密蜜", "折拆", "兔免", "拨拔", "银很", "卡下", "处外", "问间闻", "体休", "没设", "钱线", "元无", "户尸", "力刀", "申由甲", "刷刮", "住往",
)  # fmt: skip
_PAIRS = (("rn", "m"), ("cl", "d"), ("vv", "w"), ("ii", "u"))
_SOUNDS = (
    "their there they're", "your you're", "its it's", "to too two", "then than", "of off", "where were wear", "know no", "here hear", "write right",
    "buy by bye", "for four", "new knew", "would wood", "week weak", "wait weight", "check cheque", "fee fees", "lose loose", "affect effect",
    "accept except", "pay pey", "receive recieve", "money mony", "which witch", "whether weather", "charge charj", "card kard", "account acount",
)  # fmt: skip


def eda(text: str, share: float, random: Random) -> str:
    """Words swapped, left out, or one of them said twice elsewhere: one of the three for each text.

    Source: Wei and Zou 2019 (EDA), section 2, without synonyms (they are a method of their own here); in place of the insertion of a
    synonym a word of the text is repeated. Chinese characters move only past their neighbours: words there are short.
    """
    pieces = units(text)
    if len(pieces) < 2:
        return text
    made = random.choice((_swapped, _left_out, _repeated))(pieces, max(1, round(share * len(pieces))), random)
    return "".join(_spaced(made)).strip()


def aeda(text: str, share: float, random: Random) -> str:
    """Marks put between the words, which keep their order. Source: Karimi, Rossi and Prati 2021 (AEDA), section 3: one to a third of the words.

    `share` is not read: how many is drawn for each text.
    """
    pieces = units(text)
    count = random.randint(1, max(1, len(pieces) // 3))
    for at in sorted(random.sample(range(len(pieces)), min(count, len(pieces))), reverse=True):
        chinese = bool(HAN.match(pieces[at]))
        pieces.insert(at, random.choice(_CHINESE_MARKS if chinese else _MARKS) + ("" if chinese else " "))
    return "".join(pieces).strip()


def keyboard(text: str, share: float, random: Random) -> str:
    """Slips of the hand: a neighbouring key, a letter twice, left out, or changed places with the next one (QWERTY)."""
    return _letters(text, share / 4, random, _slip, lambda char: char.lower() in _NEIGHBOURS)


def ocr(text: str, share: float, random: Random) -> str:
    """Slips of the eye: letters and characters that look alike."""
    for one, other in _PAIRS:
        if one in text and random.random() < share:
            text = text.replace(one, other, 1)
    return _letters(text, share / 2, random, lambda char, _, draw: (draw.choice(_ALIKE[char]), 1), lambda char: char in _ALIKE)


class Homophones:
    """Slips of the ear: English words from a short list, Chinese characters of the same sound and tone among those that the rows use.

    Raises: MissingExtra where the rows are Chinese and the package pypinyin is not there.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        characters = sorted({char for text in texts for char in HAN.findall(text)})
        self._sounds: dict[str, list[str]] = {}
        self._sound_of: dict[str, str] = {}
        if characters and importlib.util.find_spec("pypinyin") is None:
            raise MissingExtra("pypinyin", "augment", "Chinese homophones")
        if characters:
            import pypinyin  # its tables take a moment to load

            self._sound_of = {char: pypinyin.pinyin(char, style=pypinyin.Style.TONE3)[0][0] for char in characters}
        for char, sound in self._sound_of.items():
            self._sounds.setdefault(sound, []).append(char)

    def __call__(self, text: str, share: float, random: Random) -> str:
        return words_replaced(text, share, random, self._others)

    def _others(self, old: str) -> list[str]:
        if HAN.fullmatch(old):
            return [char for char in self._sounds.get(self._sound_of.get(old, ""), ()) if char != old]
        return _HEARD.get(old.lower(), [])


def words_replaced(text: str, share: float, random: Random, others: Callable[[str], list[str]]) -> str:
    """About `share` of the words replaced by one of what `others` gives for them; the text itself where it gives nothing."""
    pieces = units(text)
    found = {at: given for at, unit in enumerate(pieces) if (given := others(word(unit)[1]))}
    for at in random.sample(sorted(found), min(len(found), max(1, round(share * len(pieces))))):
        before, old, behind = word(pieces[at])
        pieces[at] = before + like(old, random.choice(found[at])) + behind
    return "".join(pieces)


_NEIGHBOURS = {
    char: [row[at + step] for step in (-1, 1) if 0 <= at + step < len(row)]
    + [other[at + step] for other in _beside for step in (-1, 0) if 0 <= at + step < len(other)]
    for number, row in enumerate(_ROWS)
    for _beside in [[_ROWS[number + 1]] if number + 1 < len(_ROWS) else []]
    for at, char in enumerate(row)
}
_ALIKE = {char: [other for other in group if other != char] for group in _LOOKS for char in group}
_HEARD = {one: [other for other in group.split() if other != one] for group in _SOUNDS for one in group.split()}


def _letters(
    text: str, share: float, random: Random, change: Callable[[str, str, Random], tuple[str, int]], can: Callable[[str], bool]
) -> str:
    """About `share` of the letters changed: `change` gives what stands for a letter and the next one, and how many of the two it took."""
    places = [at for at, char in enumerate(text) if can(char)]
    chosen = set(random.sample(places, min(len(places), max(1, round(share * len(places))))))
    made, at = [], 0
    while at < len(text):
        if at in chosen:
            new, took = change(text[at], text[at + 1 : at + 2], random)
            made.append(new)
            at += took
        else:
            made.append(text[at])
            at += 1
    return "".join(made)


def _slip(char: str, after: str, random: Random) -> tuple[str, int]:
    kind = random.randrange(4)
    if kind == 0:
        return like(char, random.choice(_NEIGHBOURS[char.lower()])), 1
    if kind == 1 and after.isalpha():
        return after + char, 2
    return (char * 2, 1) if kind == 2 else ("", 1)


def _swapped(pieces: list[str], count: int, random: Random) -> list[str]:
    for _ in range(count):
        at = random.randrange(len(pieces) - 1)
        other = at + 1 if HAN.match(pieces[at]) else random.randrange(len(pieces))
        pieces[at], pieces[other] = pieces[other], pieces[at]
    return pieces


def _left_out(pieces: list[str], count: int, random: Random) -> list[str]:
    gone = set(random.sample(range(len(pieces)), min(count, len(pieces) - 1)))
    return [piece for at, piece in enumerate(pieces) if at not in gone]


def _repeated(pieces: list[str], count: int, random: Random) -> list[str]:
    for _ in range(count):
        pieces.insert(random.randrange(len(pieces) + 1), random.choice(pieces))
    return pieces


def _spaced(pieces: list[str]) -> list[str]:
    """The last word of a text has no space behind it; moved forward, it needs one."""
    return [
        piece if piece[-1:].isspace() or HAN.match(piece) or at + 1 == len(pieces) else piece + ("" if HAN.match(pieces[at + 1]) else " ")
        for at, piece in enumerate(pieces)
    ]
