"""Answer the messages that come with Trunkline without any training: choose a prompt, measure it, look at it.

python examples/prompt.py                          the embedded English messages, smollm2
python examples/prompt.py reviews.csv my-model     a file with a text and a label column, and another model
"""

import sys
from dataclasses import replace

import trunkline as tl
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import default_template


def main(file: str, model: str = "smollm2", settings: PromptSettings | None = None) -> None:
    parts = tl.split(tl.read(file), validation=0.1, test=0.2)  # the rows that `tune` would measure on
    labels = sorted({row["label"] for row in parts.train})

    template = default_template(labels)  # or a YAML file: docs/prompting.md
    print(template.prompt(parts.test[0], parts.train[:1]), "...\n")

    # demonstrations near the row or drawn at random, with and without calibration: the best on the validation rows is measured
    found = tl.prompt(
        parts,
        model,
        template=[template, replace(template, instruction="", name="bare")],
        shots=4,
        pick=["random", "nearest"],
        calibrate=["none", "contextual"],
        settings=settings or PromptSettings(test_rows=100, baseline_rows=500),
    )
    for trial in found.trials:
        print(f"{trial.what}: {trial.value:.2f} ({trial.low:.2f} to {trial.high:.2f}) on {trial.rows} validation rows")
    print(found.report)

    for row, answer in zip(parts.test[:3], found.predict(parts.test[:3])):
        print(f"{row['text'][:50]!r}: {answer.value} ({answer.probability:.0%}), labelled {row['label']}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or [str(tl.embedded("en"))]))
