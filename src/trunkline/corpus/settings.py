"""Every option of `clean` with its default: the flags and the documents derive from here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trunkline.choices import between, one_of
from trunkline.corpus.rules import parse
from trunkline.data.personal import KINDS
from trunkline.errors import OptionError, unknown

REPAIRS = ("unicode", "markup", "boilerplate")
DIVISIONS = ("paragraph", "line", "file")
FORMS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "txt")


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CleanSettings:
    """What `clean` is told. Values that are lists are written with commas, and "none" is the empty list."""

    text: str = _say("text", "field or column with the text; the other fields of a document stay beside it")
    divide: str = _say("paragraph", "what a document of a .txt file is: a paragraph (parted by blank lines), a line, or the file")
    encoding: str = _say("utf-8", "encoding of the text files; a document that is not in it is dropped and counted")
    repair: str = _say("unicode,markup,boilerplate", "what is repaired in a text, or none")
    languages: str | None = _say(None, "keep these languages only, for example en,zh")
    rules: str | None = _say(
        "gopher,repetition,c4,fineweb,chinese", "quality rules by name or set, with options as in words:least=20, or none"
    )
    personal: str = _say("mask", "what is done about personal data: mask, drop (the document), or keep")
    personal_kinds: str = _say(",".join(KINDS), "which personal data")
    toxic_words: str | None = _say("embedded", "drop a document with several words of this list: embedded, a file with one a line, or none")
    near: float = _say(0.8, "Jaccard index from which two documents are near-duplicates; 1: only exact ones are dropped")
    quality_branch: str | None = _say(None, "folder of a branch that says how good a text is")
    quality_label: str | None = _say(None, "its label that means good; the last one where not given")
    keep_above: float = _say(0.5, "keep what the quality branch gives at least this probability of being good")
    toxicity_branch: str | None = _say(None, "folder of a branch that says whether a text is toxic")
    toxicity_label: str | None = _say(None, "its label that means toxic; the last one where not given")
    drop_above: float = _say(0.5, "drop what the toxicity branch gives at least this probability of being toxic")
    domain: str | None = _say(None, "field that says where a document is from (of an address, its host), or file")
    domain_most: float | None = _say(None, "the largest share of the result that one domain may have")
    form: str = _say("jsonl", f"what is written: {', '.join(FORMS)}")
    samples: int = _say(5, "how many dropped documents are kept to look at, for each reason")
    workers: int = _say(1, "processes; the result is the same for any number")
    seed: int = _say(0, "for the hash functions and for which documents of a large domain stay")

    def __post_init__(self) -> None:
        one_of("divide", self.divide, DIVISIONS)
        one_of("personal", self.personal, ("mask", "drop", "keep"))
        one_of("form", self.form, FORMS)
        self.repairs, self.kinds, parse(self.rules)
        between("near", self.near, 0.5, 1)
        between("keep_above", self.keep_above, 0, 1)
        between("drop_above", self.drop_above, 0, 1)
        between("workers", self.workers, 1, 256)
        between("samples", self.samples, 0, 1000)
        if self.domain_most is not None:
            between("domain_most", self.domain_most, 0.001, 1)
            if self.domain is None:
                raise OptionError("domain_most needs domain: the field that says where a document is from, or 'file'.")
        try:
            parted = "\n".encode(self.encoding) == b"\n"
        except LookupError as error:
            raise OptionError(f"encoding={self.encoding!r}: unknown. Use for example utf-8 or gb18030.") from error
        if not parted:
            raise OptionError(f"encoding={self.encoding!r}: its line ends are more than one byte. Convert the files to utf-8 first.")

    @property
    def repairs(self) -> tuple[str, ...]:
        return _listed("repair", self.repair, REPAIRS)

    @property
    def kinds(self) -> tuple[str, ...]:
        return _listed("personal_kinds", self.personal_kinds, KINDS)

    @property
    def wanted_languages(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in (self.languages or "").split(",") if part.strip())

    def to_json(self) -> dict[str, Any]:
        """What decides the result: all but the number of workers."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}


def _listed(name: str, value: str | None, allowed: Any) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in (value or "").split(",") if part.strip() not in ("", "none"))
    for part in parts:
        if part not in allowed:
            raise unknown(name, part, allowed)
    return parts
