"""A backbone's own output layer against the library's whole model for text: likelihoods, gradients, and texts, at every depth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from tests import tiny
from trunkline.errors import ModelError
from trunkline.model.backbone import ALL, load_backbone
from trunkline.model.batches import pad
from trunkline.model.families import FAMILIES
from trunkline.model.network import Network, own
from trunkline.model.writing import language
from trunkline.model.writing.generation import WritingSpec
from trunkline.model.writing.language import LanguageHead, LanguageModel, likelihood, log_probabilities
from trunkline.states.collate import collate
from trunkline.states.live import LiveStates
from trunkline.types import IGNORE, Batch, Item, Tokens

DECODERS = sorted(name for name, family in FAMILIES.items() if family.kind == "decoder")
PAIRS = sorted(name for name, family in FAMILIES.items() if family.decoder)
SPEC = WritingSpec(max_new_tokens=8)
QUICK = ("gpt2", "llama", "t5")  # the families of the quick tests; the others are among the wide ones
TARGETS = ["the package", "请帮我查一下", "cancel the money", "who", "my account today please", "i", "退款 谢谢 谢谢"]


def some(names):
    """The families, those that are not quick marked as wide."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.wide) for name in names]


def saved(model_type: str, folder: Path, *, words: Any = None, **told: object) -> Path:
    """A tiny random model with its output layer, as its makers would save it."""
    words = words or tiny.tokenizer()
    sizes = {**tiny.SIZES[model_type], "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 0, **told}
    config = AutoConfig.for_model(model_type, vocab_size=len(words), **sizes)
    torch.manual_seed(0)
    model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if told.get("tie_word_embeddings") is False and config.is_encoder_decoder:
        _untie(folder)
    return folder


def _untie(folder: Path) -> None:
    """Give a saved T5 an output layer of its own, as the later ones have. The library goes by the values in the files, not by the settings."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape, generator=torch.Generator().manual_seed(5))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def get(model_type, **told):
        key = (model_type, *told.items())
        if key not in made:
            made[key] = saved(model_type, tmp_path_factory.mktemp(model_type), **told)
        return made[key]

    return get


def oracle(folder: Path):
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def items(backbone, targets=True):
    """The tiny texts; what counts is the end of each (decoders), or a text of its own (encoder-decoders)."""
    found = []
    for text, target in zip(tiny.TEXTS, TARGETS):
        ids = backbone.tokenizer.encode(text, max_tokens=32)[0].ids
        ids = ids[:-1] if backbone.family.kind == "decoder" else ids
        wanted = np.where(np.arange(len(ids)) < 3, IGNORE, ids) if backbone.family.kind == "decoder" else None
        wanted = backbone.tokenizer.encode(target, max_tokens=32)[0].ids.astype(np.int64) if wanted is None else wanted
        found.append(Item((Tokens(ids),), wanted if targets else None, about=ids))
    return found


def batch_of(backbone, depth, made, spec=SPEC):
    return collate(made, None if depth == ALL else LiveStates(backbone.trunk(depth)), spec, backbone.tokenizer.pad_id)


def seen(folder):
    backbone = load_backbone(folder)
    return backbone.seen_by((backbone.family.kind,))


def whole_log_probabilities(folder, backbone, made):
    """What torch's cross-entropy makes of the logits of the library's model, in the order of the rows."""
    ids, mask, _ = pad([item.tokens[0] for item in made], backbone.tokenizer.pad_id)
    targets = collate(made, None, SPEC).targets
    model = oracle(folder)
    with torch.no_grad():
        if backbone.family.kind == "decoder":
            logits, targets = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1], targets[:, 1:]
        else:
            logits = model(input_ids=ids, attention_mask=mask.long(), labels=targets).logits
    each = functional.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none", ignore_index=IGNORE)
    return -each[targets != IGNORE], each.sum(1), (targets != IGNORE).sum(1)


def depths(backbone):
    return [*range(backbone.layers + 1), ALL]


VARIANTS = [pytest.param(*one.values, {}, marks=one.marks) for one in some((*DECODERS, *PAIRS))]
VARIANTS += [
    pytest.param(name, told, marks=pytest.mark.wide)
    for name, told in (
        ("llama", {"tie_word_embeddings": False}),
        ("gpt_neox", {"tie_word_embeddings": False}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("t5", {"tie_word_embeddings": False}),
        ("t5", {"num_decoder_layers": 4, "num_layers": 1}),
    )
]


@pytest.mark.parametrize(("model_type", "told"), VARIANTS)
def test_likelihoods_are_the_whole_models_at_every_depth(model_type, told, folder):
    path = folder(model_type, **told)
    backbone = seen(path)
    made = items(backbone)
    wanted, nll, tokens = whole_log_probabilities(path, backbone, made)
    assert tokens.sum() > 20
    for depth in depths(backbone):
        network = Network(backbone, depth, LanguageHead()).eval()
        with torch.no_grad():
            out = network(batch_of(backbone, depth, made))
        assert torch.allclose(out.logits, wanted, atol=2e-5), depth
        found = likelihood(out, len(made))
        assert torch.allclose(found[0].float(), nll, atol=2e-4)
        assert torch.equal(found[1], tokens)


@pytest.mark.parametrize(("model_type", "told"), VARIANTS)
def test_greedy_texts_are_the_whole_models_at_every_depth(model_type, told, folder):
    path = folder(model_type, **told)
    backbone = seen(path)
    made = items(backbone, targets=False)
    model = oracle(path)
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=3, pad_token_id=0, decoder_start_token_id=0)
    wanted = []
    for item in made:  # one by one, so that no padding can help or harm
        ids = torch.from_numpy(item.tokens[0].ids.astype(np.int64))[None]
        cached = not model.config.is_encoder_decoder  # the library's cache has the encoder's number of layers
        said = model.generate(ids, generation_config=settings, attention_mask=torch.ones_like(ids), use_cache=cached)[0].tolist()
        new = said[1:] if backbone.family.kind != "decoder" else said[ids.shape[1] :]
        wanted.append(backbone.tokenizer.text(new))
    assert len(set(wanted)) > 1
    for depth in depths(backbone):
        batch = batch_of(backbone, depth, made)
        assert not batch.mask.all()
        assert Network(backbone, depth, LanguageHead()).eval()(batch).generate() == wanted, depth


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5"])
def test_texts_by_beams_are_the_whole_models(model_type, folder):
    path = folder(model_type)
    backbone, model = seen(path), oracle(path)
    made = items(backbone, targets=False)
    batch = batch_of(backbone, 1, made, WritingSpec(max_new_tokens=8, beams=4))
    settings = GenerationConfig(max_new_tokens=8, num_beams=4, eos_token_id=3, pad_token_id=0, decoder_start_token_id=0)
    wanted = []
    for item in made:
        ids = torch.from_numpy(item.tokens[0].ids.astype(np.int64))[None]
        new = model.generate(ids, generation_config=settings, attention_mask=torch.ones_like(ids))[0].tolist()
        wanted.append(backbone.tokenizer.text(new[1 if model.config.is_encoder_decoder else ids.shape[1] :]))
    network = Network(backbone, 1, LanguageHead()).eval()
    assert network.write(batch) == wanted
    assert network.write(batch_of(backbone, 1, made)) != wanted, "beams find other texts"


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "t5"])
def test_pieces_change_neither_values_nor_gradients(model_type, folder, monkeypatch):
    backbone = seen(folder(model_type))
    model, generator = LanguageModel(backbone), torch.Generator().manual_seed(0)
    hidden = torch.randn(11, backbone.width, generator=generator, requires_grad=True)
    wanted = torch.randint(backbone.config.vocab_size, (11,), generator=generator)
    weights = torch.randn(11, generator=generator)
    plain = -functional.cross_entropy(model.logits(hidden), wanted, reduction="none")
    (expected,) = torch.autograd.grad((plain * weights).sum(), hidden)
    for at_once in (1, backbone.config.vocab_size * 3, 1 << 30):
        monkeypatch.setattr(language, "_LOGITS_AT_ONCE", at_once)
        found = log_probabilities(model, hidden, wanted)
        (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)
        assert torch.allclose(found, plain, atol=1e-5)
        assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_where_embeddings_train_a_tied_output_layer_trains_too(model_type, folder):
    """Against the library's model: the gradient of the embeddings is that of both their uses."""
    path = folder(model_type)
    backbone = seen(path)
    made = items(backbone)
    network = Network(backbone, ALL, LanguageHead()).eval()
    own(network, lambda name: True)
    batch = batch_of(backbone, ALL, made)
    loss = -network(batch).logits.mean()
    loss.backward()
    model = oracle(path)
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    model(**given, labels=batch.targets).loss.backward()
    learned = {id(p): p for p in network.learned().values()}
    shapes = [p.grad for p in learned.values() if p.shape == model.get_input_embeddings().weight.shape]
    assert len(shapes) == 1
    assert torch.allclose(shapes[0], model.get_input_embeddings().weight.grad, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "t5"])
