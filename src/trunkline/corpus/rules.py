"""Quality rules: each a function of one name that says whether a document is good enough, with where its limits come from.

A rule reads a `Page`, whose counts are made once and shared. "spaced" rules count words and hold for scripts that part them with
spaces; "chinese" ones count characters. A document of at least 30% Chinese letters is read by the Chinese rules and the common ones.
Limits are what the papers say; they were set for web pages, so short messages need others (`words:least=3`) or none.

Sources: Gopher = Rae et al. 2021 (arXiv 2112.11446), section A.1.1 and table A1. C4 = Raffel et al. 2020 (JMLR 21), section 2.2.
FineWeb = Penedo et al. 2024 (arXiv 2406.17557), section 3.4. ChineseWebText = Chen et al. 2023 (arXiv 2311.01149), section 3.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from trunkline.choices import convert, split_choice
from trunkline.errors import unknown

_HAN = re.compile("[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD_WITH_LETTER = re.compile(r"[^\W\d_]\S*")
_SENTENCE_END = re.compile(r"[.!?。！？…]+(?=[\s\"'”’」）)]|$)|[。！？]")
_LINE_ENDS = tuple(".!?\"'”’…。！？；：」』）")
_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
CHINESE_FROM = 0.3


class Page:
    """One document as the rules see it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def han(self) -> float:
        """The share of Chinese characters among the letters."""
        if self.text.isascii():
            return 0.0
        return len(_HAN.findall(self.text)) / max(1, len(_LETTER.findall(self.text)))

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in re.split(r"\n\s*\n", self.text) if part.strip()]

    @cached_property
    def characters(self) -> str:
        """All characters but white space."""
        return "".join(self.text.split())


# Gopher, section A.1.1: what a page of prose looks like
def words(page: Page, least: int = 50, most: int = 100_000) -> bool:
    """Between 50 and 100,000 words. Source: Gopher."""
    return least <= len(page.words) <= most


def word_length(page: Page, least: float = 3, most: float = 10) -> bool:
    """Words of 3 to 10 characters on average. Source: Gopher."""
    return least <= sum(map(len, page.words)) / max(1, len(page.words)) <= most


def symbols(page: Page, most: float = 0.1) -> bool:
    """At most one hash sign or ellipsis to ten words. Source: Gopher."""
    count = page.text.count("#") + page.text.count("...") + page.text.count("…")
    return count <= most * max(1, len(page.words))


def bullets(page: Page, most: float = 0.9) -> bool:
    """At most 90% of the lines begin with a bullet. Source: Gopher."""
    return sum(line[0] in "•‣-*●◦▪·" for line in page.lines) <= most * max(1, len(page.lines))


def ellipses(page: Page, most: float = 0.3) -> bool:
    """At most 30% of the lines end with an ellipsis. Source: Gopher."""
    return sum(line.endswith(("...", "…")) for line in page.lines) <= most * max(1, len(page.lines))


def letters(page: Page, least: float = 0.8) -> bool:
    """At least 80% of the words have a letter in them. Source: Gopher."""
    return len(_WORD_WITH_LETTER.findall(page.text)) >= least * len(page.words)


def stop_words(page: Page, least: int = 2) -> bool:
    """At least two of: the, be, to, of, and, that, have, with. For English only. Source: Gopher."""
    found: set[str] = set()
    for word in page.words:  # prose is through after a line
        bare = word.strip(".,;:!?\"'()").lower()
        if bare in _STOP_WORDS:
            found.add(bare)
            if len(found) >= least:
                return True
    return least <= 0


# Gopher, table A1: repetition within a document
def repeated_lines(page: Page, most: float = 0.3, characters: float = 0.2) -> bool:
    """At most 30% of the lines, and 20% of the characters, stand in lines that were there before. Source: Gopher, table A1."""
    return _repeated(page.lines, page.text, most, characters)


