"""Entities in a text, three ways: character offsets, tags of words, and whatever JSON people write. Each is brought to the first.

`conll` reads and writes the files in which words and tags stand in columns. Here: what a word is, what the tags of each scheme mean,
and the checks that every row goes through: an entity lies inside its text, is what it is said to be, and overlaps no other.

Schemes, by the letter before the type (B-PER); `O` is outside of all:
    iob1    I inside; B only where an entity begins right behind another one of its type
    bio     B begins, I goes on (IOB2)
    bioes   B begins, I goes on, E ends, S alone
    bilou   the same, with L for E and U for S
    bmes    the same, with M for I; without S (BMEO) a B alone is a whole entity
Source: Ramshaw and Marcus 1995 (IOB1); Tjong Kim Sang and Veenstra 1999 (IOB2 and kin); Ratinov and Roth 2009 (BILOU).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trunkline.errors import DataError, unknown

Span = tuple[int, int, str]
"""Start, end (exclusive) and type; in words or in characters, as the function says."""

_LETTERS = {"iob1": ("B", "I"), "bio": ("B", "I"), "bioes": tuple("BIES"), "bilou": tuple("BILU"), "bmes": tuple("BMES")}
SCHEMES = tuple(_LETTERS)
NO_TYPE = "entity"
"""The type of tags that have none, such as a bare B."""

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = HAN + "\u3040-\u30ff\u31f0-\u31ff"  # and kana
_WIDE = re.compile(f"[{_UNSPACED}\u3000-\u303f\uff00-\uff9f]")  # and their punctuation
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W\d{_UNSPACED}]+|\d+|\S")
_TAG = re.compile(r"([BIESMLU])(?:[-_](.+))?|O")


def split_words(text: str) -> list[tuple[int, int]]:
    """Where each word of a text lies: runs of letters, runs of digits, each Chinese or Japanese character, each mark.

    >>> [("7 Maple St., 北京")[a:b] for a, b in split_words("7 Maple St., 北京")]
    ['7', 'Maple', 'St', '.', ',', '北', '京']
    """
    found: list[tuple[int, int]] = []
    joins = False  # the last character was a vowel sign or an accent: it belongs to the letters on both sides
    for match in _WORD.finditer(text):
        start, end = match.span()
        mark = unicodedata.category(text[start]).startswith("M")
        if found and found[-1][1] == start and (mark or (joins and text[start].isalnum())) and not _WIDE.match(text[start - 1]):
            start = found.pop()[0]
        found.append((start, end))
        joins = mark
    return found


def join_words(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text of words, and where each lies in it: a space between two, but none between Chinese or Japanese characters.

    A sentence that was cut into single characters, Chinese ones among them, is joined without any space: its digits and letters were one word.

    >>> join_words(["在", "北", "京", "2", "0", "天"])[0], join_words(["Ann", "left", "北", "京"])[0]
    ('在北京20天', 'Ann left 北京')
    """
    tight = all(len(word) == 1 for word in words) and any(_WIDE.match(word) for word in words)
    parts, offsets, at = [], [], 0
    for place, word in enumerate(words):
        if place and not tight and not (_WIDE.match(words[place - 1][-1]) and _WIDE.match(word[0])):
            parts.append(" ")
            at += 1
        parts.append(word)
        offsets.append((at, at + len(word)))
        at += len(word)
    return "".join(parts), offsets


def find_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """The scheme that some tags are written in. Raises: DataError where their letters belong to none."""
    facts = Facts()
    for tags in sequences:
        facts.add(tags)
    return facts.scheme()


@dataclass
class Facts:
    """What tells schemes apart: the letters, and how often an I and a B stand where one scheme or the other would not put them."""

    letters: Counter[str] = field(default_factory=Counter)
    late: int = 0  # an I that goes on with nothing: legal in iob1 only
    early: int = 0  # a B with nothing of its type before it: legal in bio only

    def add(self, tags: Iterable[str]) -> None:
        """Count a sentence. What is no tag at all is passed over: the reader tells of it where it stands."""
        before = None
        for tag in tags:
            if not _TAG.fullmatch(tag):
                before = None
                continue
            letter, kind = parts_of(tag)
            self.letters[letter] += 1
            self.late += letter == "I" and kind != before
            self.early += letter == "B" and kind != before
            before = kind

    def scheme(self) -> str:
        """Raises: DataError where the letters belong to no scheme."""
        there = set(self.letters) - {"O"}
        for name in ("bio", "bioes", "bilou", "bmes"):
            if there <= set(_LETTERS[name]):
                return "iob1" if name == "bio" and self.late > self.early else name
        shown = ", ".join(f"{letter} ({count:,})" for letter, count in self.letters.most_common())
        raise DataError(f"the letters of the tags, {shown}, belong to no scheme. Allowed: {', '.join(SCHEMES)} (B-PER I-PER O and kin).")


