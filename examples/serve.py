"""Tune two branches on the messages that come with Trunkline, serve both from one pass of the model, ask, and see what a server says of them.

python examples/serve.py                 minilm
python examples/serve.py my-model        another backbone
"""

import sys

import trunkline as tl
from trunkline.serving.client import Client
from trunkline.serving.serve import serving


def main(file: str | None = None, model: str = "minilm", settings: tl.Settings | None = None) -> None:
    rows = tl.read(file or tl.embedded("en"))
    for name, depth in (("intent", 1), ("quick", 0)):  # layers of its own, and a head right on the trunk
        branch = tl.tune(rows, model, depth=depth, settings=settings, out=f"runs/{name}")
        print(branch.report.headline())

    # `trunkline serve runs/intent runs/quick` does the same in processes of its own, until it is stopped
    with serving(["runs/intent", "runs/quick"], model=model) as address, Client(address) as client:
        for one in client.branches():
            print(one["name"], one["version"], "depth", one["depth"], one["runtime"])
        for answer in client.predict(["Where is my parcel?", "I want my money back"], threshold=0.5):
            for name, said in answer.items():
                print(f"{name}: {said['label']} ({said['probability']:.0%})", "not sure enough" if said["abstained"] else "")


if __name__ == "__main__":
    main(None, *sys.argv[1:])
