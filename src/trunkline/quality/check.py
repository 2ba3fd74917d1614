"""The verb `check`: what is wrong with data, row by row, and what could be done about it. Nothing is changed.

Without vectors it looks at the texts and labels alone (no model, no torch); with `quality.vectors.vectors(rows, against)` also at what the texts mean.
Each kind of finding is a function in `sections`, which gives a `Section`; `page` shows them, `changes` turns them into a file that a person decides on.
"""

from __future__ import annotations

from trunkline.data import quality
from trunkline.data.quality import Finding
from trunkline.data.split import Split
from trunkline.errors import OptionError
from trunkline.quality.duplicates import Vectors
from trunkline.quality.found import Checked
from trunkline.quality.material import Material
from trunkline.quality.sections import sections
from trunkline.types import Rows


def check(data: Rows | Split, vectors: Vectors | None = None, *, against: Rows | None = None, seed: int = 0) -> Checked:
    """What is wrong with rows: copies, leaks into the rows they will be measured on, labels that contradict others, odd texts, personal data, ...

    against: the rows to measure on; of a split it is what is not train
    vectors: of these rows and of `against`, from `quality.vectors.vectors`; without them only what needs no model
    Raises: OptionError where the vectors are not those of the rows, or a split comes with `against`.

    >>> rows = ({"text": "Where is it?", "label": "a"}, {"text": "where is it", "label": "a"}, {"text": "Refund me", "label": "b"})
    >>> check(Rows(rows, "classify")).section("duplicates").count
    1
    """
    rows, other = _sides(data, against)
    if vectors is not None and (len(vectors.rows), len(vectors.against)) != (len(rows), len(other)):
        raise OptionError(
            f"vectors of {len(vectors.rows):,} and {len(vectors.against):,} rows: there are {len(rows):,}, and {len(other):,} to compare with. "
            "Make them of the same rows, in the same order."
        )
    noticed = (*quality.check(data), *_left_out(vectors))
    if not rows:
        return Checked(rows, other, (), noticed, vectors)
    job = Material(rows, other, vectors, seed)
    found = [section for section in sections(job) if section.count]
    found.sort(key=lambda one: ("error", "warning", "note").index(one.level))
    return Checked(rows, other, tuple(found), noticed, vectors, job.suspects if job.is_judge else None)


def _left_out(vectors: Vectors | None) -> list[Finding]:
    words = vectors.words if vectors is not None else ()
    looked = sum(one is not None for one in words)
    if looked == len(words):
        return []
    return [
        Finding(
            "note",
            f"labels of words were looked at in {looked:,} of {len(words):,} rows, drawn by chance: all would be too many",
            (),
            "for the others check a part of the rows at a time",
        )
    ]


def _sides(data: Rows | Split, against: Rows | None) -> tuple[Rows, Rows]:
    if isinstance(data, Rows):
        return data, against if against is not None else Rows((), data.task)
    if against is not None:
        raise OptionError("against: a split has its own rows to measure on. Give the rows alone, or leave against out.")
    return data.train, Rows((*data.validation, *data.test), data.train.task, data.test.source)
