"""Templates of prompts: plain files with named fields and no code. The first stage of prompting: a row becomes a text.

    version: 1
    instruction: Say whether the review is positive or negative.
    form: "Review: {text}\\nSentiment: {label}"
    labels: {"0": negative, "1": positive}

A form is what a demonstration looks like; what stands before {label} is what the model reads of the row that is asked about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trunkline.data.options import read_options
from trunkline.errors import DataError, OptionError, unknown
from trunkline.evaluation.wording import language_of
from trunkline.types import Row

FORMAT = 1
FIELDS = ("text", "text_b", "label")
_FIELD = re.compile(r"\{(\w*)\}")
_LISTED = 30
"""Labels up to which a default instruction names them all: more would fill the window that demonstrations need."""


@dataclass(frozen=True)
class Template:
    """How a row is put to a model.

    form: a demonstration, with {text}, {label}, and {text_b} where the task has pairs; instruction: stands before all of them
    separator: between instruction, demonstrations and the row; labels: the words of each label, as the model writes them
    domain: what a label is likely after without any text, for calibrate="pmi"; none: the form's last words before {label}
    name: what the report calls it

    Raises: OptionError for a form without {text} and one {label}, an unknown field, or two labels with the same words.
    """

    form: str
    labels: Mapping[str, str] = field(default_factory=dict)
    instruction: str = ""
    separator: str = "\n\n"
    domain: str = ""
    name: str = "default"

    def __post_init__(self) -> None:
        named = _FIELD.findall(self.form)
        for one in named:
            if one not in FIELDS:
                raise unknown("field of the form", one, FIELDS)
        if named.count("label") != 1 or "text" not in named:
            raise OptionError(
                f"form={self.form!r}: it needs {{text}}, and {{label}} once. Write for example 'Text: {{text}}\\nLabel: {{label}}'."
            )
        if not self.lead:
            raise OptionError(
                f"form={self.form!r}: nothing stands between the text and {{label}}, so the model cannot know what is asked. "
                "Put words there, as in 'Label: {label}'."
            )
        words = [word.strip() for word in self.labels.values()]
        if odd := [word for word in words if not word or words.count(word) > 1]:
            raise OptionError(f"labels: the words {odd[0]!r} are empty or stand for two labels. Give each label words of its own.")

    @property
    def paired(self) -> bool:
        return "{text_b}" in self.form

    @property
    def lead(self) -> str:
        """The fixed words directly before {label}, without the spaces that end them: those belong to the label."""
        before = self.form[: self.form.index("{label}")]
        return before[max((found.end() for found in _FIELD.finditer(before)), default=0) :].rstrip(" ").lstrip()

    @property
    def gap(self) -> str:
        """The spaces between the lead and the label."""
        before = self.form[: self.form.index("{label}")]
        return before[len(before.rstrip(" ")) :]

    def query(self, row: Row) -> str:
        """The form up to the label, filled with a row.

        >>> Template("Text: {text}\\nLabel: {label}").query({"text": "My card is lost"})
        'Text: My card is lost\\nLabel:'
        """
        return self._filled(self.form[: self.form.index("{label}")].rstrip(" "), row, "")

    def demonstration(self, row: Row) -> str:
        """The whole form, filled with a row and what is right behind it."""
        return self._filled(self.form, row, self.answer(row))

    def answer(self, row: Row) -> str:
        """What should be written for a row: the words of its label, or its entities as JSON.

        >>> form = Template("{text}\\nEntities:\\n{label}", {"PER": "person"})
        >>> form.answer({"text": "Ann left", "label": [(0, 3, "PER")]})
        '[{"text":"Ann","type":"person"}]'
        """
        if isinstance(row["label"], str):
            return self.labels[row["label"]]
        named = [{"text": row["text"][start:end], "type": self.labels[kind]} for start, end, kind in row["label"]]
        return json.dumps(named, ensure_ascii=False, separators=(",", ":"))

    def prompt(self, row: Row, shots: Sequence[Row] = ()) -> str:
        """What the model reads: the instruction, the demonstrations, the row up to its label."""
        parts = [self.instruction, *map(self.demonstration, shots), self.query(row)]
        return self.separator.join(part for part in parts if part)

    def chat(self, row: Row, shots: Sequence[Row] = ()) -> list[dict[str, str]]:
        """The same as messages: the instruction, each demonstration as a question and its answer, the row."""
        turns = [{"role": "system", "content": self.instruction}] if self.instruction else []
        for shot in shots:
            turns.append({"role": "user", "content": self.query(shot)})
            turns.append({"role": "assistant", "content": self.answer(shot)})
        return [*turns, {"role": "user", "content": self.query(row)}]

    def _filled(self, form: str, row: Row, word: str) -> str:
        values = {"text": row["text"], "text_b": row.get("text_b") or "", "label": word}
        return _FIELD.sub(lambda found: values[found[1]], form)  # in one go: a text that holds "{label}" stays as it is

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"version": FORMAT, **{f.name: dict(self.labels) if f.name == "labels" else getattr(self, f.name) for f in fields(self)}}


def read_template(path: str | Path) -> Template:
    """The template in a .yaml, .yml or .json file.

    Raises: DataError for a file that is not well formed, has a field that templates do not have, or another version.
    """
    values = read_options(path)
    known = {f.name for f in fields(Template)}
    for name in values:
        if name not in known | {"version"}:
            raise unknown(f"{path}: field", name, known | {"version"}, DataError)
    if values.pop("version", None) != FORMAT:
        raise DataError(f"{path}: needs the line `version: {FORMAT}`, the form of templates that this Trunkline reads.")
    labels = values.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(word, str) for word in labels.values()):
        raise DataError(f"{path}: labels={labels!r:.80}: write each label with its words, as in `labels: {{refund: a refund}}`.")
    for name, value in values.items():
        if name != "labels" and not isinstance(value, str):
            raise DataError(f"{path}: {name}={value!r:.80}: use a text; put it in quotes, if it looks like something else.")
    if "form" not in values:
        raise DataError(f'{path}: has no form. Write for example `form: "Text: {{text}}\\nLabel: {{label}}"`.')
    return Template(**{"name": Path(path).stem, **values})


def default_template(
    labels: Sequence[str], *, paired: bool = False, language: str | None = None, task: str = "classify"
) -> Template:  # fmt: skip
    """A template made from the labels' names, or the types of entities; in Chinese where these are Chinese, or `language` is "zh".

    >>> default_template(["card_arrival", "refund"]).instruction
    'Classify each text as one of: card arrival, refund.'
    """
    words = {label: " ".join(label.replace("_", " ").split()) for label in labels}
    if len(set(words.values())) < len(words):
        words = {label: label for label in labels}
    listed = len(labels) <= _LISTED
    chinese = (language or language_of(" ".join(labels))) == "zh"
    if task == "tag" and chinese:
        return Template(
            "文字：{text}\n实体：\n{label}", words, f"以 JSON 列出每段文字中的实体：原文和类别。类别有：{'、'.join(words.values())}。"
        )
    if task == "tag":
        told = f"List the entities of each text as JSON: their words and their type, one of: {', '.join(words.values())}."
        return Template("Text: {text}\nEntities:\n{label}", words, told)
    if chinese:
        instruction = f"把每段文字归入以下一类：{'、'.join(words.values())}。" if listed else "给每段文字归类。"
        return Template("文字一：{text}\n文字二：{text_b}\n类别：{label}" if paired else "文字：{text}\n类别：{label}", words, instruction)
    instruction = f"Classify each text as one of: {', '.join(words.values())}." if listed else "Give each text its label."
    return Template("Text 1: {text}\nText 2: {text_b}\nLabel: {label}" if paired else "Text: {text}\nLabel: {label}", words, instruction)
