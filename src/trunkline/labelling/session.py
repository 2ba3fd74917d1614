"""A labelling session: which row a person gets next, what is suggested, and a probe that learns in the background from what is labelled.

Knows nothing of HTTP; `server` puts it on a page. All calls may come from several threads.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from trunkline.choices import between
from trunkline.errors import DataError, OptionError, TrunklineError, unknown
from trunkline.labelling.agreement import krippendorff_alpha, pairwise
from trunkline.labelling.annotations import Annotation, Annotations, key_of
from trunkline.labelling.curve import outlook
from trunkline.labelling.strategies import STRATEGIES, Pool, choose
from trunkline.types import Row, Rows

_QUEUE = 40
_EVERY = 10  # labels after which the probe is fitted anew
_MORE = 200
_LEAST = 30


class Session:
    """Rows to label, with vectors (N, D) of their states and what was said so far.

    names: the labels to choose from (people may add some); people: how many labels each row should get; strategy: what comes next
    suggested: (N, K) probabilities of `names` from a branch, shown until enough rows are labelled for a probe of their own
    """

    def __init__(
        self, rows: Sequence[Row], vectors: np.ndarray, annotations: Annotations, *, names: Sequence[str] = (), strategy: str = "safe",
        people: int = 1, suggested: np.ndarray | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if strategy not in STRATEGIES:
            raise unknown("strategy", strategy, STRATEGIES)
        between("people", people, 1, 100)
        if len(rows) != len(vectors) or not len(rows):
            raise DataError(f"{len(rows)} rows and {len(vectors)} vectors: one each is needed, and at least one row.")
        self.annotations, self.strategy, self.people, self.seed = annotations, strategy, people, seed
        self.rows, self.vectors, self.suggested = list(rows), vectors, suggested
        self.keys = [key_of(row) for row in rows]
        self.at = {key: place for place, key in reversed(list(enumerate(self.keys)))}
        self._given = {key: row["label"] for key, row in zip(self.keys, rows) if isinstance(row.get("label"), str)}
        known = [*names, *self._given.values(), *(act.label for act in annotations.acts if act.label)]
        self.names = list(dict.fromkeys(known))
        self._lock, self._wake, self._over = threading.RLock(), threading.Event(), False
        self._queue: list[int] = []
        self._held: dict[str, int] = {}
        self._probabilities: np.ndarray | None = None
        self._fitted = 0
        self._outlook = ""
        self._learn()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop learning in the background."""
        self._over = True
        self._wake.set()
        self._thread.join(timeout=30)

    def next(self, by: str) -> dict[str, Any] | None:
        """The row this person gets now, with suggestions; None when nothing is left for that person."""
        with self._lock:
            place = self._place_for(by)
            if place is None:
                return None
            self._held[by] = place
            row = self.rows[place]
            return {"row": self.keys[place], "text": row["text"], "text_b": row.get("text_b", ""), "suggestions": self._suggestions(place)}

    def label(self, row: str, by: str, label: str) -> None:
        """What a person says. An empty label skips the row for that person. Raises: OptionError for a row that is not there, or no name."""
        with self._lock:
            if row not in self.at:
                raise OptionError(f"row {row!r}: there is no such row in this session.")
            if not by.strip():
                raise OptionError("by: a name is needed, for labels of several people are kept apart.")
            label = label.strip()
            self.annotations.add(Annotation(row, by, "label" if label else "skip", label))
            if label and label not in self.names:
                self.names.append(label)
            self._held.pop(by, None)
            if len(self._taught()[0]) >= self._fitted + _EVERY:
                self._wake.set()

    def undo(self, by: str) -> str | None:
        """Take back this person's last word, and give the row again; None where there is none."""
        with self._lock:
            held = {row for row, given in self.annotations.labels().items() if by in given}
            last = next(
                (act.row for act in reversed(self.annotations.acts) if act.by == by and act.kind in ("label", "skip") and act.row in held),
                None,
            )
            if last is not None:
                self.annotations.add(Annotation(last, by, "undo"))
                self._held[by] = self.at[last]
            return last

    def decide(self, row: str, by: str, label: str) -> None:
        """Settle a row on which people differ. Raises: OptionError for an empty label or an unknown row."""
        if row not in self.at or not label.strip():
            raise OptionError(f"row {row!r}, label {label!r}: give a row of this session and a label.")
        with self._lock:
            self.annotations.add(Annotation(row, by, "decide", label.strip()))
            self._wake.set()

    def state(self) -> dict[str, Any]:
        """Progress, agreement, outlook, and the rows on which people differ."""
        with self._lock:
            labels, final = self.annotations.labels(), self.annotations.final()
            units = [[label for label in given.values() if label] for given in labels.values()]
            several = [unit for unit in units if len(unit) > 1]
            return {
                "rows": len(self.at),
                "labelled": len({key for key in [*final, *self._given] if key in self.at}),
                "people": dict(Counter(by for given in labels.values() for by, label in given.items() if label)),
                "labels": dict(Counter(final.values()).most_common()),
                "names": self.names,
                "alpha": krippendorff_alpha(several) if several else None,
                "kappa": [[one, other, value, count] for (one, other), (value, count) in pairwise(labels).items()],
                "disputed": [
                    {"row": row, "text": self.rows[self.at[row]]["text"], "given": labels[row]}
                    for row in self.annotations.disputed()
                    if row in self.at
                ],
                "outlook": self._outlook,
                "taught_on": self._fitted,
            }

    def labelled(self, source: Rows) -> Rows:
        """The rows that have a label now, with it. Rows of the file that had one keep it unless somebody said otherwise."""
        final = self._given | self.annotations.final()
        kept = tuple({**row, "label": final[key]} for row, key in zip(self.rows, self.keys) if key in final)
        return Rows(kept, "classify", source.source, source.columns)

    # With the lock held:

    def _place_for(self, by: str) -> int | None:
        labels, taken = self.annotations.labels(), {place for other, place in self._held.items() if other != by}
        if by in self._held:
            return self._held[by]

        def is_open(place: int) -> bool:
            given = labels.get(self.keys[place], {})
            return (
                self.at[self.keys[place]] == place and self.keys[place] not in self._given and by not in given
                and sum(bool(label) for label in given.values()) < self.people
            )  # fmt: skip

        begun = [self.at[row] for row, given in labels.items() if row in self.at and 0 < sum(map(bool, given.values())) < self.people]
        for places in (begun, self._queue, range(len(self.rows))):
            for place in places:
                if is_open(place) and (place not in taken or self.people > 1):
                    return place
        return None

    def _suggestions(self, place: int) -> list[dict[str, Any]]:
        known = self._probabilities if self._probabilities is not None else self.suggested
        if known is None:
            return [{"label": name, "probability": None} for name in self.names[:9]]
        order = np.argsort(-known[place], kind="stable")[:9]
        return [{"label": self.names[int(at)], "probability": float(known[place, at])} for at in order if int(at) < len(self.names)]

    def _taught(self) -> tuple[list[int], list[str]]:
        final = {key: label for key, label in (self._given | self.annotations.final()).items() if key in self.at}
        return [self.at[key] for key in final], list(final.values())

    def _learn(self) -> None:
        """Fit the probe and choose what comes next. Reads under the lock, computes without it."""
        with self._lock:
            places, labels = self._taught()
            names = list(self.names)
        ids = np.array([names.index(label) for label in labels], dtype=np.int64)
        pool = Pool(self.vectors, np.array(places, dtype=np.int64), ids, max(len(names), 1))
        queue = choose(pool, _QUEUE * self.people, self.strategy, seed=self.seed + len(places))
        probabilities = pool.probe.probabilities(self.vectors) if pool.has_probe else None
        told = ""
        if len(places) >= _LEAST and pool.has_probe:
            try:
                told = str(outlook(self.vectors[pool.places], ids, len(names), _MORE, seed=self.seed))
            except TrunklineError as error:  # too few of some class: no outlook yet
                told = str(error)
        with self._lock:
            self._queue, self._probabilities, self._fitted, self._outlook = queue.tolist(), probabilities, len(places), told

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._over:
                return
            self._learn()
