"""Bar A3: no setting of a model brings in code, a file or another model."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from trunkline.errors import ModelError
from trunkline.model import configs

GOOD = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
POISONED_CONFIGS = [
    {"auto_map": {"AutoModel": "modeling_evil.Evil"}},
    {"auto_map": {"AutoConfig": "owner/name--configuration_evil.Evil"}},
    {"auto_map": {}},
    {"AUTO_MAP": {"AutoModel": "modeling_evil.Evil"}},
    {"text_config": {"auto_map": {"AutoModel": "modeling_evil.Evil"}}},
    {"parts": [{"deep": {"auto_map": "x"}}]},
    {"_attn_implementation_internal": "owner/kernel"},
    {"_attn_implementation": "owner/kernel"},
    {"_attn_implementation": "flash_attention_2"},
    {"_experts_implementation": "kernel"},
    {"_attn_implementation": {"text_config": "owner/kernel"}},
    {"attn_implementation": "kernels-community/flash-attn"},
    {"attn_implementation": "flash_attention_2"},
    {"_experts_implementation_internal": "owner/kernel"},
    {"experts_implementation": "owner/kernel"},
    {"text_config": {"_attn_implementation_internal": "evil"}},
    {"anything_internal": 1},
    {"trust_remote_code": True},
    {"trust_remote_code": False},
    {"code_revision": "main"},
    {"custom_generate": "owner/name"},
    {"custom_pipelines": {"evil": {"impl": "pipeline.Evil"}}},
    {"quantization_config": {"quant_method": "evil", "modules": "os.system"}},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    {"use_kernels": True},
    {"use_timm_backbone": True},
    {"backbone": "owner/name"},
    {"gguf_file": "weights.gguf"},
    {"base_model_name_or_path": "owner/name"},
    {"activation": "torch.nn.modules.linear.Identity"},
    {"hidden_act": "os.system"},
    {"vocab": "../../etc/passwd"},
    {"vocab": "/etc/passwd"},
    {"vocab": "</s>/etc/passwd"},
    {"vocab": "C:\\secrets"},
    {"another_model": "owner/name"},
    {"nested": {"list": ["fine", "owner/name"]}},
    {"note": "x" * 300},
    {"dtype": "load"},
    {"torch_dtype": ["float16"]},
    {"__class__": "x"},
    {"__init__": 1},
    {"to_dict": 1},
    {"save_pretrained": "x"},
    {"model_type": "evil"},
    {"model_type": ["bert"]},
    {"model_type": None},
    {"model_type": "../bert"},
]
POISONED_TOKENIZERS = [
    {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}},
    {"auto_map": ["tokenization_evil.Evil", None]},
    {"trust_remote_code": True},
    {"tokenizer_class": "EvilTokenizer"},
    {"tokenizer_class": "AutoModel"},
    {"tokenizer_class": "pipeline"},
    {"tokenizer_class": "os.system"},
    {"tokenizer_class": ["BertTokenizer"]},
    {"vocab_file": "/etc/passwd"},
    {"tokenizer_file": "../../secret.json"},
    {"merges_file": "/etc/passwd"},
    {"fast_tokenizer_files": ["tokenizer.5.0.json"]},
    {"init_inputs": ["/etc/passwd"]},
    {"gguf_file": "x.gguf"},
    {"tokenizer_object": "x"},
    {"custom_code": "x"},
]
HARMLESS = [
    {},
    {"_name_or_path": "owner/name", "transformers_version": "4.38.0.dev0", "torch_dtype": "float16"},
    {"_attn_implementation_autoset": True, "attn_implementation": "sdpa", "_attn_implementation": None},
    {"id2label": {"0": "card/lost", "1": "a.b.c"}, "label2id": {"card/lost": 0, "a.b.c": 1}},
    {"quantization_config": None, "use_cache": True, "output_past": True, "xla_device": True},
    {"task_specific_params": {"summarization": {"prefix": "summarize: see https://example.org/x"}}},
    {"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "directionality": "bidi", "language": ["en", "zh"]},
    {"prefix": "</s>", "transformers.js_config": {"dtype": "q4"}, "_model_name_or_path": "Smollm2 135M 8k Lc100K Mix1 Ep2"},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "layer_types": ["sliding_attention", "full_attention"]},
]


def written(folder: Path, name: str, values: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize("poison", POISONED_CONFIGS, ids=str)
def test_poisoned_config_is_refused(tmp_path: Path, poison: dict) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        configs.check_config(written(tmp_path, "config.json", GOOD | poison))


@pytest.mark.parametrize("poison", POISONED_TOKENIZERS, ids=str)
def test_poisoned_tokenizer_is_refused(tmp_path: Path, poison: dict) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        with pytest.raises(ModelError, match=name):
            configs.CHECKS[name](written(tmp_path, name, {"tokenizer_class": "BertTokenizer"} | poison))


@pytest.mark.parametrize("values", [{"custom_generate": "owner/name"}, {"auto_map": {}}, {"cache_implementation": "a.b"}], ids=str)
def test_poisoned_generation_config_is_refused(tmp_path: Path, values: dict) -> None:
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        configs.check_generation_config(written(tmp_path, "generation_config.json", values))


@pytest.mark.parametrize("extra", HARMLESS, ids=str)
def test_what_real_models_carry_passes(tmp_path: Path, extra: dict) -> None:
    assert configs.check_config(written(tmp_path, "config.json", GOOD | extra)) == GOOD | extra


def test_chat_template_and_known_tokenizers_pass(tmp_path: Path) -> None:
    for name in ("BertTokenizerFast", "PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizerFast", None):
        values = {"tokenizer_class": name, "chat_template": "{{ ''.__class__ }}", "added_tokens_decoder": {"1": {"content": "__x__"}}}
        configs.check_tokenizer_config(written(tmp_path, "tokenizer_config.json", values | {"tokenizer_file": None}))


@pytest.mark.parametrize("text", ["", "[]", "nope", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 200, '"x"', "\ufeff{}"], ids=repr)
def test_not_an_object(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        configs.check_config(written(tmp_path, "config.json", text))


def test_unknown_model_type_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean 'bert'"):
        configs.check_config(written(tmp_path, "config.json", {"model_type": "bertt"}))


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"auto_map.*trust_remote_code.*dtype"):
        configs.check_config(written(tmp_path, "config.json", GOOD | {"auto_map": {}, "trust_remote_code": True, "dtype": "load"}))


@pytest.mark.wide
def test_no_code_of_the_folder_runs_and_nothing_connects(tmp_path: Path) -> None:
    """The process is watched by an audit hook while every poisoned file is checked, with the code it names lying beside it."""
    names = ("modeling_evil", "configuration_evil", "tokenization_evil", "pipeline", "evil", "os")
    cases = [("config.json", GOOD | p) for p in POISONED_CONFIGS] + [("tokenizer_config.json", p) for p in POISONED_TOKENIZERS]
    for number, (file, values) in enumerate(cases):
        written(tmp_path / str(number), file, values)
        for name in names:
            (tmp_path / str(number) / f"{name}.py").write_text("raise SystemExit('code of the model was run')\n")
    script = """
        import sys
        from pathlib import Path
        import transformers
        from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase
        from trunkline.errors import ModelError
        from trunkline.model import configs
        root, events, refused = sys.argv[1], [], 0
        def watch(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
                events.append((event, arguments))
            elif event in ("exec", "compile", "import"):
                places = [getattr(a, "co_filename", a) for a in arguments]
                events.extend((event, p) for p in places if root in str(p))
            elif event == "open" and root in str(arguments[0]) and not str(arguments[0]).endswith(".json"):
                events.append((event, arguments))
        sys.addaudithook(watch)
        for path in sorted(Path(root).glob("*/*.json")):
            try:
                configs.CHECKS[path.name](path)
            except ModelError:
                refused += 1
        compile("1", root + "/self-test.py", "eval")
        print(refused, len(events))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(cases)), "1"]  # the one event is the hook's own test