def parts_of(tag: str) -> tuple[str, str]:
    """Letter and type of a tag; ("O", "") for none. Raises: ValueError for what is no tag.

    >>> parts_of("B-PER"), parts_of("I_rating_value"), parts_of("O"), parts_of("B")
    (('B', 'PER'), ('I', 'rating_value'), ('O', ''), ('B', 'entity'))
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"{tag[:40]!r} is no tag: a tag is O, or a letter of BIESMLU with a type, such as B-PER")
    return ("O", "") if match[1] is None else (match[1], match[2] or NO_TYPE)


def spans_of(tags: Sequence[str], scheme: str) -> tuple[list[Span], int]:
    """The entities of a sentence's tags, in words, and how many tags were not legal and were read as well as could be.

    An entity that does not begin with its first letter begins all the same; one that does not end with its last letter ends where it ends.
    Raises: ValueError for what is no tag of the scheme.

    >>> spans_of(["B-PER", "I-PER", "O", "I-LOC"], "bio")
    ([(0, 2, 'PER'), (3, 4, 'LOC')], 1)
    """
    single = "SU" if scheme in ("bioes", "bilou", "bmes") else ""
    spans: list[Span] = []
    start, open_type, repairs, ended = 0, "", 0, True
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = parts_of(tag)
        if letter not in _LETTERS[scheme] and letter != "O":
            raise ValueError(f"{tag!r} is no tag of {scheme}: its letters are {', '.join(_LETTERS[scheme])} and O")
        goes_on = letter in "IMEL" and kind == open_type and not ended
        if open_type and not goes_on:
            spans.append((start, place, open_type))
            repairs += bool(single) and not ended and not (scheme == "bmes" and place - start == 1)
        if letter == "O":
            open_type = ""
        elif not goes_on:
            repairs += letter in "IMEL" and scheme != "iob1"
            start, open_type = place, kind
        ended = letter in "ELSU"
    return spans, repairs


def tags_of(spans: Iterable[Span], words: int, scheme: str) -> list[str]:
    """The tags of a sentence of so many words with these entities (in words, none over another). Raises: OptionError for an unknown scheme.

    >>> tags_of([(0, 2, "PER"), (3, 4, "LOC")], 5, "bioes")
    ['B-PER', 'E-PER', 'O', 'S-LOC', 'O']
    """
    if scheme not in _LETTERS:
        raise unknown("scheme", scheme, SCHEMES)
    tags, before = ["O"] * words, (0, 0, "")
    for start, end, kind in sorted(spans):
        first, inside, last, alone = tuple("BIIB") if scheme in ("iob1", "bio") else _LETTERS[scheme]
        if scheme == "iob1" and before[1:] != (start, kind):
            first = alone = "I"
        tags[start:end] = [f"{inside}-{kind}"] * (end - start)
        tags[end - 1] = f"{last}-{kind}"
        tags[start] = f"{alone if end - start == 1 else first}-{kind}"
        before = (start, end, kind)
    return tags


def begins(tag: str) -> bool:
    """Whether a sentence or an entity may begin with this tag (of any scheme but iob1)."""
    return parts_of(tag)[0] in "OBSU"


def follows(before: str, after: str, scheme: str) -> bool:
    """Whether a tag may stand behind another one (of any scheme but iob1)."""
    (left, left_type), (right, right_type) = parts_of(before), parts_of(after)
    if right in "IMEL":
        return left in "BIM" and left_type == right_type
    return left in "OESLU" or scheme == "bio"


def ends(tag: str, scheme: str) -> bool:
    """Whether a sentence may end with this tag."""
    return parts_of(tag)[0] in "OESLU" or scheme == "bio"


def covered(spans: Iterable[Sequence], words: Sequence[tuple[int, int]]) -> list[Span]:
    """Entities by characters as entities by words: each over all the words that it touches; one that touches none is left out.

    >>> covered([(4, 9, "LOC")], [(0, 3), (4, 7), (8, 12)])
    [(1, 3, 'LOC')]
    """
    found: list[Span] = []
    taken = 0
    for start, end, kind in sorted(map(tuple, spans)):
        touched = [place for place, (a, b) in enumerate(words) if a < end and b > start and place >= taken]
        if touched:
            taken = touched[-1] + 1
            found.append((touched[0], taken, kind))
    return found


def words_of(row: dict) -> list[tuple[int, int]]:
    """The words of a row: those that it brings, or its text split into words."""
    given = row.get("words")
    return split_words(row["text"]) if given is None else [(start, end) for start, end in given]
