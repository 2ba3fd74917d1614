"""Gaps filled by a masked model, against the library's own whole model; and models that have no output layer for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from tests import tiny
from tests.train.samples import make_rows
from trunkline.data.split import split
from trunkline.errors import ModelError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.prompting.cloze import Cloze
from trunkline.prompting.prompt import prompt
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template

TEMPLATE = Template("{text} about {label} today", {"package": "package", "password": "password", "refund": "refund"})
SETTINGS = PromptSettings(threads=1, by="cloze", baseline_rows=0)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def folder(request, tmp_path_factory) -> Path:
    made, words = tmp_path_factory.mktemp(request.param), tiny.tokenizer()
    config = AutoConfig.for_model(request.param, vocab_size=len(words), pad_token_id=0, **tiny.SIZES[request.param])
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    model.save_pretrained(made)
    words.save_pretrained(made)
    return made


def test_equals_the_library(folder: Path, cache: Path) -> None:
    parts = split(make_rows(), validation=0.2, test=0.3)
    found = prompt(parts, folder, template=TEMPLATE, settings=SETTINGS)
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    wanted = []
    for row in parts.test:
        ids = torch.tensor(words(f"{row['text']} about [MASK] today")["input_ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, ids.tolist().index(words.mask_token_id)]
        wanted.append(logits[words.convert_tokens_to_ids(list(found.spec.labels))].softmax(-1).numpy())
    assert np.abs(found.scores(parts.test) - np.stack(wanted)).max() < 1e-5


def test_demonstrations_and_calibration(folder: Path, cache: Path) -> None:
    parts = split(make_rows(), validation=0.2, test=0.3)
    found = prompt(parts, folder, template=TEMPLATE, shots=1, pick="nearest", calibrate="contextual", settings=SETTINGS)
    assert np.allclose(found.scores(parts.test).sum(axis=1), 1)


def test_a_word_is_one_token(folder: Path) -> None:
    cloze = Cloze(load_backbone(folder))
    with pytest.raises(OptionError, match=r"'a refund' is 2 tokens"):
        cloze.words(Template("{text} about {label}", {"refund": "a refund", "package": "package"}))


def test_model_without_the_layer_is_refused(tiny_folder) -> None:
    with pytest.raises(ModelError, match="no output layer for gaps"):
        Cloze(load_backbone(tiny_folder("bert")))
