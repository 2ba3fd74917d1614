"""A log with structure: items have topics, users stay with a topic for a while, and some items are far more popular than others."""

import numpy as np

TOPICS = ("card", "order", "refund", "password", "package", "money")
WORDS = ("my", "please", "today", "help", "account", "the", "waiting", "damaged", "changed", "who")


def items(each: int = 10, seed: int = 0) -> list[dict]:
    """`each` items of every topic: the topic's word among two others, so that the text says what an item is about."""
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
    made = []
    for topic in TOPICS:
        for at in generator.choice(len(pairs), each, replace=False):
            made.append({"item": str(len(made)), "text": f"{pairs[at][0]} {topic} {pairs[at][1]}", "topic": topic})
    return made


def log(catalogue: list[dict], users: int = 80, length: int = 7, stays: float = 0.9, seed: int = 0) -> list[dict]:
    """Events: the next item is mostly of the topic of the last one, and of a topic's items the first ones are taken most."""
    generator = np.random.default_rng(seed)
    by_topic = {topic: [item["item"] for item in catalogue if item["topic"] == topic] for topic in TOPICS}
    events = []
    for user in range(users):
        topic, had = generator.choice(TOPICS), set()
        for step in range(length):
            topic = topic if generator.random() < stays else generator.choice(TOPICS)
            left = [item for item in by_topic[topic] if item not in had]
            if not left:
                continue
            popular = 1 / np.arange(1, len(left) + 1)
            item = str(generator.choice(left, p=popular / popular.sum()))
            had.add(item)
            events.append({"user": f"u{user}", "item": item, "time": 1000 * step + user})
    return events
