"""An exported adapter does in PEFT what the branch does here, on the plain model of the library; an imported one the other way round."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5EncoderModel

from tests.test_contract import make, rows
from tests.train.samples import make_branch, make_rows
from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import ArtefactError, OptionError
from trunkline.methods import adalora, lora
from trunkline.model.backbone import ALL, load_backbone
from trunkline.model.export import import_adapter
from trunkline.states.collate import collate
from trunkline.types import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks transformers for it
PLAIN = {"bert": AutoModel, "llama": AutoModel, "t5": T5EncoderModel, "gpt2": AutoModel}
CONFIGS = {
    "lora": lora.Config(rank=3),
    "dora": lora.Config(rank=2, dora=True),
    "rslora": lora.Config(rank=4, rslora=True, targets="attention"),
    "pissa": lora.Config(rank=2, alpha=4.0, start="pissa"),
    "adalora": adalora.Config(rank=2, initial_rank=4),
    "ia3": names.method("ia3").Config(),
}


def changed(folder, config, depth=1, by=0.1):
    """A branch whose learned weights are some way from where they start."""
    told = make(folder, "classify", "full", depth)
    method = type(config).__module__.rpartition(".")[2]
    torch.manual_seed(0)
    branch = Branch.new(told.backbone, told.spec, method, config, depth, "float32")
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * by)
    branch.network.eval()
    return branch


def hidden_of(branch):
    """The branch's last states of some texts, through trunk and layers; and the same tokens for the whole model."""
    items = branch.prepare(rows("classify"))
    batch = collate(items, None, branch.spec, branch.backbone.tokenizer.pad_id)
    with torch.no_grad():
        return branch.network(collate(items, branch.source(), branch.spec, branch.backbone.tokenizer.pad_id)).hidden, batch


def peft_states(kind, model_folder, adapter, batch):
    model = PeftModel.from_pretrained(kind.from_pretrained(model_folder), str(adapter)).eval()
    with torch.no_grad():
        return model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("name", CONFIGS)