@pytest.mark.parametrize("depth", [1, 2, ALL])
def test_writing_uses_the_branchs_layers_and_no_second_copy_of_a_weight(model_type, depth, folder):
    backbone = seen(folder(model_type))
    network = Network(backbone, depth, LanguageHead()).eval()
    batch = batch_of(backbone, depth, items(backbone, targets=False))
    before = network.write(batch)
    own(network, lambda name: True)
    with torch.no_grad():
        for parameter in network.learned().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert network.write(batch) != before
    model = network.head.model.around(backbone.whole(network.upper, depth))
    network._follow_embeddings()
    ours = {p.data_ptr() for p in (*backbone.model.parameters(), *network.parameters(), *network.head.model.shell.parameters())}
    assert {p.data_ptr() for p in model.parameters()} <= ours


def test_the_files_decide_whether_the_output_layer_is_tied(folder):
    assert LanguageModel(seen(folder("t5"))).tied
    assert not LanguageModel(seen(folder("t5", tie_word_embeddings=False))).tied
    assert not LanguageModel(seen(folder("llama", tie_word_embeddings=False))).tied
    assert not oracle(folder("t5", tie_word_embeddings=False)).lm_head.weight.equal(seen(folder("t5")).model.shared.weight)


def test_an_output_layer_that_no_file_holds_is_an_error(tmp_path):
    words = tiny.tokenizer()
    config = AutoConfig.for_model("llama", vocab_size=len(words), **{**tiny.SIZES["llama"], "tie_word_embeddings": False})
    AutoModelForCausalLM.from_config(config).model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        Network(load_backbone(tmp_path), 1, LanguageHead())


