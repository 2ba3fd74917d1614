"""New texts that models write: a word in a gap, there and back through another language, the same said anew."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer

from trunkline import branch as branches
from trunkline.branch import Branch
from trunkline.errors import ModelError, OptionError
from trunkline.model.backbone import Backbone
from trunkline.model.batches import pad
from trunkline.prompting.cloze import Cloze
from trunkline.types import Tokens

_TOP = 5
_BATCH = 32


class Masked:
    """Words replaced by what a masked model puts into their place. Source: Wu et al. 2019, section 3, without the label in the model.

    Raises: ModelError for a model without an output layer for gaps (most that were trained to compare texts have none).
    """

    def __init__(self, backbone: Backbone) -> None:
        if backbone.family.kind != "encoder":
            raise ModelError(
                f"masked: {backbone.name!r} is a {backbone.family.kind} and fills no gaps. Use an encoder, or method 'neighbour'."
            )
        try:
            self._cloze = Cloze(backbone)
        except ModelError as error:
            raise ModelError(
                f"masked: {backbone.name!r} has no output layer for gaps, as models have none that were trained to compare texts. Use a model that was "
                "published with it (…ForMaskedLM), or method 'neighbour'."
            ) from error
        self._backbone = backbone
        self._tokenizer = Tokenizer.from_file(str(backbone.folder / "tokenizer.json"))

    def __call__(self, texts: Sequence[str], share: float, random: Random) -> list[str]:
        """Each text with about `share` of its tokens replaced, one after the other."""
        found = [self._backbone.tokenizer.encode(text, max_tokens=self._backbone.max_tokens)[0].ids.copy() for text in texts]
        rounds = max(1, round(share * float(np.median([len(ids) for ids in found]))))
        for _ in range(rounds):
            for start in range(0, len(found), _BATCH):
                self._replace(found[start : start + _BATCH], random)
        return [self._tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in found]

    @torch.no_grad()
    def _replace(self, rows: list[np.ndarray], random: Random) -> None:
        """In each row one token that is no control token is replaced, in place, by one of the likeliest others."""
        control = list(self._backbone.tokenizer.control_ids)
        places = [random.choice([at for at, one in enumerate(ids) if one not in control] or [0]) for ids in rows]
        old = [int(ids[at]) for ids, at in zip(rows, places)]
        for ids, at in zip(rows, places):
            ids[at] = self._cloze.gap
        batch, mask, _ = pad([Tokens(ids) for ids in rows], self._backbone.tokenizer.pad_id)
        device = self._backbone.device
        logits = self._cloze.shell(input_ids=batch.to(device), attention_mask=mask.long().to(device)).logits
        likely = logits[torch.arange(len(rows)), torch.tensor(places)].float()
        likely[:, control] = -torch.inf
        likely[torch.arange(len(rows)), torch.tensor(old)] = -torch.inf
        top = likely.topk(_TOP).indices.cpu().numpy()
        for ids, at, choices in zip(rows, places, top):
            ids[at] = random.choice(choices.tolist())


class Through:
    """What branches that write make of a text, one after the other: a paraphrase, or with two of them there and back (Sennrich et al. 2016).

    Raises: OptionError for a branch that does not write.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._chain: list[Branch] = [branches.load(folder) for folder in folders]
        for folder, one in zip(folders, self._chain):
            if one.task not in ("seq2seq", "generate"):
                raise OptionError(f"{folder}: is a branch for {one.task!r} and writes nothing. Give one for seq2seq or generate.")

    def __call__(self, texts: Sequence[str], share: float, random: Random) -> list[str]:
        """`share` and `random` are not read: what a branch writes is its own affair."""
        made = list(texts)
        for one in self._chain:
            made = [str(answer.value) for answer in one.predict([text or " " for text in made])]
        return made
