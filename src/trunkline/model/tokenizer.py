"""Text to token ids: a thin face on a fast tokenizer, the same for every family.

Special tokens that a user writes in a text ("[SEP]", "<|im_start|>") are encoded as plain text, never as control ids.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from tokenizers.models import Unigram
from transformers import AutoTokenizer

from trunkline.errors import DataError, ModelError
from trunkline.types import Row, Spec, Tokens

_LONGEST = 20
"""Characters a token, far beyond any text worth reading: what is longer is cut before the tokenizer sees it."""


class Tokenizer:
    """`encode` for one text or a pair. Holds one fast tokenizer; `pad_id` fills short rows, `start_ids` stand before a text, `end_id` behind it."""

    def __init__(self, folder: Path, *, segments: bool, pairs_joined: bool) -> None:
        whole: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not whole.is_fast:
            raise ModelError(f"{folder}: no tokenizer.json, so no fast tokenizer. Convert it with transformers where the model came from.")
        self._fast = whole.backend_tokenizer
        self._fast.encode_special_tokens = True
        self._fast.no_padding()
        self._unigram = isinstance(self._fast.model, Unigram)
        self._segments = segments
        self.pairs_joined = pairs_joined
        pads = (whole.pad_token_id, whole.eos_token_id, 0)
        self.pad_id: int = next(p for p in pads if p is not None)
        self.end_id: int | None = whole.eos_token_id
        self.control_ids = frozenset(whole.all_special_ids)
        mask = self._fast.encode("a").special_tokens_mask
        self.start_ids: tuple[int, ...] = tuple(self._fast.encode("a").ids[: mask.index(0)])
        self.chat_template: Any = whole.chat_template
        start = "".join(self._fast.id_to_token(one) for one in self.start_ids)
        self.special_tokens = {name: str(token) for name, token in whole.special_tokens_map.items()} | ({"start": start} if start else {})
        added = self._fast.get_added_tokens_decoder()
        templates = str(self.chat_template or "")  # what it writes acts on the model ("<think>"), and need not be marked as special
        self.never_written = self.control_ids | {one for one, token in added.items() if token.special or token.content.strip() in templates}
        self._unknown: int | None = whole.unk_token_id

    def encode(self, text: str, text_b: str | None = None, *, max_tokens: int) -> tuple[Tokens, bool]:
        """The tokens of a text or a pair, at most `max_tokens` (the longest part is cut first), and whether anything was cut.

        A decoder has no pair format of its own: there the two texts are joined by a line break.
        """
        encoding, was_cut = self.pair(text, text_b, max_tokens=max_tokens)
        return self.tokens(encoding), was_cut

    def pair(self, text: str, text_b: str | None = None, *, max_tokens: int) -> tuple[Encoding, bool]:
        """The same as the library's encoding, with offsets and sequence ids."""
        if text_b is not None and self.pairs_joined:
            text, text_b = f"{text}\n{text_b}", None
        limit = max_tokens * _LONGEST
        encoding = self.encodings(text[:limit], None if text_b is None else text_b[:limit], max_tokens=max_tokens)[0]
        return encoding, bool(encoding.overflowing) or len(text) > limit or len(text_b or "") > limit

    def second(self, encoding: Encoding, text: str) -> int:
        """The place in `pair`'s encoding where the second text begins: that of its last token where nothing of it is left."""
        real = [at for at, special in enumerate(encoding.special_tokens_mask) if not special]
        behind = len(text) + 1  # the line break that joins two texts
        found = (at for at in real if (encoding.offsets[at][0] >= behind if self.pairs_joined else encoding.sequence_ids[at] == 1))
        return next(found, real[-1] if real else 0)

    def encodings(self, text: str, text_b: str | None = None, *, max_tokens: int, stride: int = 0) -> list[Encoding]:
        """The library's encoding, with offsets, word ids and sequence ids: one, cut at `max_tokens` (the longest part first), or with a stride
        above 0 as many windows over the end of the last text as are needed, each with so many tokens of the one before.
        """
        strategy = "longest_first" if not stride else "only_first" if text_b is None else "only_second"
        found = _encoded(self._fast, text, text_b, max_tokens, stride, strategy)
        if self._unigram and any(map(self._is_forged, found)):
            found = _encoded(self._guarded, text, text_b, max_tokens, stride, strategy)
        return found if stride else found[:1]

    def pieces(self, text: str) -> np.ndarray:
        """The ids (T,) int32 of a text alone, as long as it is: without the special tokens that stand before and behind it."""
        return np.asarray(self.written(text), dtype=np.int32)

    def _is_forged(self, encoding: Encoding) -> bool:
        """Whether the text itself holds a control token: one that stands where the tokenizer did not put it."""
        put = encoding.special_tokens_mask
        return any(one in self.control_ids and one != self._unknown and not put[at] for at, one in enumerate(encoding.ids))

    @functools.cached_property
    def _guarded(self) -> Any:
        """For vocabularies that have control tokens among their ordinary pieces ("</s>" of T5 and XLM-R): a tokenizer to which these pieces have
        a name that is in no text, under the same number. Used for texts that hold them, and made when the first one comes: with 250,000 pieces it
        takes seconds and 270 MB.
        """
        whole = json.loads(self._fast.to_str())
        names = {self._fast.id_to_token(one) for one in self.control_ids if one != self._unknown}
        whole["model"]["vocab"] = [[f"\ue000{piece}" if piece in names else piece, score] for piece, score in whole["model"]["vocab"]]
        whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in names]
        other = type(self._fast).from_str(json.dumps(whole))
        other.encode_special_tokens = True
        other.no_padding()
        return other

    @functools.cached_property
    def controlled(self) -> Any:
        """The library's tokenizer once more, with control tokens counting where they stand in a text: for a text that no user wrote."""
        other = type(self._fast).from_str(self._fast.to_str())
        other.encode_special_tokens = False
        other.no_padding()
        other.no_truncation()
        return other

    def written(self, text: str) -> list[int]:
        """The ids of a text that a user wrote, none of them a control token, nor an added one that the chat template uses ("<think>").

        Some vocabularies have the control tokens among their ordinary pieces (T5's "</s>"), and added tokens are found in any text: where
        that happens, the text is cut in the middle of that place, and what lies between the cuts is encoded by itself.
        """
        self._fast.no_truncation()
        encoding = self._fast.encode(text, add_special_tokens=False)
        cuts = []
        for one, (start, end) in zip(encoding.ids, encoding.offsets):
            if self.acts(one, text[start:end]):
                cuts.append((start + end) // 2)
        if not cuts:
            return list(encoding.ids)
        edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
        if len(edges) == 2:  # one character that is a control token: it cannot be said in any other way
            return [one for one in encoding.ids if one not in self.never_written]
        return [one for start, end in pairwise(edges) for one in self.written(text[start:end])]

    def unknown_share(self, texts: Sequence[Tokens]) -> float:
        """The share of tokens that stand for something that is in no vocabulary; 0 where there is no such token."""
        tokens = np.concatenate([one.ids for one in texts]) if len(texts) else np.zeros(0)
        return float((tokens == self._unknown).mean()) if self._unknown is not None and len(tokens) else 0.0

    def acts(self, one: int, text: str) -> bool:
        """Whether a token made of `text` acts on the model. The one for what is unknown does only where somebody wrote its name."""
        return one in self.never_written and (one != self._unknown or self._fast.id_to_token(one) in text)

    def text(self, ids: Sequence[int]) -> str:
        """What some ids say, without special tokens."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def tokens(self, encoding: Encoding) -> Tokens:
        """What a trunk reads of an encoding."""
        ids = np.asarray(encoding.ids, dtype=np.int32)
        types = np.asarray(encoding.type_ids, dtype=np.int8) if self._segments else None
        return Tokens(ids, types if types is not None and types.any() else None)


def texts_of(row: Row, tokenizer: Any, spec: Spec) -> tuple[tuple[Tokens, ...], bool]:
    """The token sequences of a text or a pair as the spec reads them: one, or two where pairs are read apart; and whether anything was cut.

    Raises: DataError for a row to be answered that has no second text, where pairs are read apart.
    """
    if not spec.apart:
        tokens, was_cut = tokenizer.encode(row["text"], row.get("text_b"), max_tokens=spec.max_tokens)
        return (tokens,), was_cut
    if row.get("text_b") is None and row.get("label") is None:
        raise DataError(f"{row['text'][:60]!r} is one text, and this branch compares two. Give text_b, or a file with a column for each.")
    one, other = (tokenizer.encode(row.get(name) or "", max_tokens=spec.max_tokens) for name in ("text", "text_b"))
    return (one[0], other[0]), one[1] or other[1]


def _encoded(fast: Any, text: str, text_b: str | None, max_tokens: int, stride: int, strategy: str) -> list[Encoding]:
    """The encoding of a text or a pair, and behind it what did not fit."""
    fast.enable_truncation(max_tokens, stride=stride, strategy=strategy)
    encoding = fast.encode(text, text_b)
    return [encoding, *encoding.overflowing]
