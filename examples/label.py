"""What to label next: by chance against the default strategy, on the embedded messages with their labels hidden.

python examples/label.py [MODEL]
"""

import sys

import numpy as np

import trunkline as tl
from trunkline.labelling.curve import outlook
from trunkline.labelling.strategies import Pool, choose
from trunkline.quality.probe import Discriminant


def main(model: str = "minilm") -> None:
    parts = tl.split(tl.read(tl.embedded("en")))
    states = tl.vectors(parts.train, parts.test, model=model)
    names = sorted({row["label"] for row in parts.train})
    hidden = np.array([names.index(row["label"]) for row in parts.train])  # what people would say when asked
    test = np.array([names.index(row["label"]) for row in parts.test])
    for strategy in ("random", "safe"):
        places = np.empty(0, dtype=np.int64)
        for step in (20, 40, 80, 120):
            pool = Pool(states.rows, places, hidden[places], len(names))
            places = np.concatenate([places, choose(pool, step - len(places), strategy)])
            probe = Discriminant.fit(states.rows[places], hidden[places], len(names))
            right = (probe.logits(states.against).argmax(1) == test).mean()
            print(f"{strategy}: {step} labels, {right:.1%} of the test rows right")
    print(outlook(states.rows[places], hidden[places], len(names), more=100))


if __name__ == "__main__":
    main(*sys.argv[1:])
