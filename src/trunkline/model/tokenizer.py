"""Text to token ids: a thin face on a fast tokenizer, the same for every family.

Special tokens that a user writes in a text ("[SEP]", "<|im_start|>") are encoded as plain text, never as control ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from transformers import AutoTokenizer

from trunkline.errors import ModelError
from trunkline.types import Tokens


class Tokenizer:
    """`encode` for one text or a pair. Holds one fast tokenizer; `pad_id` fills short rows, `start_ids` stand before a text, `end_id` behind it."""

    def __init__(self, folder: Path, *, segments: bool, pairs_joined: bool) -> None:
        whole: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not whole.is_fast:
            raise ModelError(f"{folder}: no tokenizer.json, so no fast tokenizer. Convert it with transformers where the model came from.")
        self._fast = whole.backend_tokenizer
        self._fast.encode_special_tokens = True
        self._fast.no_padding()
        self._segments = segments
        self.pairs_joined = pairs_joined
        pads = (whole.pad_token_id, whole.eos_token_id, 0)
        self.pad_id: int = next(p for p in pads if p is not None)
        self.end_id: int | None = whole.eos_token_id
        self.control_ids = frozenset(whole.all_special_ids)
        mask = self._fast.encode("a").special_tokens_mask
        self.start_ids: tuple[int, ...] = tuple(self._fast.encode("a").ids[: mask.index(0)])

    def encode(self, text: str, text_b: str | None = None, *, max_tokens: int) -> tuple[Tokens, bool]:
        """The tokens of a text or a pair, at most `max_tokens` (the longest part is cut first), and whether anything was cut.

        A decoder has no pair format of its own: there the two texts are joined by a line break.
        """
        if text_b is not None and self.pairs_joined:
            text, text_b = f"{text}\n{text_b}", None
        # 20 characters a token is far beyond any text worth reading: what is longer is cut before the tokenizer sees it
        limit = max_tokens * 20
        encoding = self.encodings(text[:limit], None if text_b is None else text_b[:limit], max_tokens=max_tokens)[0]
        was_cut = bool(encoding.overflowing) or len(text) > limit or len(text_b or "") > limit
        return self.tokens(encoding), was_cut

    def encodings(self, text: str, text_b: str | None = None, *, max_tokens: int, stride: int = 0) -> list[Encoding]:
        """The library's encoding, with offsets, word ids and sequence ids: one, cut at `max_tokens` (the longest part first), or with a stride
        above 0 as many windows over the end of the last text as are needed, each with so many tokens of the one before.
        """
        strategy = "longest_first" if not stride else "only_first" if text_b is None else "only_second"
        self._fast.enable_truncation(max_tokens, stride=stride, strategy=strategy)
        encoding = self._fast.encode(text, text_b)
        return [encoding, *encoding.overflowing] if stride else [encoding]

    def pieces(self, text: str) -> np.ndarray:
        """The ids (T,) int32 of a text alone, as long as it is: without the special tokens that stand before and behind it."""
        self._fast.no_truncation()
        return np.asarray(self._fast.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def text(self, ids: Sequence[int]) -> str:
        """What some ids say, without special tokens."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def tokens(self, encoding: Encoding) -> Tokens:
        """What a trunk reads of an encoding."""
        ids = np.asarray(encoding.ids, dtype=np.int32)
        types = np.asarray(encoding.type_ids, dtype=np.int8) if self._segments else None
        return Tokens(ids, types if types is not None and types.any() else None)
