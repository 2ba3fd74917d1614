"""The four real models: got from the package index (or found in the cache), whole, and answering as they should."""

import math

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from trunkline import storage
from trunkline.errors import TrunklineError
from trunkline.model import safety, sources, weights

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("default")]
SAFE = {"local_files_only": True, "trust_remote_code": False}


def folder_of(name: str) -> str:
    try:
        folder = sources.get(name)
    except TrunklineError as error:
        pytest.skip(f"{name} cannot be had here: {error}")
    safety.verify(folder)
    return str(folder)


def similarities(folder: str, texts: list[str]) -> list[float]:
    """Cosine of the first text with each other one, mean pooled."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder, **SAFE), AutoModel.from_pretrained(folder, dtype=torch.float32, **SAFE)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    unit = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    return (unit[1:] @ unit[0]).tolist()


def parameters(name: str) -> int:
    header = weights.check_safetensors(storage.cache_folder() / "models" / name / "model.safetensors")
    return sum(math.prod(entry["shape"]) for entry in header.values() if entry["dtype"].startswith("F"))


def test_minilm() -> None:
    near, far = similarities(
        folder_of("minilm"), ["A man is eating food.", "A man is eating a piece of bread.", "The market fell sharply."]
    )
    assert near == pytest.approx(0.755, abs=0.01)
    assert far < 0.1


def test_e5_small_across_languages() -> None:
    near, far = similarities(
        folder_of("e5-small"), ["query: How do I cancel my order?", "query: 怎么取消我的订单？", "query: 今天天气很好"]
    )
    assert near > 0.85
    assert near > far + 0.1


def test_smollm2() -> None:
    folder = folder_of("smollm2")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder, **SAFE),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **SAFE),
    )
    prompt = tokenizer("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "The capital of France is Paris."


def test_t5_small() -> None:
    folder = folder_of("t5-small")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder, **SAFE),
        AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, **SAFE),
    )
    prompt = tokenizer("The user asked to fix the failing login test. I edited auth.py and the test suite passed.", return_tensors="pt")
    title = tokenizer.decode(model.generate(**prompt, max_new_tokens=16, do_sample=False)[0], skip_special_tokens=True)
    assert 1 <= len(title.split()) <= 10
    assert {"fix", "login", "test", "authentication", "failing"} & set(title.lower().split())


def test_table_says_what_is_there() -> None:
    for info in sources.known():
        if info.path is not None:
            assert parameters(info.name) == info.parameters
