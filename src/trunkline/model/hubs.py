"""Models from the two public hubs. Only safetensors, JSON and vocabulary text are asked for; where they are kept is the hub's own cache.

Offline (HF_HUB_OFFLINE=1) a model that was downloaded before is found there; no connection is tried.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from trunkline.errors import MissingExtra, ModelError

_PATTERNS = ["*.safetensors", "*.json", "vocab.txt", "merges.txt"]
_NOT = ["*/*", "adapter_*"]
_WITHOUT_A_HUB = (
    "Without the hub these work: a folder (copy the model from a machine that has it: ./my-model), "
    "and the models of `trunkline models`, which come from the package index."
)


def from_hugging_face(name: str, revision: str | None = None) -> Path:
    """The folder of "owner/name" in the Hugging Face cache, downloaded or completed first when online.

    Raises: ModelError when it cannot be had, with what works instead.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_NOT)
    except Exception as error:  # the hub's client has a dozen kinds of its own, and passes on those of its network library
        state = f"{_first_line(error)}. A mirror can be named with HF_ENDPOINT, a private model needs HF_TOKEN"
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            state = "the hub is switched off by HF_HUB_OFFLINE, and the model is not in its cache"
        raise ModelError(f"hf:{name}: cannot be had: {state}. {_WITHOUT_A_HUB}") from error
    return Path(folder)


def from_modelscope(name: str, revision: str | None = None) -> Path:
    """The folder of "owner/name" in the ModelScope cache, downloaded first unless HF_HUB_OFFLINE is set.

    Raises: MissingExtra without the package modelscope; ModelError when it cannot be had.
    """
    if importlib.util.find_spec("modelscope") is None:
        raise MissingExtra("modelscope", "hub", f"ms:{name}")
    from modelscope import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        folder = snapshot_download(name, revision=revision, local_files_only=offline, allow_patterns=_PATTERNS, ignore_patterns=_NOT)
    except Exception as error:  # as above
        raise ModelError(f"ms:{name}: cannot be had: {_first_line(error)}. {_WITHOUT_A_HUB}") from error
    return Path(folder)


HUBS: dict[str, Callable[[str, str | None], Path]] = {"hf": from_hugging_face, "ms": from_modelscope}


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return text[:300].rstrip(".")
