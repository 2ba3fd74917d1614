"""The demo: the whole job on the messages that come with Trunkline, as a user would do it, with nothing left out."""

from __future__ import annotations

from pathlib import Path

from trunkline.console import answers
from trunkline.data.embedded import embedded
from trunkline.data.read import read
from trunkline.model.standard import standard
from trunkline.train.settings import Settings
from trunkline.train.tune import tune

ASKED = {
    "en": ["still nothing on my porch and it's been nine days", "you took the money twice!!", "how do I get rid of my account for good"],
    "zh": ["都第九天了 快递还没影", "怎么扣了我两次钱！！", "账号不想要了 怎么彻底删掉"],
}


def demo(language: str, out: Path) -> None:
    """Tune on the embedded messages, print the table, answer three new messages, say what to do next."""
    rows = read(embedded(language), text="text", label="label")
    model = standard("encoder", rows)
    print(f"{len(rows):,} customer-service messages in {len({row['label'] for row in rows})} intents, model {model}\n")
    branch = tune(rows, model, settings=Settings(seeds=3), out=out)
    print(branch.report, "\n")
    asked = [{"text": text} for text in ASKED[language]]
    answers(asked, branch.predict(asked), None, as_json=False)
    print(
        f'\nNext:\n  open {out}/report.html\n  trunkline predict {out} "{ASKED[language][0]}"\n  trunkline tune YOUR_FILE.csv --out runs/mine'
    )
