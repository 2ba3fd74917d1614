"""The decoder half of an encoder-decoder, as far as a branch does not hold it: what lies between the stored states and the cut.

A branch that writes counts its depth from the top of the decoder, through it, and on into the encoder. The store holds the encoder's states
at the lowest cut; the decoder's layers below the cut stay as they are, and run in every pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trunkline.types import IGNORE, Batch


class Below(nn.Module):
    """The frozen rest. Called with the batch and the branch's layers: the decoder's last hidden states (S, U, D), read with the targets.

    norm: what follows the encoder's last layer, where the branch holds no encoder layer; decoder: its embeddings and lower layers;
    start: the id that every decoded text begins with.
    """

    def __init__(self, norm: nn.Module | None, decoder: nn.Module | None, start: int) -> None:
        super().__init__()
        self.norm, self.decoder, self.start = norm, decoder, start

    def forward(self, batch: Batch, upper: Any) -> torch.Tensor:
        encoded, said = self.encoded(batch, upper), self.said(batch)
        given: dict[str, Any] = {"encoder_hidden_states": encoded, "encoder_attention_mask": mask_of(batch), "use_cache": False}
        if self.decoder is None:
            return upper["decoder"](input_ids=said, **given).last_hidden_state
        with torch.no_grad():
            hidden = self.decoder(input_ids=said, **given).last_hidden_state
        return upper["decoder"](inputs_embeds=hidden, **given).last_hidden_state

    def encoded(self, batch: Batch, upper: Any) -> torch.Tensor:
        """The encoder's last hidden states (S, T, D): from the stored ones, or from token ids where the whole model runs."""
        if batch.hidden is None:
            return upper["encoder"](input_ids=batch.ids, attention_mask=mask_of(batch)).last_hidden_state
        if "encoder" in upper:
            return upper["encoder"](inputs_embeds=batch.hidden, attention_mask=mask_of(batch)).last_hidden_state
        with torch.no_grad():
            return self.norm(batch.hidden) if self.norm is not None else batch.hidden

    def said(self, batch: Batch) -> torch.Tensor:
        """What the decoder reads (S, U): the start, then the targets but for the last; the start alone where there are none.

        Behind a target's end stands anything: no state that counts looks there.
        """
        start = torch.full((len(batch.mask), 1), self.start, device=batch.mask.device)
        if batch.targets is None:
            return start
        targets = batch.targets.flatten(0, -2)[:, :-1]
        return torch.cat([start, targets.masked_fill(targets == IGNORE, self.start)], dim=1)

    def train(self, mode: bool = True) -> Below:
        """Frozen layers stay in eval mode."""
        return super().train(False)


def mask_of(batch: Batch) -> torch.Tensor | None:
    """The mask as the library wants it; None where nothing is padded."""
    return None if bool(batch.mask.all()) else batch.mask.long()
