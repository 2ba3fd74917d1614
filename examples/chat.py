"""Serve a branch that writes, and talk to it as to any server that speaks OpenAI's form. (Their client works too: base_url=address + "/v1".)

python examples/chat.py                          smollm2 as it is
python examples/chat.py my-model                 another decoder
"""

import json
import sys
import tempfile
import urllib.request
from pathlib import Path

from trunkline import names
from trunkline.branch import Branch
from trunkline.model.backbone import load_backbone
from trunkline.serving.serve import serving


def main(model: str = "smollm2", tokens: int = 40) -> None:
    task, lora = names.task("generate"), names.method("lora")
    branch = Branch.new(
        load_backbone(model), task.TaskSpec(form="chat", max_new_tokens=tokens), "lora", lora.Config(), 2
    )  # or: tl.tune(...)
    with tempfile.TemporaryDirectory() as folder, serving([branch.save(Path(folder) / "helper")]) as address:
        ask(address, [{"role": "user", "content": "Where is my parcel?"}])
        ask(address, [{"role": "user", "content": "Say three colours."}], temperature=0.8, seed=7, stop=["."])


def ask(address: str, messages: list[dict[str, str]], **told: object) -> None:
    """Print an answer while it is written."""
    body = json.dumps({"model": "helper", "messages": messages, "stream": True, **told}).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    print(messages[-1]["content"], "->", end=" ")
    with urllib.request.urlopen(request, timeout=300) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                print(choice["delta"].get("content", ""), end="", flush=True)
    print(f" [{choice['finish_reason']}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
