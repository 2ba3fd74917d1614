"""A masked model with its output layer: what word stands in a gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trunkline.errors import ModelError, OptionError
from trunkline.model.backbone import Backbone
from trunkline.model.batches import pad
from trunkline.prompting.template import Template
from trunkline.types import Tokens


class Cloze:
    """The library's model for gaps around a backbone. Raises: ModelError where the folder has no output layer for them, OptionError for a decoder."""

    def __init__(self, backbone: Backbone) -> None:
        if backbone.family.kind != "encoder":
            raise OptionError(f"by='cloze': {backbone.name!r} is a {backbone.family.kind} and fills no gaps. Use 'likelihood'.")
        self.backbone, self.tokenizer = backbone, backbone.tokenizer
        names: Any = AutoTokenizer.from_pretrained(backbone.folder, local_files_only=True, trust_remote_code=False)
        self.gap: int | None = names.mask_token_id
        self.shell: Any = _shell(backbone) if self.gap is not None else None
        if self.shell is None:
            raise ModelError(
                f"{backbone.folder}: has no output layer for gaps (or no mask token), as models have none that were trained to compare "
                "texts. Use by='similarity', or a model that was published with it (…ForMaskedLM)."
            )

    def words(self, template: Template) -> list[int]:
        """The id of each label's word. Raises: OptionError for words of several tokens: one gap holds one."""
        found, before = [], self.tokenizer.pieces(template.lead)
        for label, word in template.labels.items():
            ids = self.tokenizer.pieces(f"{template.lead}{template.gap}{word}")[len(before) :]
            if len(ids) != 1:
                raise OptionError(
                    f"label {label!r}: {word!r} is {len(ids)} tokens for this model, and a gap holds one. Give it another word."
                )
            found.append(int(ids[0]))
        return found

    def behind(self, template: Template) -> np.ndarray:
        """The ids that stand behind a prompt: the gap, and the rest of the form."""
        rest = self.tokenizer.pieces(template.form[template.form.index("{label}") + len("{label}") :])
        return np.concatenate([[self.gap], rest]).astype(np.int32)

    @torch.no_grad()
    def __call__(self, given: Sequence[tuple[np.ndarray, int]], words: Sequence[int]) -> np.ndarray:
        """Texts with a gap -> log-probability of each word (B, K) float64."""
        ids, mask, _ = pad([Tokens(one) for one, _ in given], self.tokenizer.pad_id)
        device = self.backbone.device
        logits = self.shell(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits
        at = logits[torch.arange(len(given)), torch.tensor([place for _, place in given])].float().log_softmax(-1)
        return at[:, list(words)].double().cpu().numpy()


def _shell(backbone: Backbone) -> Any:
    """The library's model with its output layer read and the backbone's layers in it; None where the folder has no such layer."""
    level, shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        shell, report = AutoModelForMaskedLM.from_pretrained(
            backbone.folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except ValueError:  # a configuration for which the library has no such model
        return None
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
    if any(not name.startswith(f"{shell.base_model_prefix}.") for name in report["missing_keys"]):
        return None
    setattr(shell, shell.base_model_prefix, backbone.model)
    return shell.eval().requires_grad_(False).to(backbone.device)
