"""Other words for a word: from WordNet's files, or the nearest words in a model's embedding."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trunkline.augmentation.units import HAN
from trunkline.errors import DataError
from trunkline.model.backbone import Backbone

_PLACES = ("/usr/share/wordnet", "/usr/share/wordnet/dict", "/usr/local/share/wordnet")
_PARTS = ("noun", "verb", "adj", "adv")
_KEPT = frozenset(
    re.findall(
        r"\w+",
        "a an the i you he she it we they me him her us them my your his its our their this that these those is am are was were be been do does did "
        "have has had will would can could should may might must not no nor and or but if of in on at to for from with by as so than too very",
    )
)
"""Words that have no synonym that fits where they stand."""


class WordNet:
    """Synonyms of English words. Needs WordNet 3's files (Debian: wordnet-base), or the folder that TRUNKLINE_WORDNET names.

    Words of one synset that are a single word each. Forms are not bent: a plural has the synonyms that its own spelling has, often none.
    Raises: DataError where there are no files.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        named = [folder or os.environ.get("TRUNKLINE_WORDNET") or ""]
        found = next((Path(place) for place in (*named, *_PLACES) if place and (Path(place) / "data.noun").is_file()), None)
        if found is None:
            raise DataError(
                "synonyms from WordNet need its files (data.noun, data.verb, ...). Install Debian's wordnet-base, or name their folder in "
                "TRUNKLINE_WORDNET; the method 'neighbour' needs none."
            )
        self._synsets: dict[str, list[tuple[str, ...]]] = {}
        for part in _PARTS:
            for line in (found / f"data.{part}").read_text(encoding="utf-8").splitlines() if (found / f"data.{part}").is_file() else ():
                self._add(line)

    def __call__(self, word: str) -> list[str]:
        word = word.lower()
        if word in _KEPT:
            return []
        return sorted({other for synset in self._synsets.get(word, ()) for other in synset} - {word})

    def _add(self, line: str) -> None:
        """A line of a data file: offset, file number, type, count (hexadecimal), then word and number, ... (Source: wndb(5WN))."""
        parts = line.split(" ")
        if line.startswith("  ") or len(parts) < 5:
            return
        words = [parts[4 + 2 * at].split("(")[0].lower() for at in range(int(parts[3], 16))]
        synset = tuple(one for one in words if "_" not in one)
        for one in synset if len(synset) > 1 else ():
            self._synsets.setdefault(one, []).append(synset)


class Neighbours:
    """The words whose embeddings in a model are nearest to a word's: English and Chinese, and in a model's own sense of near.

    Near there is not the same in meaning: "north" is near "south". What goes wrong the meaning filter and the label check should see.
    k: how many; least: smallest cosine
    """

    def __init__(self, backbone: Backbone, k: int = 8, least: float = 0.5) -> None:
        embedding: Any = backbone.model.get_input_embeddings()  # type: ignore[operator]
        table = embedding.weight.detach().float().cpu().numpy()
        self._tokenizer, self._k, self._least = Tokenizer.from_file(str(backbone.folder / "tokenizer.json")), k, least
        self._words, self._ids = self._vocabulary(table.shape[0])
        unit = table[self._ids]
        unit = unit - unit.mean(0)
        self._unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        self._place = {one: at for at, one in enumerate(self._words)}
        self._known: dict[str, list[str]] = {}

    def __call__(self, word: str) -> list[str]:
        word = word.lower()
        if word in _KEPT or word not in self._place:
            return []
        if word not in self._known:
            at = self._place[word]
            scores = self._unit @ self._unit[at]
            near = np.argsort(-scores)[: self._k + 8]
            chosen = [self._words[one] for one in near if one != at and scores[one] >= self._least and _alike(word, self._words[one])]
            self._known[word] = chosen[: self._k]
        return self._known[word]

    def _vocabulary(self, size: int) -> tuple[list[str], np.ndarray]:
        """The tokens that are whole words of letters, without the marks that tokenizers put on them."""
        words: dict[str, int] = {}
        for number in range(size):
            token = self._tokenizer.id_to_token(number) or ""
            plain = token.removeprefix("▁").removeprefix("Ġ")
            whole = not token.startswith("##") and (plain != token or self._marks_parts or HAN.fullmatch(plain))
            if whole and plain.isalpha() and plain == plain.lower() and (len(plain) > 2 or HAN.match(plain)):
                words.setdefault(plain, number)
        return list(words), np.fromiter(words.values(), dtype=np.int64)

    @property
    def _marks_parts(self) -> bool:
        """Whether this vocabulary marks what goes on within a word (##), so that all others begin one."""
        return self._tokenizer.token_to_id("##s") is not None


def _alike(word: str, other: str) -> bool:
    """Of one script, and not merely the word's own plural or another ending."""
    if bool(HAN.match(word)) != bool(HAN.match(other)) or (word.isascii() != other.isascii()):
        return False
    return bool(HAN.match(word)) or not (other.startswith(word) or word.startswith(other))
