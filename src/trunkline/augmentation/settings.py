"""Every option of `augment` with its default: the flags and the documents derive from here. Light: without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trunkline.choices import between
from trunkline.errors import OptionError, unknown

METHODS = ("eda", "aeda", "keyboard", "ocr", "homophone", "synonym", "neighbour", "masked", "translate", "paraphrase")


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class AugmentSettings:
    """How new rows are made, and which of them are let in."""

    methods: str = _say("aeda,neighbour", f"how new texts are made, with commas between: {', '.join(METHODS)}")
    copies: int = _say(1, "new rows from each row, by each method; less where the filter lets fewer in")
    share: float = _say(0.15, "about how much of a text is changed")
    meaning: float | None = _say(
        None, "smallest cosine of a new row's states to its origin's; none: as near as rows of one label usually are"
    )
    branch: str | None = _say(None, "folder of a branch that must give a new row the label of its origin")
    there: str | None = _say(None, "for translate: folder of a branch into another language")
    back: str | None = _say(None, "for translate: folder of a branch back from it")
    writer: str | None = _say(None, "for paraphrase: folder of a branch that writes a text anew")
    folds: int = _say(5, "parts that are held out in turn to measure the gain; 0: it is not measured")
    validation: float = _say(0.1, "share of rows for validation, of which nothing is made")
    test: float = _say(0.2, "share of rows for test, of which nothing is made")
    split: str = _say("auto", "how rows are divided, as for tune")
    seed: int = _say(0, "the same seed gives the same rows")

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        if not self.names:
            raise OptionError(f"methods={self.methods!r}: name at least one of {', '.join(METHODS)}.")
        between("copies", self.copies, 1, 100)
        between("share", self.share, 0.01, 1)
        if self.folds:
            between("folds", self.folds, 2, 20)
        for method, needed in (("translate", (self.there, self.back)), ("paraphrase", (self.writer,))):
            if method in self.names and None in needed:
                raise OptionError(
                    f"method {method!r} needs {'there and back' if len(needed) == 2 else 'writer'}: folders of branches that write."
                )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.strip() for part in self.methods.split(",") if part.strip()))