def repeated_paragraphs(page: Page, most: float = 0.3, characters: float = 0.2) -> bool:
    """The same of paragraphs. Source: Gopher, table A1."""
    return _repeated(page.paragraphs, page.text, most, characters)


def common_phrases(page: Page, two: float = 0.2, three: float = 0.18, four: float = 0.16) -> bool:
    """The commonest phrase of 2, 3, 4 words has at most 20%, 18%, 16% of the characters. Source: Gopher, table A1."""
    return all(_commonest(page.words, size) <= most * len(page.text) for size, most in ((2, two), (3, three), (4, four)))


def repeated_phrases(page: Page, five: float = 0.15, ten: float = 0.1) -> bool:
    """Phrases of 5 to 10 words that occur twice have at most 15% to 10% of the characters. Source: Gopher, table A1."""
    for size in range(5, 11):
        share = _covered(page.words, size) / max(1, len(page.text))
        if not share:
            return True  # no phrase of this size is there twice, so no longer one
        if share > five - (five - ten) * (size - 5) / 5:
            return False
    return True


# C4, section 2.2
def sentences(page: Page, least: int = 3) -> bool:
    """At least three sentences. Source: C4."""
    return len(_SENTENCE_END.findall(page.text)) >= least


def no_code(page: Page) -> bool:
    """No curly bracket: it stands in programs and hardly ever in prose. Source: C4."""
    return "{" not in page.text


def no_filler(page: Page) -> bool:
    """No "lorem ipsum". Source: C4."""
    return "lorem ipsum" not in page.text.lower()


# FineWeb, section 3.4
def line_ends(page: Page, least: float = 0.12) -> bool:
    """At least 12% of the lines end as a sentence does. Source: FineWeb."""
    return sum(line.endswith(_LINE_ENDS) for line in page.lines) >= least * len(page.lines)


def short_lines(page: Page, shorter: int = 30, most: float = 0.67) -> bool:
    """At most 67% of the lines have under 30 characters. Source: FineWeb."""
    return sum(len(line) < shorter for line in page.lines) <= most * len(page.lines)


# ChineseWebText, section 3: the same thoughts, in characters
def chinese_length(page: Page, least: int = 200) -> bool:
    """At least 200 characters. Source: ChineseWebText."""
    return len(page.characters) >= least


def chinese_lines(page: Page, least: float = 10) -> bool:
    """Lines of at least 10 characters on average. Source: ChineseWebText."""
    return len(page.characters) >= least * len(page.lines)


def chinese_share(page: Page, least: float = 0.3) -> bool:
    """At least 30% of the characters are Chinese ones. Source: ChineseWebText."""
    return len(_HAN.findall(page.text)) >= least * len(page.characters)


def chinese_repeated(page: Page, size: int = 13, most: float = 0.5) -> bool:
    """Runs of 13 characters that occur twice have at most 50% of the characters. Source: ChineseWebText."""
    return _covered(page.characters, size) <= most * max(1, len(page.characters))


def chinese_sentences(page: Page, least: int = 3) -> bool:
    """At least three sentences, by Chinese punctuation too. Source: C4, carried over."""
    return sentences(page, least)


@dataclass(frozen=True)
class Rule:
    """A rule by name, with the set it belongs to and the scripts it holds for: "any", "spaced" or "chinese"."""

    keeps: Callable[..., bool]
    set: str
    script: str = "any"


