"""The values that travel between the stages. Shape letters: B batch, T tokens, D width, K labels, N rows.

file -> Rows -> Items (token ids + target) -> Batch (hidden states, padded) -> Output (logits) -> answers
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from trunkline.errors import OptionError, unknown

if TYPE_CHECKING:
    import torch

IGNORE = -100
"""In integer targets: no loss here. It fills up targets of differing shapes too, as in torch's cross-entropy."""

_NO_TYPES = -1  # in place of segment ids: the text has none

Row = dict[str, Any]
"""One example. `text` always; `text_b` for pairs; `label` (as the task says); optional `id`, `group`, `time`, `split`."""


@dataclass(frozen=True)
class Problem:
    """One bad row: where it is, what stood there (cut to a readable length), what is wrong with it."""

    file: str
    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" + (f" in {self.text!r}" if self.text else "")


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Rows that were read and checked, with where they come from and what was noticed on the way.

    `notes` are sentences for people (columns that were guessed, duplicates that were dropped);
    `problems` are the bad rows that were left out: kept + bad = total, always.
    """

    rows: tuple[Row, ...]
    task: str
    source: str = "memory"
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the task and every row in order: the same data, the same 64 characters."""
        digest = hashlib.sha256(self.task.encode())
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Tokens:
    """One encoded text or pair of texts. `ids`: (T,) int32; `types`: (T,) int8 segment ids, or None where all are 0."""

    ids: np.ndarray
    types: np.ndarray | None = None

    @property
    def key(self) -> bytes:
        """16 bytes that name this content in a states store (SHA-256 of ids and segment ids, cut)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ids, dtype="<i4").tobytes())
        if self.types is not None:
            digest.update(b"types" + np.ascontiguousarray(self.types, dtype="<i1").tobytes())
        return digest.digest()[:16]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Item:
    """One row made ready for a model: usually one `Tokens`, two or more where texts are compared, and its target.

    `was_cut` is true when the text was longer than the limit and lost its end; `about` is what `decode` needs to speak of the row's
    text (offsets, words); `gold` is what metrics compare the answer with, where that is not the target.
    """

    tokens: tuple[Tokens, ...]
    target: Any = None
    was_cut: bool = False
    about: Any = None
    gold: Any = None


class Items(Sequence[Item]):
    """Items in little memory: the token ids of all lie in one array, and an `Item` is made when it is asked for. A slice gives a list.

    A million texts of twelve tokens take 80 MB; as objects with an array each they were five times that.

    >>> items = Items(Item((Tokens(np.arange(size, dtype=np.int32)),), size) for size in (2, 3))
    >>> items[1].tokens[0].ids, [item.target for item in items]
    (array([0, 1, 2], dtype=int32), [2, 3])
    """

    def __init__(self, items: Iterable[Item]) -> None:
        ids, types = array("i"), array("b")
        ends, sequences = array("q", [0]), array("q", [0])
        self._targets: list[Any] = []
        self._cut = bytearray()
        self._abouts: list[Any] = []
        self._golds: list[Any] = []
        for item in items:
            for tokens in item.tokens:
                ids.frombytes(tokens.ids.astype(np.int32).tobytes())
                types.frombytes((np.full(len(tokens), _NO_TYPES) if tokens.types is None else tokens.types).astype(np.int8).tobytes())
                ends.append(len(ids))
            sequences.append(len(ends) - 1)
            self._targets.append(item.target)
            self._cut.append(item.was_cut)
            self._abouts.append(item.about)
            self._golds.append(item.gold)
        self._ids, self._types, self._ends, self._sequences = map(np.asarray, (ids, types, ends, sequences))

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: Any) -> Any:
        at = range(len(self))[index]
        return [self._item(one) for one in at] if isinstance(at, range) else self._item(at)

    def _item(self, at: int) -> Item:
        tokens = tuple(self._tokens(one) for one in range(self._sequences[at], self._sequences[at + 1]))
        return Item(tokens, self._targets[at], bool(self._cut[at]), self._abouts[at], self._golds[at])

    def _tokens(self, at: int) -> Tokens:
        start, end = self._ends[at], self._ends[at + 1]
        types = self._types[start:end]
        return Tokens(self._ids[start:end], None if not len(types) or types[0] == _NO_TYPES else types)


@dataclass(frozen=True)
class Spec:
    """What a task was told and what it learned from the rows (labels, weights). Each task adds its own fields.

    kind: how its answers are compared (evaluation/kinds/); backbones: the kinds of backbone that it can stand on
    together: whether the loss of a row reads the other rows of its batch, so that by itself no batch is computed in parts
    """

    kind: ClassVar[str] = "single"
    together: ClassVar[bool] = False
    backbones: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "encoder-decoder")
    task: str = ""
    max_tokens: int = 256
    pooling: str = "mean"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Spec:
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown(f"{cls.__name__} field", name, known)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)

    @property
    def apart(self) -> bool:
        """Whether the two texts of a pair are read one by one, so that each item has two token sequences."""
        return getattr(self, "pairs", "together") == "apart"

    def __post_init__(self) -> None:
        if not 4 <= self.max_tokens <= 131072:
            raise OptionError(f"max_tokens={self.max_tokens}: use 4 to 131072, and no more than the model's own limit.")


@dataclass
class Batch:
    """What a branch reads. S is the number of token sequences: B where each item has one.

    hidden: (S, T, D) float, the trunk's states, padded with zeros; None where the whole model runs (depth "all")
    mask: (S, T) bool, True for a real token
    ids: (S, T) int64 and types: (S, T) int64, only where the whole model runs
    owner: (S,) int64, which item of the batch each sequence belongs to
    spec: the TaskSpec of the task at hand; targets: a tensor with first axis B, or None when predicting
    abouts: what `decode` needs to speak of each item's text, as its task made it
    part: which of several heads reads it, where tasks share the layers below (train/together.py)
    """

    hidden: torch.Tensor | None
    mask: torch.Tensor
    owner: torch.Tensor
    spec: Any
    ids: torch.Tensor | None = None
    types: torch.Tensor | None = None
    targets: Any = None
    abouts: Sequence[Any] = ()
    part: int = 0

    def to(self, device: torch.device) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v.to(device, non_blocking=True) if hasattr(v, "to") else v for k, v in moved.items()})


@dataclass
class Output:
    """What a branch gives: `logits` from the head, shape as the task says, and `hidden` (S, T, D) from its last layer.

    extra: further tensors of the head that the loss or the answer needs (the transitions of a CRF)
    generate: for tasks whose answer is a text: goes on from the batch's tokens, one text an item; None for all others
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    generate: Callable[[], list[str]] | None = None


@dataclass(frozen=True)
class Answer:
    """What a branch says of one row.

    value: what people read (a label, a number, spans, a text); scores: what the metrics of the task's kind read for one row;
    probability: how sure the branch is of `value`, calibrated on validation rows, or None where that means nothing.
    """

    value: Any
    scores: Any = field(repr=False)
    probability: float | None = None


class Task(Protocol):
    """The five names of a task module, and the `TaskSpec` dataclass that they share."""

    TaskSpec: type[Spec]
    METRICS: tuple[str, ...]

    def prepare(self, row: Row, tokenizer: Any, spec: Any) -> Item: ...
    def head(self, width: int, spec: Any) -> torch.nn.Module: ...
    def loss(self, out: Output, batch: Batch) -> torch.Tensor: ...
    def decode(self, out: Output, batch: Batch, spec: Any) -> list[Any]: ...
