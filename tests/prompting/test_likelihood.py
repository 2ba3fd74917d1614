"""Labels scored with what prompts share computed once, against the library's whole model on each prompt and label alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests import tiny
from tests.model.writing.test_language import DECODERS, PAIRS, saved, some
from trunkline.errors import ModelError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.prompting import likelihood
from trunkline.prompting.likelihood import Likelihood, common_prefix

SHARED = [2, 17, 9, 30, 41, 5, 12]
LABELS = [np.array(ids, dtype=np.int32) for ids in ([50], [51, 52], [50, 53, 54, 7], [60, 7])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def get(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = saved(model_type, tmp_path_factory.mktemp(model_type))
        return made[model_type]

    return get


def prompts(count: int = 9) -> list[np.ndarray]:
    """Prompts that begin alike and are of several lengths, two of them equal."""
    chance = np.random.default_rng(0)
    made = [np.array([*SHARED, *chance.integers(10, 90, 1 + at % 5)], dtype=np.int32) for at in range(count - 1)]
    return [*made, made[0]]


def oracle(folder: Path, given: list[np.ndarray]) -> np.ndarray:
    """(N, K): every prompt with every label through the library's model, one at a time."""
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    found = np.zeros((len(given), len(LABELS)))
    for n, prompt in enumerate(given):
        for k, label in enumerate(LABELS):
            said = torch.tensor(label[None].astype(np.int64))
            read = torch.tensor(prompt[None].astype(np.int64))
            with torch.no_grad():
                if config.is_encoder_decoder:
                    logits = model(input_ids=read, labels=said).logits[0]
                else:
                    logits = model(input_ids=torch.cat([read, said], dim=1)).logits[0, len(prompt) - 1 : -1]
            found[n, k] = float(logits.log_softmax(-1).gather(1, said[0][:, None]).sum())
    return found


@pytest.mark.parametrize("reuse", ["prefix", "row", "none"])
@pytest.mark.parametrize("model_type", some(DECODERS))
def test_what_is_shared_changes_nothing(model_type: str, reuse: str, folder) -> None:
    given = prompts()
    found = Likelihood(load_backbone(folder(model_type)), reuse)(given, LABELS)
    assert np.abs(found - oracle(folder(model_type), given)).max() < 1e-5 * max(1, np.abs(found).max())


@pytest.mark.parametrize("model_type", some(PAIRS))
def test_encoder_decoder_equals_the_library(model_type: str, folder) -> None:
    given = prompts()
    found = Likelihood(load_backbone(folder(model_type)))(given, LABELS)
    assert np.abs(found - oracle(folder(model_type), given)).max() < 1e-5 * max(1, np.abs(found).max())


def test_groups_share_only_what_they_have(folder) -> None:
    """Two groups with other beginnings, and one prompt alone."""
    given = [*prompts(4), *(np.concatenate([[2, 77], one[1:]]).astype(np.int32) for one in prompts(4)), np.array([2, 5, 6], dtype=np.int32)]
    groups = ["a"] * 4 + ["b"] * 4 + ["c"]
    found = Likelihood(load_backbone(folder("llama")))(given, LABELS, groups)
    assert np.abs(found - oracle(folder("llama"), given)).max() < 1e-5 * np.abs(found).max()


def test_small_batches_are_the_same(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, given = Likelihood(load_backbone(folder("llama"))), prompts()
    whole = engine(given, LABELS)
    monkeypatch.setattr(likelihood, "_CACHED", 30)
    monkeypatch.setattr(likelihood, "_LOGITS", 300)
    assert np.abs(engine(given, LABELS) - whole).max() < 1e-5 * np.abs(whole).max()


def test_less_goes_through_the_model(folder) -> None:
    spent = {}
    for reuse in ("prefix", "row", "none"):
        engine = Likelihood(load_backbone(folder("llama")), reuse)
        engine(prompts(), LABELS)
        spent[reuse] = engine.tokens
    assert spent["prefix"] < spent["row"] < spent["none"]
    # 7 shared tokens once in place of 9 times
    assert spent["row"] - spent["prefix"] == len(SHARED) * 8


def test_a_label_of_one_token_needs_no_pass_of_its_own(folder) -> None:
    engine = Likelihood(load_backbone(folder("llama")), "row")
    engine(prompts(2)[:1], [np.array([50]), np.array([51])])
    assert engine.tokens == len(prompts(2)[0])


def test_prefix_leaves_something_over() -> None:
    same = np.array([1, 2, 3])
    assert common_prefix([same, same]) == 2
    assert common_prefix([same]) == 0
    assert common_prefix([same, np.array([4, 5])]) == 0
    assert common_prefix([same, np.array([1])]) == 0


def test_encoder_is_refused(tiny_folder) -> None:
    with pytest.raises(OptionError, match="encoder and writes nothing"):
        Likelihood(load_backbone(tiny_folder("bert")))


def test_model_without_an_output_layer_is_refused(tmp_path: Path) -> None:
    folder = tiny.save("gpt_neox", tmp_path)  # not tied, and saved as a bare stack
    with pytest.raises(ModelError, match="cannot write text"):
        Likelihood(load_backbone(folder))
