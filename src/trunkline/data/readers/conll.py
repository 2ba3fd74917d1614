"""Files in which every line is a word and its tag, and a blank line ends the sentence (CoNLL and its many kin), read and written.

Any number of columns, separated by a tab or by spaces: which of the two is found, and so is the scheme of the tags (tagging.py). The first
column is the word and the last one the tag, unless told. Lines that begin with -DOCSTART- are passed over. Two files side by side, words in
`seq.in` and tags in `seq.out` with a sentence a line, are read too: give their folder, or `seq.in`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from trunkline.data.columns import Columns
from trunkline.data.decode import Encoding, find_encoding, open_text
from trunkline.data.delimited import MAX_CELL, MAX_LINE
from trunkline.data.formats import Form
from trunkline.data.readers.spans import clean
from trunkline.data.table import Records, Table
from trunkline.data.tagging import Facts, covered, join_words, parts_of, spans_of, tags_of, words_of
from trunkline.errors import DataError, OptionError
from trunkline.storage import write_file
from trunkline.types import Problem, Row

ENDINGS = (".conll", ".conll03", ".conllu", ".bio", ".iob", ".iob2", ".bioes", ".bilou", ".bmes", ".bmeo")
"""These are always read as columns; .txt, .tsv and .csv are where they look like it."""
_PERHAPS = (".txt", ".tsv", ".csv", ".data", ".train", ".dev", ".test")
_DOCUMENT = "-DOCSTART-"
_PAIR = ("seq.in", "seq.out")
_SAMPLE = 500  # lines
_LONGEST = 100_000  # lines of one sentence


def is_columns(path: Path, told: str | None = None) -> bool:
    """Whether a file is of this form: by its ending, or because the last column of nearly all its first lines is a tag."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes[-1:] and suffixes[-1] in ENDINGS:
        return True
    if not path.is_file() or not path.stat().st_size or (suffixes and suffixes[-1] not in _PERHAPS):
        return False
    with open_text(path, find_encoding(path, told)) as stream:
        lines = [line.rstrip() for line in islice(_lines(stream), _SAMPLE)]
    cells = [_cells(line, "\t" if "\t" in line else None) for line in lines if line and not line.startswith(_DOCUMENT)]
    return len(cells) > 1 and sum(len(row) > 1 and _is_tag(row[-1]) for row in cells) > 0.9 * len(cells)


def read_columns(
    path: Path, encoding: Encoding, *, separator: str | None = None, word: int = 0, tag: int | None = -1, scheme: str | None = None
) -> Table:
    """The table of a column file: one record a sentence, with `text`, `words` and `label` ([start, end, type] by characters).

    word, tag: which column, counted from 0 (from the end when negative); tag None reads words alone
    Raises: DataError for a file without lines, or whose tags are of no scheme; OptionError for a column that is not there.
    """
    layout = _Layout.of(path, encoding, separator, word, tag)
    scheme = scheme or (_scheme_of(path, encoding, layout) if tag is not None else "bio")
    notes = [f"Tags are read as {scheme}."] if tag is not None else []
    return Table(
        str(path), ("text", "words", "label")[: 2 + (tag is not None)], _sentences(path, encoding, layout, scheme, notes), notes=notes
    )


def read_pair(folder: Path, encoding: str | None = None) -> Table:
    """The table of `seq.in` and `seq.out` in a folder: a sentence a line, its words in one, its tags in the other, divided by spaces."""
    paths = [folder / name for name in _PAIR]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Words in {_PAIR[0]} and tags in {_PAIR[1]} are read side by side.")
    lines = [_all_lines(path, encoding) for path in paths]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{folder}: {_PAIR[0]} has {len(lines[0]):,} lines and {_PAIR[1]} {len(lines[1]):,}. Give two files that belong together."
        )
    facts = Facts()
    for line in lines[1]:
        facts.add(line.split())
    scheme = _scheme(str(paths[1]), facts)
    notes = [f"Words are those of {_PAIR[0]}, tags those of {_PAIR[1]}, read as {scheme}."]
    return Table(str(paths[0]), ("text", "words", "label"), _pairs(str(paths[0]), lines, scheme, notes), notes=notes)