RULES = {
    "words": Rule(words, "gopher", "spaced"), "word_length": Rule(word_length, "gopher", "spaced"), "symbols": Rule(symbols, "gopher", "spaced"),
    "bullets": Rule(bullets, "gopher"), "ellipses": Rule(ellipses, "gopher"), "letters": Rule(letters, "gopher", "spaced"),
    "stop_words": Rule(stop_words, "gopher", "english"), "repeated_lines": Rule(repeated_lines, "repetition"),
    "repeated_paragraphs": Rule(repeated_paragraphs, "repetition"), "common_phrases": Rule(common_phrases, "repetition", "spaced"),
    "repeated_phrases": Rule(repeated_phrases, "repetition", "spaced"), "sentences": Rule(sentences, "c4", "spaced"), "no_code": Rule(no_code, "c4"),
    "no_filler": Rule(no_filler, "c4"), "line_ends": Rule(line_ends, "fineweb"), "short_lines": Rule(short_lines, "fineweb", "spaced"),
    "chinese_length": Rule(chinese_length, "chinese", "chinese"), "chinese_lines": Rule(chinese_lines, "chinese", "chinese"),
    "chinese_share": Rule(chinese_share, "chinese", "chinese"), "chinese_repeated": Rule(chinese_repeated, "chinese", "chinese"),
    "chinese_sentences": Rule(chinese_sentences, "chinese", "chinese"),
}  # fmt: skip
"""Every rule. "english" ones are asked only of texts found to be English."""
SETS = tuple(dict.fromkeys(rule.set for rule in RULES.values()))


def parse(text: str | None) -> dict[str, Callable[[Page], bool]]:
    """The rules that a list of names and sets means, in the order of RULES; an option of one is written words:least=20.

    Raises: OptionError for an unknown rule, set or option.

    >>> list(parse("c4,words:least=20"))
    ['words', 'sentences', 'no_code', 'no_filler']
    """
    told: dict[str, dict[str, float]] = {}
    for part in (part.strip() for part in (text or "").split(",")):
        name, options = split_choice(part)
        if name in ("", "none"):
            continue
        if name not in RULES and (name not in SETS or options):
            raise unknown("rule", name, [*RULES, *SETS])
        for rule in [name] if name in RULES else [each for each in RULES if RULES[each].set == name]:
            told[rule] = {**told.get(rule, {}), **_options(rule, options)}
    return {name: partial(RULES[name].keeps, **told[name]) for name in RULES if name in told}


def failed(page: Page, rules: dict[str, Callable[[Page], bool]], language: str) -> str | None:
    """The first rule that says no, or None."""
    script = "chinese" if page.han >= CHINESE_FROM or language == "zh" else "spaced"
    for name, keeps in rules.items():
        holds = RULES[name].script in ("any", script) or (RULES[name].script == "english" and language == "en")
        if holds and not keeps(page):
            return name
    return None


def _options(rule: str, options: dict[str, str]) -> dict[str, float]:
    known = [name for name in inspect.signature(RULES[rule].keeps).parameters if name != "page"]
    for name in options:
        if name not in known:
            raise unknown(f"rule {rule!r} option", name, known)
    return {name: convert(value, float, f"rule {rule}: {name}") for name, value in options.items()}


def _repeated(parts: Sequence[str], text: str, most: float, characters: float) -> bool:
    seen: set[str] = set()
    count = size = 0
    for part in parts:
        if part in seen:
            count, size = count + 1, size + len(part)
        seen.add(part)
    return count <= most * max(1, len(parts)) and size <= characters * max(1, len(text))


def _commonest(tokens: Sequence[str], size: int) -> int:
    """How many characters the commonest run of tokens has in all, spaces not counted; 0 where none occurs twice."""
    counts = Counter(zip(*(tokens[at:] for at in range(size))))
    run, count = counts.most_common(1)[0] if counts else ((), 0)
    return count * sum(map(len, run)) if count > 1 else 0


def _covered(tokens: Sequence[str], size: int) -> int:
    """How many characters stand in runs of tokens that occur before or after too; one in two such runs is counted once."""
    runs = list(zip(*(tokens[at:] for at in range(size))))
    counts, covered, upto = Counter(runs), 0, 0
    if len(counts) == len(runs):
        return 0
    for at, run in enumerate(runs):
        if counts[run] > 1:
            covered += sum(map(len, tokens[max(at, upto) : at + size]))
            upto = at + size
    return covered
