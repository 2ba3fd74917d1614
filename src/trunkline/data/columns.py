"""Which column is the text, which the label: as told, or guessed by name and then by content, and said.

Takes a `Table` and its first records; what comes out goes to `cells`. Nothing is guessed for `id`, `group` and `time`:
a wrong guess there would change the split without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trunkline.data.table import Record, Table
from trunkline.errors import DataError, unknown
from trunkline.types import Problem

TEXT = """text sentence content review query utterance message question title body comment document input txt text_a sentence1
    文本 内容 句子 评论 正文 问题 标题 原文 语句""".split()  # noqa: SIM905
LABEL = """label labels category intent class target stars rating sentiment emotion topic tag tags label_text y score
    标签 类别 分类 意图 情感 类型 标注 分数""".split()  # noqa: SIM905
NUMBER = "score label rating target value similarity stars y label_score 分数 得分 评分 标签 相似度".split()  # noqa: SIM905
PAIRS = (
    *(("sentence1", "sentence2"), ("text_a", "text_b"), ("text1", "text2"), ("sentence_a", "sentence_b")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("文本1", "文本2"), ("句子1", "句子2")),
)
SPLITS = {"train": "train", "dev": "validation", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_LONG_NAME = 40  # characters; a column name seldom has more, a text mostly does


@dataclass(frozen=True)
class Columns:
    """The column of each field of a row; None where there is none (or, before `choose`, where it was not told)."""

    text: str | None = None
    label: str | None = None
    text_b: str | None = None
    id: str | None = None
    group: str | None = None
    time: str | None = None
    split: str | None = None

    def told(self) -> dict[str, str]:
        """Field to column, without the absent ones."""
        return {name: column for name, column in asdict(self).items() if column is not None}


def choose(table: Table, sample: Sequence[Record | Problem], told: Columns, *, number: bool, labelled: bool) -> Columns:
    """The columns to read; what was guessed is said in `table.notes`.

    number: the label is a number (regression); labelled: a label is needed
    Raises: OptionError for a column that is not there; DataError when nothing fits, or the header looks like a row of data.
    """
    rows = [record[1] for record in sample if not isinstance(record, Problem)]
    there = table.columns or tuple(dict.fromkeys(key for row in rows for key in row))
    if not there:
        raise DataError(f"{table.name}: no rows. Give at least two rows per class.")
    needs = [told.text, told.label] if labelled else [told.text]
    if table.header and not all(name in there for name in needs):
        _refuse_header(table, next((name for name in table.columns if _is_number(name) or len(name) > _LONG_NAME), None))
    for name in told.told().values():
        if name not in there:
            raise unknown(f"{table.name}: column", name, there)
    chosen = _guess(told, there, rows, number, labelled)
    for field, column in (("text", chosen.text), ("label", chosen.label)):
        if column is None and (field == "text" or labelled):
            raise DataError(
                f"{table.name}: no column looks like the {field}. Say which one: {field}=NAME. There are: {', '.join(there)[:400]}."
            )
    for name in chosen.told().values():
        if there.count(name) > 1:
            raise DataError(f"{table.name}: the header has the column {name!r} {there.count(name)} times. Rename all but one.")
    if table.header and chosen.label and told.label is None and any(row.get(chosen.label) == chosen.label for row in rows):
        _refuse_header(table, chosen.label)  # a first line such as "great film<tab>positive"
    _say(table, told, chosen)
    if chosen.id is None and "id" in there:
        table.notes.append("The column 'id' is not used; give id='id' to have repeated ids checked.")
    return chosen


def _guess(told: Columns, there: Sequence[str], rows: list[dict[str, Any]], number: bool, labelled: bool) -> Columns:
    free = [name for name in dict.fromkeys(there) if name not in told.told().values()]
    lower = {name.casefold(): name for name in reversed(free)}
    chosen = told
    if chosen.text is None and chosen.text_b is None:
        pair = next((pair for pair in PAIRS if all(name in lower for name in pair)), None)
        if pair:
            chosen = replace(chosen, text=lower[pair[0]], text_b=lower[pair[1]])
    if chosen.split is None and _is_split(free, lower, rows):
        chosen = replace(chosen, split=lower["split"])
    if chosen.label is None and labelled:
        named = next((lower[name] for name in (NUMBER if number else LABEL) if name in lower), None)
        chosen = replace(chosen, label=named)
    if chosen.text is None:
        taken = chosen.told().values()
        named = next((lower[name] for name in TEXT if name in lower and lower[name] not in taken), None)
        chosen = replace(chosen, text=named or _longest([name for name in free if name not in taken], rows))
    if chosen.label is None and labelled:
        left = [name for name in free if name not in chosen.told().values()]
        chosen = replace(chosen, label=_numeric(left, rows) if number else _fewest(left, rows))
    return chosen


def _is_split(free: Sequence[str], lower: dict[str, str], rows: list[dict[str, Any]]) -> bool:
    values = [row.get(lower["split"]) for row in rows] if "split" in lower else []
    return bool(values) and all(isinstance(value, str) and value.casefold() in SPLITS for value in values)


def _longest(names: Sequence[str], rows: list[dict[str, Any]]) -> str | None:
    """The column with the longest texts on average, if they are texts at all: three characters or more."""
    means = {}
    for name in names:
        values = [row[name] for row in rows if isinstance(row.get(name), str)]
        if values and not all(_is_number(value) for value in values):
            means[name] = sum(map(len, values)) / len(rows)
    best = max(means, key=lambda name: means[name], default=None)
    return best if best is not None and means[best] >= 3 else None


def _fewest(names: Sequence[str], rows: list[dict[str, Any]]) -> str | None:
    """The column with the fewest different values, if there are two or more and they repeat."""
    counts = {}
    for name in names:
        values = [str(row[name]) for row in rows if row.get(name) not in (None, "")]
        if 2 <= len(set(values)) <= max(3, len(values) // 2) and len(set(values)) < len(values):
            counts[name] = len(set(values))
    return min(counts, key=lambda name: counts[name], default=None)


def _numeric(names: Sequence[str], rows: list[dict[str, Any]]) -> str | None:
    """The one column that holds numbers; None when there are several to choose from."""
    found = [name for name in names if rows and all(_is_number(row.get(name)) for row in rows)]
    return found[0] if len(found) == 1 else None


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def _refuse_header(table: Table, odd: str | None) -> None:
    if odd is not None:
        raise DataError(
            f"{table.name}:1: the first line should name the columns, and {odd[:80]!r} looks like data. If the file has no header: "
            "header=False (--no-header), and the columns are called '0', '1', ... If it is a header, give text= and label=. "
            "If the columns were split at the wrong place, give separator=."
        )


def _say(table: Table, told: Columns, chosen: Columns) -> None:
    before = told.told()
    guessed = [f"{field} = column {column!r}" for field, column in chosen.told().items() if field not in before and field != "split"]
    if guessed:
        table.notes.append(f"Guessed: {', '.join(guessed)}. To choose, give {' and '.join(g.split()[0] for g in guessed)} yourself.")
    if chosen.split and "split" not in before:
        table.notes.append("The column 'split' says which rows are train, validation and test; split by='given' follows it.")