def open_tagged(source: Any, form: Form, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns] | None:
    """The table of a path to one of these forms and its columns, or None for whatever is another form (which `formats` and `spans` then read).

    A column that is told as text or label is a number here, from 0. Raises: DataError, OptionError.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    columns = replace(told, text="text", label="label" if labelled or told.label else None)
    if (path / _PAIR[0]).is_file() or path.name == _PAIR[0]:
        return read_pair(path.parent if path.name == _PAIR[0] else path, form.encoding), columns
    if not path.is_file() or not is_columns(path, form.encoding):
        return None
    word, tag = (_number(name, value) for name, value in (("text", told.text), ("label", told.label)))
    tag = tag if tag is not None else -1 if labelled else None
    return read_columns(path, find_encoding(path, form.encoding), separator=form.separator, word=word or 0, tag=tag), columns


def write(rows: Iterable[Row], path: str | os.PathLike[str], *, scheme: str = "bio", separator: str = "\t") -> Path:
    """Write rows as a column file: a word and its tag on each line, a blank line behind each sentence.

    A word that an entity begins or ends in is divided there, so that reading the file gives the same entities.
    Raises: OptionError for an unknown scheme, or a separator that the words hold.
    """
    if separator not in ("\t", " "):
        raise OptionError(f"separator={separator!r}: use a tab or a space.")
    parts = []
    for row in rows:
        spans = row.get("label") or ()
        words = _divided(words_of(row), {at for start, end, _ in spans for at in (start, end)})
        tags = tags_of(covered(spans, words), len(words), scheme)
        for (start, end), tag in zip(words, tags):
            word = row["text"][start:end]
            if separator in word or not word.split() or len(word.splitlines()) > 1:
                raise OptionError(
                    f"separator={separator!r}: the word {word[:40]!r} cannot be written with it. Use the other one, or other words."
                )
            parts.append(f"{word}{separator}{tag}\n")
        parts.append("\n")
    write_file(Path(path), "".join(parts).encode("utf-8", "surrogatepass"))
    return Path(path)


@dataclass(frozen=True)
class _Layout:
    """How the lines of one file are cut: at a tab or (None) at white space; how many columns; which are word and tag."""

    separator: str | None
    width: int
    word: int
    tag: int | None

    @classmethod
    def of(cls, path: Path, encoding: Encoding, separator: str | None, word: int, tag: int | None) -> _Layout:
        with open_text(path, encoding) as stream:
            lines = [line.rstrip("\r\n") for line in islice(_lines(stream), 20 * _SAMPLE)]
        lines = [line for line in lines if line.strip() and not line.startswith(_DOCUMENT)][:_SAMPLE]
        if not lines:
            raise DataError(
                f"{path}: the file has no line with a word and a tag. Write one word a line, and a blank line behind each sentence."
            )
        if separator is None and sum("\t" in line for line in lines) > len(lines) // 2:
            separator = "\t"
        widths = Counter(len(_cells(line, separator)) for line in lines)
        width = widths.most_common(1)[0][0]
        for name, column in (("text", word), ("label", tag)):
            if column is not None and not -width <= column < width:
                raise OptionError(f"{name}={column}: {path} has {width} columns. Use 0 to {width - 1}.")
        if tag is not None and word % width == tag % width:
            raise DataError(
                f"{path}: its lines have one column ({lines[0][:60]!r}), and a word and a tag are needed. Give separator= if they are cut elsewhere."
            )
        return cls(separator, width, word, tag)

    def tells_a_tag(self, cells: Sequence[str]) -> bool:
        return self.tag is not None and len(cells) == self.width and _is_tag(cells[self.tag])


def _cells(line: str, separator: str | None) -> list[str]:
    if separator in (None, " "):  # not split(): a no-break space may be part of a word
        return [cell for cell in line.replace("\t", " ").split(" ") if cell]
    return [cell.strip() for cell in line.split(separator)]


def _lines(stream: Any) -> Iterator[str]:
    """Lines, the end of an overlong one cut off: it is then told of where it stands."""
    while line := stream.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and line[-1] not in "\r\n":
            line = stream.readline(MAX_LINE)


def _all_lines(path: Path, encoding: str | None) -> list[str]:
    with open_text(path, find_encoding(path, encoding)) as stream:
        lines = [line.rstrip("\r\n") for line in _lines(stream)]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _is_tag(cell: str) -> bool:
    try:
        parts_of(cell)
    except ValueError:
        return False
    return True


def _blocks(path: Path, encoding: Encoding, layout: _Layout) -> Generator[tuple[int, list[tuple[int, list[str]]]], None, None]:
    """Line number and cells of every line of each sentence; comments and -DOCSTART- lines are passed over."""
    block: list[tuple[int, list[str]]] = []
    with open_text(path, encoding) as stream:
        for number, line in enumerate(_lines(stream), 1):
            line = line.rstrip("\r\n")
            if not line.strip() or line.startswith(_DOCUMENT):
                if block:
                    yield block[0][0], block
                block = []
                continue
            cells = _cells(line, layout.separator)
            if block or not line.startswith("#") or layout.tells_a_tag(cells):  # else a comment above the sentence
                block.append((number, cells))
            if len(block) > _LONGEST:
                raise DataError(f"{path}:{block[0][0]}: no blank line in {_LONGEST:,} lines. Write one behind each sentence.")
    if block:
        yield block[0][0], block


def _scheme_of(path: Path, encoding: Encoding, layout: _Layout) -> str:
    facts = Facts()
    for _, block in _blocks(path, encoding, layout):
        facts.add(cells[layout.tag] for _, cells in block if len(cells) == layout.width)  # type: ignore[index]
    return _scheme(str(path), facts)


def _scheme(name: str, facts: Facts) -> str:
    try:
        return facts.scheme()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _sentences(path: Path, encoding: Encoding, layout: _Layout, scheme: str, notes: list[str]) -> Records:
    found = _Repairs(str(path), scheme)
    with closing(_blocks(path, encoding, layout)) as blocks:
        for line, block in blocks:
            odd = next(((n, cells) for n, cells in block if len(cells) != layout.width), None)
            if odd is not None:
                yield Problem(str(path), odd[0], " ".join(odd[1])[:80], f"has {len(odd[1])} columns, and {layout.width} are expected")
                continue
            tags = None if layout.tag is None else [cells[layout.tag] for _, cells in block]
            yield found.record(line, [cells[layout.word] for _, cells in block], tags)
    notes.extend(found.notes())


def _pairs(name: str, lines: Sequence[Sequence[str]], scheme: str, notes: list[str]) -> Records:
    found = _Repairs(name, scheme)
    for number, (words, tags) in enumerate(zip(*lines), 1):
        if words.strip() or tags.strip():
            yield found.record(number, _cells(words, None), tags.split())
    notes.extend(found.notes())


@dataclass
class _Repairs:
    """Makes records of words and tags, and counts the tags that were not legal."""

    name: str
    scheme: str
    count: int = 0
    first: int = 0

    def record(self, line: int, words: list[str], tags: list[str] | None) -> tuple[int, dict[str, Any]] | Problem:
        try:
            return line, self._made(line, words, tags)
        except ValueError as error:
            return Problem(self.name, line, " ".join(words)[:80], str(error))

    def _made(self, line: int, words: list[str], tags: list[str] | None) -> dict[str, Any]:
        if tags is not None and len(words) != len(tags):
            raise ValueError(f"has {len(words)} words and {len(tags)} tags")
        words = [clean(word).strip() for word in words]
        if not all(words):
            raise ValueError("has a word with nothing in it")
        if sum(map(len, words)) > MAX_CELL:
            raise ValueError(f"has more than {MAX_CELL:,} characters: no blank line ends the sentence")
        text, offsets = join_words(words)
        made: dict[str, Any] = {"text": text, "words": [list(word) for word in offsets]}
        if tags is None:
            return made
        spans, repairs = spans_of(tags, self.scheme)
        if repairs and not self.count:
            self.first = line
        self.count += repairs
        return made | {"label": [[offsets[start][0], offsets[end - 1][1], kind] for start, end, kind in spans]}

    def notes(self) -> Iterator[str]:
        if self.count:
            yield f"{self.count:,} tags are not legal in {self.scheme} and were read as well as could be (the first sentence at {self.first})."


def _divided(words: Sequence[tuple[int, int]], borders: set[int]) -> list[tuple[int, int]]:
    """The words, cut in two wherever a border lies inside one."""
    found: list[tuple[int, int]] = []
    for start, end in words:
        inner = [start, *sorted(at for at in borders if start < at < end), end]
        found += pairwise(inner)
    return found


def _number(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not value.lstrip("-").isdigit():
        raise OptionError(f"{name}={value!r}: the columns of this file have no names. Give a number, 0 for the first one.")
    return int(value)
