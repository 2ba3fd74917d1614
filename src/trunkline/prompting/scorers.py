"""Three ways in which a local model scores labels: likelihood, similarity with descriptions, and a filled gap.

A scorer has `probabilities(rows, shots, pool)`, which gives (N, K) over the labels, `tokens` that went through the model, and `notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trunkline.errors import OptionError
from trunkline.model.backbone import Backbone
from trunkline.model.batches import by_length
from trunkline.prompting.calibrate import CONTENT_FREE, contextual, domain_pmi, plain
from trunkline.prompting.cloze import Cloze
from trunkline.prompting.likelihood import Likelihood
from trunkline.prompting.prompts import Prompt, Writing, blank, notes_on, prompts
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.states.live import LiveStates
from trunkline.types import Row

_SCALE = 20.0
"""Cosines are multiplied by this before the softmax over labels, as the loss does that embedding models are trained with."""


class ByLikelihood:
    """log P(label | prompt), by a decoder or an encoder-decoder."""

    def __init__(self, engine: Likelihood, template: Template, calibrate: str, settings: PromptSettings) -> None:
        backbone = engine.backbone
        self.engine, self.template, self.calibrate = engine, template, calibrate
        self.writing = Writing(backbone.tokenizer, min(settings.max_tokens, backbone.max_tokens), backbone.family.kind == "encoder-decoder")
        self.labels = self.writing.label_ids(template)
        self.mean = settings.score == "mean" or (settings.score == "auto" and calibrate != "pmi")
        self._behind = 0 if self.writing.ended else max(map(len, self.labels))
        self._domain: np.ndarray | None = None
        self._made: list[Prompt] = []

    @property
    def tokens(self) -> int:
        return self.engine.tokens

    @property
    def notes(self) -> list[str]:
        """What did not fit, in the calls since this was last asked for."""
        made, self._made = self._made, []
        return notes_on(made)

    def probabilities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> np.ndarray:
        """(N, K), each row summing to 1."""
        made = prompts(self.writing, rows, shots, pool, self.template, self._behind)
        self._made += made
        if self.calibrate == "contextual":
            return self._contextual(made, rows, pool)
        scores = self._scores([one.ids for one in made], [one.shots for one in made])
        if self.calibrate == "none":
            return plain(scores)
        if self._domain is None:
            self._domain = self._scores([self.writing.ids(self.template.domain or self.template.lead)])[0]
        return domain_pmi(scores, self._domain)

    def _contextual(self, made: list[Prompt], rows: Sequence[Row], pool: Sequence[Row]) -> np.ndarray:
        """Content-free prompts once for each set of demonstrations, in the same pass as the rows that have it."""
        place = {kept: at for at, kept in enumerate(dict.fromkeys(one.shots for one in made))}
        free = [
            self.writing.prompt(blank(rows[0], text), kept, pool, self.template, self.writing.room - self._behind)
            for kept in place
            for text in CONTENT_FREE
        ]
        groups = [one.shots for one in made] + [kept for kept in place for _ in CONTENT_FREE]
        scores = self._scores([one.ids for one in (*made, *free)], groups)
        expected = scores[len(made) :].reshape(len(place), len(CONTENT_FREE), -1)
        return contextual(scores[: len(made)], expected[[place[one.shots] for one in made]])

    def _scores(self, given: list[np.ndarray], groups: list[tuple[int, ...]] | None = None) -> np.ndarray:
        found = self.engine(given, self.labels, groups)
        return found / np.array([len(label) for label in self.labels]) if self.mean else found


class BySimilarity:
    """Cosine of the mean-pooled states of a text and of each label's words, by an encoder. No demonstrations."""

    def __init__(self, backbone: Backbone, template: Template, calibrate: str, settings: PromptSettings) -> None:
        if calibrate == "pmi":
            raise OptionError("calibrate='pmi': needs the likelihood of labels, and similarity has none. Use 'contextual' or 'none'.")
        self.backbone, self.calibrate, self.tokens = backbone, calibrate, 0
        self.notes: list[str] = []
        self._states = LiveStates(backbone.trunk(0))
        self._room = min(settings.max_tokens, backbone.max_tokens)
        self._labels = self._vectors([{"text": word} for word in template.labels.values()])

    def probabilities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> np.ndarray:
        """(N, K), each row summing to 1. Raises: OptionError where there are demonstrations."""
        if any(shots):
            raise OptionError(
                "shots: similarity compares texts with labels and reads no demonstrations. Use shots=0, or a model that writes."
            )
        scores = self._vectors(rows) @ self._labels.T * _SCALE
        if self.calibrate == "none":
            return plain(scores)
        free = self._vectors([blank(rows[0], text) for text in CONTENT_FREE]) @ self._labels.T * _SCALE
        return contextual(scores, free[None])

    def _vectors(self, rows: Sequence[Row]) -> np.ndarray:
        tokens = [self.backbone.tokenizer.encode(row["text"], row.get("text_b"), max_tokens=self._room)[0] for row in rows]
        self.tokens += sum(map(len, tokens))
        found = self._states.pooled(tokens).astype(np.float64)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


class ByCloze:
    """The word that a masked model puts into the gap where the label stands. Source: Schick and Schuetze 2021 (PET), section 3, one pattern."""

    def __init__(self, backbone: Backbone, template: Template, calibrate: str, settings: PromptSettings) -> None:
        if calibrate == "pmi":
            raise OptionError("calibrate='pmi': is made for the likelihood of labels behind a text. Use 'contextual' or 'none' with cloze.")
        self.calibrate, self.tokens, self.template = calibrate, 0, template
        self.model = Cloze(backbone)
        self.writing = Writing(backbone.tokenizer, min(settings.max_tokens, backbone.max_tokens), True)
        self.words, self._behind = self.model.words(template), self.model.behind(template)
        self._made: list[Prompt] = []

    @property
    def notes(self) -> list[str]:
        """What did not fit, in the calls since this was last asked for."""
        made, self._made = self._made, []
        return notes_on(made)

    def probabilities(self, rows: Sequence[Row], shots: Sequence[Sequence[int]], pool: Sequence[Row]) -> np.ndarray:
        """(N, K), each row summing to 1."""
        made = prompts(self.writing, rows, shots, pool, self.template, len(self._behind))
        self._made += made
        scores = self._scores(made)
        if self.calibrate == "none":
            return plain(scores)
        sets = list(dict.fromkeys(one.shots for one in made))
        room = self.writing.room - len(self._behind)
        free = [self.writing.prompt(blank(rows[0], text), kept, pool, self.template, room) for kept in sets for text in CONTENT_FREE]
        expected = self._scores(free).reshape(len(sets), len(CONTENT_FREE), -1)
        return contextual(scores, expected[[sets.index(one.shots) for one in made]])

    def _scores(self, made: Sequence[Prompt]) -> np.ndarray:
        given = [self._gapped(one.ids) for one in made]
        found: Any = np.empty((len(given), len(self.words)))
        for batch in by_length([len(ids) for ids, _ in given]):
            found[batch] = self.model([given[i] for i in batch], self.words)
            self.tokens += sum(len(given[i][0]) for i in batch)
        return found

    def _gapped(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """A prompt with the gap and what follows before its end, and the place of the gap."""
        place = len(ids) - len(self.writing.ends)
        return np.concatenate([ids[:place], self._behind, ids[place:]]), place