def test_peft_loads_what_is_exported_and_gives_the_same_states(name, family, tiny_folder, tmp_path):
    branch = changed(tiny_folder(family), CONFIGS[name])
    folder = branch.export(tmp_path / "adapter")
    wanted, batch = hidden_of(branch)
    got = peft_states(PLAIN[family], tiny_folder(family), folder, batch)
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)
    plain = PLAIN[family].from_pretrained(tiny_folder(family)).eval()
    with torch.no_grad():
        untouched = plain(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
    assert not torch.allclose(untouched[batch.mask], wanted[batch.mask], atol=1e-2), "the adapter does something"


@pytest.mark.parametrize(("family", "depth"), [("gpt2", 2), ("bert", ALL), ("llama", ALL)])
def test_other_weights_and_depths(family, depth, tiny_folder, tmp_path):
    branch = changed(tiny_folder(family), lora.Config(rank=2), depth)
    wanted, batch = hidden_of(branch)
    got = peft_states(PLAIN[family], tiny_folder(family), branch.export(tmp_path / "adapter"), batch)
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


def test_ranks_that_differ_are_kept_and_an_update_without_rank_is_left_out(tiny_folder, tmp_path):
    branch = changed(tiny_folder("bert"), CONFIGS["adalora"])
    layers = branch.network.upper.encoder.layer[0]
    with torch.no_grad():
        layers.attention.self.query.lora_E["default"].zero_()
        layers.attention.self.key.lora_E["default"][1:] = 0
    folder = branch.export(tmp_path / "adapter")
    told = json.loads((folder / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA"
    assert told["rank_pattern"] == {"encoder.layer.2.attention.self.key": 1}
    assert "encoder.layer.2.attention.self.query" not in told["target_modules"]
    wanted, batch = hidden_of(branch)
    got = peft_states(AutoModel, tiny_folder("bert"), folder, batch)
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


def test_the_head_stands_beside_it_and_gives_the_logits_as_the_readme_says(tiny_folder, tmp_path):
    branch = changed(tiny_folder("bert"), CONFIGS["lora"])
    folder = branch.export(tmp_path / "adapter")
    _, batch = hidden_of(branch)
    states = peft_states(AutoModel, tiny_folder("bert"), folder, batch)
    head = safetensors.torch.load_file(folder / "head.safetensors")
    told = json.loads((folder / "head.json").read_text())
    assert told["pooling"] == "mean"
    pooled = (states * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
    probabilities = (pooled @ head["linear.weight"].T + head["linear.bias"]).softmax(1).numpy()
    wanted = np.stack([answer.scores for answer in branch.answers(branch.prepare(rows("classify")))])
    assert np.allclose(probabilities, wanted, atol=1e-5)
    readme = (folder / "README.md").read_text()
    assert "AutoModel.from_pretrained" in readme
    assert "pool the tokens (mean)" in readme


@pytest.mark.parametrize("method", ["full", "bitfit", "adapter", "prefix", "prompt", "norm", "probe"])
def test_what_peft_has_no_form_for_is_refused(method, tiny_folder, tmp_path):
    branch = make_branch(tiny_folder("bert"), make_rows(), method=method)
    with pytest.raises(OptionError, match="PEFT has no adapter"):
        branch.export(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_rounded_trunk_and_a_folder_of_something_else_are_refused(tiny_folder, tmp_path):
    told = make(tiny_folder("bert"), "classify", "lora", 1)
    rounded = load_backbone(tiny_folder("bert"), trunk_precision="int8")
    branch = Branch.new(rounded, told.spec, "lora", lora.Config(), 1, "float32")
    with pytest.raises(OptionError, match="rounded trunk"):
        branch.export(tmp_path / "adapter")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ArtefactError, match="not an exported adapter"):
        told.export(tmp_path / "letters")
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("task", "family", "depth"), [("generate", "llama", 2), ("seq2seq", "t5", 1), ("seq2seq", "t5", 3), ("seq2seq", "t5", ALL)]
)
@pytest.mark.parametrize("name", ["lora", "pissa", "ia3"])
def test_the_adapter_of_a_task_that_writes_is_for_the_model_that_writes(name, task, family, depth, tiny_folder, tmp_path):
    config = CONFIGS[name]
    plain = make(tiny_folder(family), task, "full", depth)
    torch.manual_seed(0)
    branch = Branch.new(plain.backbone, plain.spec, type(config).__module__.rpartition(".")[2], config, depth, "float32")
    with torch.no_grad():
        for parameter in branch.network.learned().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = branch.export(tmp_path / "adapter")
    assert not (folder / "head.safetensors").exists(), "the head is the model's own"
    kind = AutoModelForCausalLM if task == "generate" else AutoModelForSeq2SeqLM
    assert kind.__name__ in (folder / "README.md").read_text()
    model = PeftModel.from_pretrained(kind.from_pretrained(tiny_folder(family)), str(folder)).eval()
    items = branch.prepare(rows(task))
    batch = collate(items, branch.source(), branch.spec, branch.backbone.tokenizer.pad_id)
    whole = collate(items, None, branch.spec, branch.backbone.tokenizer.pad_id)
    branch.network.eval()
    with torch.no_grad():
        wanted = branch.network(batch).hidden
        if task == "generate":
            got = model(input_ids=whole.ids, attention_mask=whole.mask.long(), output_hidden_states=True).hidden_states[-1]
            counts = whole.mask
        else:
            said = branch.network.below.said(batch)
            told = {"input_ids": whole.ids, "attention_mask": whole.mask.long(), "decoder_input_ids": said}
            got = model(**told, output_hidden_states=True).decoder_hidden_states[-1]
            counts = batch.targets != IGNORE
    rounded = name == "pissa" and depth == ALL  # a weight that is taken apart and put together again in each of five layers
    assert torch.allclose(got[counts], wanted[counts], atol=1e-4 if rounded else 1e-5)


# The other way round


def made_by_peft(kind, model_folder, config, folder):
    """An adapter that PEFT made and saved, and the plain model with it."""
    torch.manual_seed(1)
    model = get_peft_model(kind.from_pretrained(model_folder), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


TOLD = {
    "bert": LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], layers_to_transform=[1, 2], layers_pattern="layer"),
    "llama": LoraConfig(r=2, lora_alpha=4, target_modules=["layers.3.self_attn.q_proj", "layers.3.mlp.down_proj"], use_rslora=True),
    "t5": LoraConfig(r=2, target_modules=["q", "wo"], layers_to_transform=[2], layers_pattern="block", use_dora=True),
}
DEPTHS = {"bert": 2, "llama": 1, "t5": 1}


@pytest.mark.parametrize("family", TOLD)
def test_a_branch_begins_with_an_adapter_of_peft(family, tiny_folder, tmp_path):
    model = made_by_peft(PLAIN[family], tiny_folder(family), TOLD[family], tmp_path / "peft")
    spec = make(tiny_folder(family), "classify", "full", 1).spec
    for depth in (None, DEPTHS[family] + 1):
        branch = Branch.from_adapter(load_backbone(tiny_folder(family)), spec, tmp_path / "peft", depth, "float32")
        assert branch.depth == (depth or DEPTHS[family])
        wanted, batch = hidden_of(branch)
        with torch.no_grad():
            got = model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


def test_an_adapter_of_a_model_that_writes_has_the_same_layers(tiny_folder, tmp_path):
    told = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[3], rank_pattern={"q_proj": 1}, alpha_pattern={"q_proj": 5})
    model = made_by_peft(AutoModelForCausalLM, tiny_folder("llama"), told, tmp_path / "peft")
    spec = make(tiny_folder("llama"), "classify", "full", 1).spec
    branch = Branch.from_adapter(load_backbone(tiny_folder("llama")), spec, tmp_path / "peft", None, "float32")
    wanted, batch = hidden_of(branch)
    with torch.no_grad():
        got = model.base_model.model.model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
    assert torch.allclose(got[batch.mask], wanted[batch.mask], atol=1e-5)


def test_there_and_back_is_the_same_branch(tiny_folder, tmp_path):
    branch = changed(tiny_folder("bert"), lora.Config(rank=3, alpha=7.5, targets="attention"), 2)
    again = Branch.from_adapter(branch.backbone, branch.spec, branch.export(tmp_path / "adapter"), None, "float32")
    assert again.depth == 2
    assert torch.allclose(hidden_of(again)[0], hidden_of(branch)[0], atol=1e-6)


def test_a_layer_below_the_cut_is_named(tiny_folder, tmp_path):
    made_by_peft(AutoModel, tiny_folder("bert"), TOLD["bert"], tmp_path / "peft")
    backbone, spec = load_backbone(tiny_folder("bert")), make(tiny_folder("bert"), "classify", "full", 1).spec
    with pytest.raises(OptionError, match=r"changes layer 1 \(attention\.self\.\w+\).* Use depth 2 or more"):
        Branch.from_adapter(backbone, spec, tmp_path / "peft", 1)


def test_a_branch_with_both_halves_of_a_model_cannot_begin_with_an_adapter(tiny_folder, tmp_path):
    made_by_peft(T5EncoderModel, tiny_folder("t5"), TOLD["t5"], tmp_path / "peft")
    backbone, spec = load_backbone(tiny_folder("t5")), make(tiny_folder("t5"), "seq2seq", "full", 1).spec
    with pytest.raises(OptionError, match="both halves"):
        Branch.from_adapter(backbone, spec, tmp_path / "peft")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (LoraConfig(target_modules=["word_embeddings"]), "embeddings"),
        (LoraConfig(target_modules=["query"], bias="all"), "bias='all'"),
        (IA3Config(target_modules=["query"], feedforward_modules=[]), "peft_type='IA3'"),
    ],
)
def test_what_is_no_plain_lora_of_the_layers_is_refused(told, expected, tiny_folder, tmp_path):
    made_by_peft(AutoModel, tiny_folder("bert"), told, tmp_path / "peft")
    with pytest.raises(ArtefactError, match=expected):
        import_adapter(load_backbone(tiny_folder("bert")), tmp_path / "peft")


def test_a_damaged_or_missing_adapter_is_refused(tiny_folder, tmp_path):
    made_by_peft(AutoModel, tiny_folder("bert"), TOLD["bert"], tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    for folder in (tmp_path / "peft", tmp_path / "nowhere"):
        with pytest.raises(ArtefactError, match="not a PEFT adapter"):
            import_adapter(load_backbone(tiny_folder("bert")), folder)
