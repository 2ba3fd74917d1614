"""A toy that a tiny GPT-2 learns in two seconds: write one word as often as possible, and stay near the model that it was."""

from tests import tiny
from trunkline.alignment.roles import fresh
from trunkline.model.backbone import load_backbone
from trunkline.types import Rows

PROMPTS = [{"text": text} for text in tiny.TEXTS]
WORD = "refund"
TOY = {"steps": 8, "answers": 64, "minibatch": 32, "max_new_tokens": 4, "epochs": 3, "learning_rate": 2e-2, "value_learning_rate": 1e-2,
       "hacking": "off", "kl": 0.2}  # fmt: skip


def start(folder, method="full", depth=2, task="generate"):
    rows = Rows(tuple({"text": text, "label": "today"} for text in tiny.TEXTS), task)
    return fresh(load_backbone(folder), rows, method, depth, "float32")


def count(rows, texts):
    return [float(text.split().count(WORD)) for text in texts]