def test_the_head_has_nothing_to_learn_and_nothing_is_run_before_a_text_is_asked_for(folder):
    backbone = seen(folder("llama"))
    network = Network(backbone, 1, LanguageHead())
    assert not network.learned()
    network.upper.register_forward_pre_hook(lambda *_: pytest.fail("the layers ran"))
    out = network(Batch(torch.zeros(1, 3, backbone.width), torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.long), SPEC))
    assert out.generate is not None


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "text", "target"), [("t5-small", "translate English to German: A dog is running.", "Ein Hund läuft."),
                                                      ("smollm2", "The capital of France is Paris, and that of Italy is Rome.", None)])  # fmt: skip
def test_a_real_model_finds_a_text_as_likely_as_the_library_does(name, text, target):
    backbone = load_backbone(name)
    backbone = backbone.seen_by((backbone.family.kind,))
    tokens, _ = backbone.tokenizer.encode(text, max_tokens=64)
    ids = torch.from_numpy(tokens.ids.astype(np.int64))[None]
    wanted = ids[0].numpy() if target is None else backbone.tokenizer.encode(target, max_tokens=64)[0].ids.astype(np.int64)
    with torch.no_grad():
        loss = oracle(backbone.folder)(input_ids=ids, labels=torch.from_numpy(wanted)[None]).loss
        network = Network(backbone, 2, LanguageHead()).eval()
        out = network(batch_of(backbone, 2, [Item((tokens,), wanted)]))
    assert -out.logits.mean().item() == pytest.approx(loss.item(), abs=1e-4)
