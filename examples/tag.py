"""Tune a model that finds names in messages: who, where, which product; and write what it finds as a file of words and tags.

python examples/tag.py                              the messages below, each with several names put in: enough to see it work, no more
python examples/tag.py train.conll my-model         words and tags in columns (BIO, BIOES, BMES, ...), or JSON with the places of entities
"""

import random
import sys

import trunkline as tl
from trunkline.data.readers.conll import write

MESSAGES = [
    "Hello, this is {PERSON}, my {PRODUCT} has not arrived in {PLACE} yet",
    "please send the {PRODUCT} to {PERSON}, not to me",
    "{PERSON} from {PLACE} here: the {PRODUCT} is broken",
    "do you have a shop in {PLACE} where I can see the {PRODUCT}",
    "I moved from {PLACE} to {PLACE}, please change my address. {PERSON}",
    "the {PRODUCT} that {PERSON} ordered came twice",
    "我是{PERSON}，请把{PRODUCT}寄到{PLACE}",
    "{PLACE}的{PERSON}还没有收到{PRODUCT}",
]
NAMES = {
    "PERSON": ("Ann Lee|Omar|Maria Silva|Jo|Tom Kim", "张伟|李小红|王芳|赵云"),
    "PLACE": ("Bonn|New York|Lima|York|Oslo", "北京|杭州|上海|成都"),
    "PRODUCT": ("blue lamp|garden chair|kettle|desk|chair", "台灯|电饭锅|书桌|水壶"),
}


def filled(message: str, chance: random.Random) -> dict:
    """A message with names put in, and where each lies."""
    text, label = "", []
    for piece in message.replace("}", "{").split("{"):
        if piece in NAMES:
            name = chance.choice(NAMES[piece][not message.isascii()].split("|"))
            label.append([len(text), len(text) + len(name), piece])
            piece = name
        text += piece
    return {"text": text, "label": label}


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    chance = random.Random(0)
    rows = tl.read(file or [filled(message, chance) for message in MESSAGES * 12], task="tag")
    print(*rows.notes, sep="\n")
    branch = tl.tune(rows, model, depth=2, settings=settings)
    print(branch.report)

    texts = ["this is Maria Lee in Lima: my garden lamp is broken", "请把电饭锅寄到北京"]
    answers = branch.predict(texts)
    for text, answer in zip(texts, answers):
        print(f"{text}: " + ", ".join(f"{found['text']} ({found['type']})" for found in answer.value))
    found = [{"text": text, "label": answer.scores} for text, answer in zip(texts, answers)]
    print(write(found, "found.conll", scheme="bioes").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(*sys.argv[1:])
