"""Trunkline: freeze a language model's lower layers, run each text through them once, do everything else on the states.

    import trunkline as tl
    rows = tl.read("reviews.csv", task="classify", text="text", label="stars")
    branch = tl.tune(rows, model="minilm")
    branch.predict(["It stopped working after two days"])

Names are looked up when they are used, so that `import trunkline` takes no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "read": "trunkline.data.read",
    "embedded": "trunkline.data.embedded",
    "split": "trunkline.data.split",
    "check": "trunkline.quality.check",
    "vectors": "trunkline.quality.vectors",
    "drift": "trunkline.quality.drift",
    "prepare": "trunkline.data.prepare",
    "pseudo_label": "trunkline.labelling.pseudo_label",
    "augment": "trunkline.augmentation.augment",
    "AugmentSettings": "trunkline.augmentation.settings",
    "clean": "trunkline.corpus.clean",
    "CleanSettings": "trunkline.corpus.settings",
    "tune": "trunkline.train.tune",
    "tune_together": "trunkline.train.together",
    "compare": "trunkline.train.compare",
    "search_options": "trunkline.train.search",
    "prompt": "trunkline.prompting.prompt",
    "align": "trunkline.alignment.align",
    "run": "trunkline.recipe.run",
    "Settings": "trunkline.train.settings",
    "evaluate": "trunkline.evaluation.evaluate",
    "load": "trunkline.branch",
    "Branch": "trunkline.branch",
    "serve": "trunkline.serving.serve",
    "ServeSettings": "trunkline.serving.settings",
    "TrunklineError": "trunkline.errors",
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trunkline' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
