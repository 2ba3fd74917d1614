"""How likely a model that writes finds each label behind a prompt. What prompts share goes through the model once.

Of a decoder: the tokens that all prompts of a group begin with run once, and their keys and values are kept; the rest of a prompt and all
labels then run as one sequence. In it a label sees the prompt and itself but no other label, and stands at the place where it would
stand alone, so the numbers are those of prompt + label run by itself. Of an encoder-decoder: a prompt is encoded once for all labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache

from trunkline.errors import OptionError
from trunkline.model.backbone import ALL, Backbone, BothHalves
from trunkline.model.batches import TOKENS_PER_BATCH, by_length
from trunkline.model.writing.language import LanguageModel, log_probabilities
from trunkline.progress import Bar

_CACHED = 8192
"""Tokens whose keys and values are held at once, over the rows of a batch: for a model of 135M parameters 370 MB in float32."""
_LOGITS = 1 << 24
_WORTH = 3
"""A group of fewer prompts gets no cache of its own: its prompts join the others that are alone, and share what all of them begin with."""


class Likelihood:
    """Log-probabilities of labels behind prompts. `tokens` counts what went through the model.

    Raises: ModelError where the model has no output layer; OptionError for an encoder, which writes nothing.
    """

    def __init__(self, backbone: Backbone, reuse: str = "prefix") -> None:
        if backbone.family.kind == "encoder":
            raise OptionError(f"by='likelihood': {backbone.name!r} is an encoder and writes nothing. Use 'similarity' or 'cloze'.")
        self.backbone = backbone.seen_by((backbone.family.kind,))
        self.model, self.reuse, self.tokens = LanguageModel(backbone), reuse, 0

    @torch.no_grad()
    def __call__(self, prompts: Sequence[np.ndarray], labels: Sequence[np.ndarray], groups: Sequence[Hashable] | None = None) -> np.ndarray:
        """prompts: N arrays of ids, labels: K arrays of ids -> (N, K) float64, summed over each label's tokens.

        groups: prompts with the same value share their beginning (the same demonstrations)
        """
        found = np.empty((len(prompts), len(labels)))
        run = self._written if isinstance(self.backbone, BothHalves) else self._alone if self.reuse == "none" else self._packed
        done = 0
        with Bar("prompt", unit="rows") as bar:
            for members in _grouped(prompts, groups):
                given = [prompts[i] for i in members]
                shared = common_prefix(given) if self.reuse == "prefix" and not isinstance(self.backbone, BothHalves) else 0
                cache = self._prefix(given[0][:shared]) if shared else None
                for batch in self._batches([len(one) - shared for one in given], labels, shared):
                    found[[members[i] for i in batch]] = run([given[i][shared:] for i in batch], labels, cache, shared)
                    done += len(batch)
                    bar.to(done, len(prompts))
        return found

    def _batches(self, lengths: Sequence[int], labels: Sequence[np.ndarray], shared: int) -> list[np.ndarray]:
        extra = sum(len(label) - 1 for label in labels)
        found = []
        for batch in by_length([length + extra for length in lengths], TOKENS_PER_BATCH):
            most = max(1, _CACHED // (shared + extra + max(lengths[i] for i in batch)))
            found += [batch[start : start + most] for start in range(0, len(batch), most)]
        return found

    def _prefix(self, ids: np.ndarray) -> Any:
        cache: Any = DynamicCache()  # without a configuration all layers keep all tokens; the masks hold windows
        self.backbone.stack(input_ids=self._tensor(ids)[None], past_key_values=cache, use_cache=True)
        self.tokens += len(ids)
        return cache

    def _packed(self, rows: list[np.ndarray], labels: Sequence[np.ndarray], cache: Any, shared: int) -> np.ndarray:
        """(B, K): the rest of each prompt, then every label but for its last token, in one sequence a row."""
        plan = _Plan(rows, labels, shared, self.backbone.tokenizer.pad_id)
        if cache is not None:
            cache = DynamicCache(
                [(layer.keys.expand(len(rows), -1, -1, -1), layer.values.expand(len(rows), -1, -1, -1)) for layer in cache.layers]
            )
        hidden = self.backbone.stack(
            input_ids=self._tensor(plan.ids),
            position_ids=self._tensor(plan.positions),
            attention_mask=self._masks(plan),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        self.tokens += plan.ids.size
        needed = hidden[torch.arange(len(rows))[:, None], self._tensor(plan.read)]  # (B, S, D)
        return plan.summed(self._vocabulary(needed, plan.wanted))

    def _vocabulary(self, hidden: torch.Tensor, wanted: np.ndarray) -> np.ndarray:
        """hidden (B, S, D), wanted (U,) ids -> log-probabilities (B, S, U); the logits over all of V exist in pieces only."""
        flat, ids = hidden.flatten(0, 1), self._tensor(wanted)
        size = max(1, _LOGITS // self.backbone.config.get_text_config().vocab_size)
        found = [self.model.logits(piece).float().log_softmax(-1)[:, ids] for piece in flat.split(size)]
        return torch.cat(found).view(*hidden.shape[:2], -1).double().cpu().numpy()

    def _masks(self, plan: _Plan) -> Any:
        """What each token sees, as the library wants it: added to the scores of attention, (B, 1, Q, P + Q); by type of layer where it has several."""
        config = self.backbone.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
        full, near = self._added(plan.seen), self._added(plan.seen & plan.within(window)) if window else None
        if kinds is not None and near is not None and "sliding_attention" in kinds:
            return {"full_attention": full, "sliding_attention": near}
        return full if near is None or kinds is not None else near

    def _added(self, seen: np.ndarray) -> torch.Tensor:
        dtype = next(self.backbone.stack.parameters()).dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
        return mask[:, None].to(self.backbone.device)

    def _alone(self, rows: list[np.ndarray], labels: Sequence[np.ndarray], cache: Any, shared: int) -> np.ndarray:
        """(B, K): every prompt with every label, run by itself as the library runs it. What the packed run is measured against."""
        whole = [(np.concatenate([row, label]), len(label)) for row in rows for label in labels]
        found = np.empty(len(whole))
        for batch in by_length([len(ids) for ids, _ in whole]):
            some = [whole[i] for i in batch]
            longest = max(len(ids) for ids, _ in some)
            ids = np.full((len(some), longest), self.backbone.tokenizer.pad_id)
            for at, (one, _) in enumerate(some):
                ids[at, : len(one)] = one
            self.tokens += ids.size
            mask = np.arange(longest) < np.array([[len(one)] for one, _ in some])
            hidden = self.backbone.stack(
                input_ids=self._tensor(ids), attention_mask=None if mask.all() else self._tensor(mask.astype(np.int64)), use_cache=False
            ).last_hidden_state
            for place, at in enumerate(batch):
                ids_of, size = whole[at]
                states = hidden[place, len(ids_of) - size - 1 : len(ids_of) - 1]
                found[at] = float(log_probabilities(self.model, states, self._tensor(ids_of[-size:])).double().sum())
        return found.reshape(len(rows), len(labels))

    def _written(self, rows: list[np.ndarray], labels: Sequence[np.ndarray], cache: Any, shared: int) -> np.ndarray:
        """(B, K) of an encoder-decoder: the prompts are encoded once, and each label is read by the decoder behind them."""
        longest, pad = max(map(len, rows)), self.backbone.tokenizer.pad_id
        ids, mask = np.full((len(rows), longest), pad), np.zeros((len(rows), longest), dtype=np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        both: Any = self.backbone
        seen = None if mask.all() else self._tensor(mask)
        encoded = self.backbone.stack(input_ids=self._tensor(ids), attention_mask=seen).last_hidden_state
        self.tokens += ids.size
        found, start, across = np.empty((len(rows), len(labels))), both.below(ALL).start, DynamicCache()
        for at, label in enumerate(labels):
            read = self._tensor(np.concatenate([[start], label[:-1]]))[None].expand(len(rows), -1)
            cache = EncoderDecoderCache(
                DynamicCache(), across
            )  # what the decoder makes of the encoder's states is made for the first label
            given = {"encoder_hidden_states": encoded, "encoder_attention_mask": seen, "past_key_values": cache, "use_cache": True}
            hidden = both.decoder(input_ids=read, **given).last_hidden_state
            self.tokens += read.numel()
            wanted = self._tensor(label).repeat(len(rows))
            found[:, at] = log_probabilities(self.model, hidden.flatten(0, 1), wanted).view(len(rows), -1).double().sum(1).cpu().numpy()
        return found

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self.backbone.device)


class _Plan:
    """Where everything stands when the rests of prompts and all labels run as one sequence: ids and positions (B, Q), seen (B, Q, P + Q).

    A sequence is [rest of the prompt, filled up][label 1 without its last token][label 2 ...]; Q = longest rest + the labels.
    read: (B, S) which states are needed: that of the prompt's last token, then those of the labels' tokens
    wanted: (U,) the ids that occur in labels
    """

    def __init__(self, rows: list[np.ndarray], labels: Sequence[np.ndarray], shared: int, pad_id: int) -> None:
        sizes, tails = np.array([len(row) for row in rows]), [label[:-1] for label in labels]
        longest, behind = int(sizes.max()), np.concatenate([*tails, np.empty(0, dtype=np.int64)]).astype(np.int64)
        owner = np.repeat(np.arange(len(tails)), [len(tail) for tail in tails])
        within = np.concatenate([*(np.arange(len(tail)) for tail in tails), np.empty(0, dtype=np.int64)]).astype(np.int64)
        self.labels = labels
        self.ids = np.full((len(rows), longest + len(behind)), pad_id, dtype=np.int64)
        for at, row in enumerate(rows):
            self.ids[at, : len(row)] = row
        self.ids[:, longest:] = behind
        first = np.broadcast_to(np.arange(longest), (len(rows), longest))
        self.positions = shared + np.concatenate([first, sizes[:, None] + within[None]], axis=1)
        self.keys = np.concatenate([np.broadcast_to(np.arange(shared), (len(rows), shared)), self.positions], axis=1)
        self.seen = np.zeros((len(rows), self.ids.shape[1], self.keys.shape[1]), dtype=bool)
        self.seen[:, :, :shared] = True
        self.seen[:, :longest, shared : shared + longest] = np.tril(np.ones((longest, longest), dtype=bool))  # fills stand behind: unseen
        self.seen[:, longest:, shared : shared + longest] = (first < sizes[:, None])[:, None]
        self.seen[:, longest:, shared + longest :] = (owner[:, None] == owner[None]) & (within[:, None] >= within[None])
        self.read = np.concatenate(
            [sizes[:, None] - 1, np.broadcast_to(np.arange(longest, self.ids.shape[1]), (len(rows), len(behind)))], axis=1
        )
        self.wanted = np.unique(np.concatenate(labels))

    def within(self, window: int) -> np.ndarray:
        """(B, Q, P + Q): keys that are nearer than the window."""
        return self.positions[:, :, None] - self.keys[:, None] < window

    def summed(self, said: np.ndarray) -> np.ndarray:
        """From the log-probabilities (B, S, U) at the states read: (B, K), the sum over each label's tokens."""
        found, state = np.zeros((len(said), len(self.labels))), 1
        for at, label in enumerate(self.labels):
            places = np.searchsorted(self.wanted, label)
            found[:, at] = said[:, 0, places[0]]
            for place in places[1:]:
                found[:, at] += said[:, state, place]
                state += 1
        return found


def common_prefix(prompts: Sequence[np.ndarray]) -> int:
    """How many tokens all prompts begin with, at least one left over in each; 0 for a single prompt, where nothing is shared.

    >>> common_prefix([np.array([1, 2, 3]), np.array([1, 2, 4, 5])])
    2
    """
    if len(prompts) < 2:
        return 0
    least = min(map(len, prompts)) - 1
    same = np.all([prompt[:least] == prompts[0][:least] for prompt in prompts], axis=0)
    return least if same.all() else int(same.argmin())


def _grouped(prompts: Sequence[np.ndarray], groups: Sequence[Hashable] | None) -> list[list[int]]:
    """Places of the prompts of each group; those of small groups together."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for at, group in enumerate(groups or [0] * len(prompts)):
        members[group].append(at)
    large = [found for found in members.values() if len(found) >= _WORTH]
    rest = sorted(at for found in members.values() if len(found) < _WORTH for at in found)
    return [*large, rest] if rest else large
