"""The JSON files of a model folder, checked before `transformers` sees them: nothing in them may name code, a file or another model.

Twice a configuration file ran code although remote code was switched off (CVE-2026-4372: `_attn_implementation_internal`;
CVE-2026-22807: `auto_map`). So the rule is about what is allowed: the model type is one that `transformers` itself brings, and
a value that nobody here knows may be a number, a truth value or a plain word, but never a path, a module or an address.

Why not refuse, or leave out, every key that the configuration class does not list: the library itself reads some that are not listed
(DeBERTa's `norm_rel_ebd` and `conv_kernel_size`, T5's `decoder_start_token_id`), so real models would be shut out or, worse, run wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trunkline.errors import ModelError, unknown
from trunkline.storage import from_json

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADVICE = "Use a model that transformers loads without code of its own."
_DELETE = "Or, where transformers knows the model without them, delete these keys from the file."

_REMOTE = {"auto_map", "trust_remote_code", "code_revision", "custom_generate", "custom_pipelines", "custom_code"}
_KERNELS = {"use_kernels", "kernel_config", "allow_all_kernels", "use_pretrained_backbone", "use_timm_backbone", "backbone"}
_FORBIDDEN = _REMOTE | _KERNELS | {"gguf_file", "tokenizer_object", "init_inputs", "base_model_name_or_path"}
_ATTENTION = {None, "eager", "sdpa"}
_DTYPES = {None, "auto", "float32", "float16", "bfloat16", "float64"}
# Values here are names and sentences for people: labels, prompts, where the model came from. Nothing is looked up by them.
_FREE_TEXT = {
    "_name_or_path",
    "name_or_path",
    "transformers.js_config",
    "id2label",
    "label2id",
    "task_specific_params",
    "finetuning_task",
    "license",
    "chat_template",
}
_FREE_TOKENS = {"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "special_tokens_map_file"}
_NAMES_SOMETHING = re.compile(r"[/\\\0]|[A-Za-z_]\.[A-Za-z_]|--|::|\.\.")
_TOKEN = re.compile(r"</?\w{1,20}>")  # "</s>" is a word of the model, not a path
_MAX_WORD = 256


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: ModelError when it is missing, not strict JSON, or not an object."""
    if not path.is_file():
        raise ModelError(f"{path}: is not there, and every model needs it. Give the folder that save_pretrained() wrote.")
    try:
        value = from_json(path.read_bytes(), str(path))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}). Get the model again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a {type(value).__name__}, and an object {{...}} is needed. Get the model again.")
    return value


def check_config(path: Path) -> dict[str, Any]:
    """The values of a `config.json` that is safe to hand on.

    Raises: ModelError that names each key that could run code, reach a file or another model, or is of an unknown model type.
    """
    values = read_json(path)
    _refuse(path, [*_forbidden(values), *_odd_values(values), *_method_names(values)])
    from transformers import CONFIG_MAPPING  # heavy, and not needed by `trunkline models`

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise unknown(f"{path}: model_type", kind, CONFIG_MAPPING.keys(), ModelError)
    return values


def check_tokenizer_config(path: Path) -> None:
    """Refuse a `tokenizer_config.json` or `special_tokens_map.json` that names code or another file.

    A chat template in it is left alone: it is never rendered.
    """
    values = read_json(path)
    files = [f"{key} = {value!r} names a file" for key, value in values.items() if _names_file(key) and value]
    _refuse(path, [*_forbidden(values), *files])
    name = values.get("tokenizer_class")
    if name is not None and not _is_tokenizer(name):
        raise ModelError(f"{path}: tokenizer_class={name!r} is not a tokenizer that transformers brings. {ADVICE}")


def check_generation_config(path: Path) -> None:
    """Refuse a `generation_config.json` that names code."""
    values = read_json(path)
    _refuse(path, [*_forbidden(values), *_odd_values(values)])


CHECKS: dict[str, Callable[[Path], Any]] = {
    CONFIG: check_config,
    TOKENIZER_CONFIG: check_tokenizer_config,
    "special_tokens_map.json": check_tokenizer_config,
    "generation_config.json": check_generation_config,
}
"""Every JSON file of settings that `transformers` reads from a folder, and its check."""


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
        raise ModelError(f"{path}: refused, because {'; '.join(problems[:10])}{more}. {ADVICE} {_DELETE}")


def _walk(values: Any, free: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Every key at any depth with its value, and whether it stands under a key whose text is free."""
    for key, value in values.items() if isinstance(values, dict) else (("", item) for item in values):
        inside = free or key in _FREE_TEXT or key in _FREE_TOKENS
        if key:
            yield key, value, inside
        if isinstance(value, dict | list):
            yield from _walk(value, inside)


def _forbidden(values: dict[str, Any]) -> list[str]:
    """Keys that switch on code, kernels or other models, wherever they stand."""
    problems = []
    for key, value, free in _walk(values):
        name, empty = key.lower(), value is None or isinstance(value, bool) or value in ([], {}, "")
        if name in _FORBIDDEN and not free and (value or name in _REMOTE):
            problems.append(f"{key!r} can bring in code or files from elsewhere")
        elif name.endswith("_internal") or (name.startswith("__") and not free):
            problems.append(f"{key!r} is an internal of transformers")
        elif name.lstrip("_").startswith(("attn_implementation", "experts_implementation")) and not _plain_attention(key, value):
            problems.append(f"{key!r} chooses code for attention or experts")
        elif name == "quantization_config" and not empty:
            problems.append("'quantization_config' is set: quantised weights need code of their own, so use the unquantised model")
    return problems


def _plain_attention(key: str, value: Any) -> bool:
    """True for what transformers itself writes: a truth value, or (without underscore) one of its two plain kernels."""
    if key.startswith("_"):
        return value is None or isinstance(value, bool)
    return not isinstance(value, dict | list) and (isinstance(value, bool) or value in _ATTENTION)


def _odd_values(values: dict[str, Any]) -> list[str]:
    """Words that could be a path, a module or an address, and element types that are not one."""
    problems = []
    for key, value, free in _walk(values):
        if key in ("dtype", "torch_dtype") and not free and (not isinstance(value, str | None) or value not in _DTYPES):
            problems.append(f"{key}={value!r} is not one of {', '.join(sorted(filter(None, _DTYPES)))}")
        for word in () if free else value if isinstance(value, list) else [value]:
            if isinstance(word, str) and (len(word) > _MAX_WORD or _NAMES_SOMETHING.search(_TOKEN.sub("", word))):
                problems.append(f"{key}={word[:80]!r} looks like a path, a module or an address")
    return problems


def _method_names(values: dict[str, Any]) -> list[str]:
    """Keys that would replace a method of the configuration object."""
    from transformers import PreTrainedConfig

    return [f"{key!r} is the name of a method" for key in values if callable(getattr(PreTrainedConfig, key, None))]


def _names_file(key: str) -> bool:
    # `special_tokens_map_file` is the one such key that old versions wrote by themselves; it is never opened
    return key.endswith(("_file", "_files", "_path", "_dir")) and key not in ("special_tokens_map_file", "name_or_path")


def _is_tokenizer(name: Any) -> bool:
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str) or not name.isidentifier():
        return False
    found = tokenizer_class_from_name(name) or tokenizer_class_from_name(name.removesuffix("Fast"))
    return isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
