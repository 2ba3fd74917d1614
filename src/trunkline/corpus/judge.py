"""One document: read, repaired, and judged by what stands in it alone. Its fate is a reason for which it is dropped, or None.

The order is that of cost: what cannot be read, what is empty, language, rules, words, personal data. The first reason counts.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from trunkline import storage
from trunkline.corpus.language import language
from trunkline.corpus.repair import repair
from trunkline.corpus.rules import Page, failed, parse
from trunkline.corpus.settings import CleanSettings
from trunkline.corpus.toxicity import toxic_words
from trunkline.data.personal import find, mask
from trunkline.errors import MissingExtra

_PACKAGES = {"ftfy": "Repairing Unicode", "py3langid": "Finding the language"}


@dataclass
class Judged:
    """What became of one document. record: its fields, with the repaired text; done: what was changed or found, by name."""

    reason: str | None
    record: dict[str, Any]
    text: str
    language: str = ""
    done: Counter[str] = field(default_factory=Counter)


def check_packages() -> None:
    """Raises: MissingExtra where a package is not there that every document needs."""
    for package, purpose in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "corpus", purpose)


class Judge:
    """Reads the settings once and judges many documents."""

    def __init__(self, settings: CleanSettings) -> None:
        self.settings = settings
        self._rules, self._toxic = parse(settings.rules), toxic_words(settings.toxic_words)

    def __call__(self, form: str, content: Any) -> Judged:
        """The fate of a document: bytes of a text or of a JSON object, a record, or None where it was too large to be read."""
        if content is None:
            return Judged("too_large", {}, "")
        try:
            record = self._record(form, content)
            text = record[self.settings.text]
            if not isinstance(text, str):
                raise TypeError(f"its text is a {type(text).__name__}")
            text.encode()  # a lone surrogate is damage
        except (ValueError, KeyError, TypeError) as error:
            shown = content[:500].decode("utf-8", "replace") if isinstance(content, bytes) else str(content)[:500]
            return Judged("unreadable", {}, f"{type(error).__name__}: {error}: {shown}")
        text, done = repair(text, self.settings.repairs)
        found = Judged(None, record, text, done=done)
        found.reason = self._reason(found)
        record[self.settings.text] = found.text
        return found

    def _record(self, form: str, content: Any) -> dict[str, Any]:
        if form == "record":
            return dict(content)
        if form == "txt":
            return {self.settings.text: content.decode(self.settings.encoding)}
        record = storage.from_json(
            content if self.settings.encoding == "utf-8" else content.decode(self.settings.encoding).encode(), "line"
        )
        if not isinstance(record, dict):
            raise TypeError(f"a {type(record).__name__}, not an object")
        return record

    def _reason(self, found: Judged) -> str | None:
        settings = self.settings
        if not found.text:
            return "empty"
        found.language = language(found.text)
        if settings.wanted_languages and found.language not in settings.wanted_languages:
            return "language"
        if rule := failed(Page(found.text), self._rules, found.language):
            return f"rule:{rule}"
        if self._toxic and self._toxic.too_many(found.text):
            return "toxic_words"
        return self._personal(found)

    def _personal(self, found: Judged) -> str | None:
        places = find(found.text, self.settings.kinds) if self.settings.personal != "keep" else []
        found.done.update(f"personal:{one.kind}" for one in places)
        if places and self.settings.personal == "drop":
            return "personal"
        if places:
            found.text = mask(found.text, self.settings.kinds)
        return None
