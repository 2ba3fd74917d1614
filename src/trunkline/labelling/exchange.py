"""Labels to and from other tools: Label Studio (JSON, single choice) and doccano (JSON Lines, text classification)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trunkline import storage
from trunkline.choices import one_of
from trunkline.errors import DataError
from trunkline.labelling.annotations import Annotation, key_of
from trunkline.types import Row

FORMS = ("label-studio", "doccano")


def export(rows: Sequence[Row], labels: Mapping[str, Mapping[str, str]], form: str, path: str | Path) -> int:
    """Write rows and everybody's labels (by row and person, as `Annotations.labels`); gives how many rows. Raises: OptionError for an unknown form."""
    one_of("form", form, FORMS)
    made = [_task(row, labels.get(key_of(row), {})) if form == "label-studio" else _line(row, labels.get(key_of(row), {})) for row in rows]
    text = (
        json.dumps(made, ensure_ascii=False, indent=1)
        if form == "label-studio"
        else "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made)
    )
    storage.write_file(Path(path), text.encode("utf-8", "replace"))
    return len(made)


def load(path: str | Path) -> list[Annotation]:
    """The labels in a file of either tool, told by its form. Raises: DataError for a file of neither, with the place."""
    text = Path(path).read_text("utf-8-sig")
    try:
        if text.lstrip().startswith("["):
            return [act for task in json.loads(text) for act in _from_task(task)]
        return [act for line in text.splitlines() if line.strip() for act in _from_line(json.loads(line))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not an export of Label Studio (JSON) or doccano (JSON Lines) with one label a text ({type(error).__name__}: {error})."
        ) from error


def _task(row: Row, given: Mapping[str, str]) -> dict[str, Any]:
    """Label Studio: https://labelstud.io/guide/tasks#Basic-Label-Studio-JSON-format"""
    results = [
        {
            "completed_by": {"email": by},
            "was_cancelled": not label,
            "result": [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}] if label else [],
        }
        for by, label in given.items()
    ]
    return {"data": {"text": row["text"]}, "annotations": results}


def _from_task(task: dict[str, Any]) -> list[Annotation]:
    key, found = key_of({"text": task["data"]["text"]}), []
    for one in task.get("annotations", ()):
        by = one.get("completed_by", "label-studio")
        by = str(by.get("email") or by.get("id") or "label-studio") if isinstance(by, dict) else str(by)
        chosen = [choice for part in one["result"] if part["type"] == "choices" for choice in part["value"]["choices"]]
        if one.get("was_cancelled") or not chosen:
            found.append(Annotation(key, by, "skip"))
        else:
            found.append(Annotation(key, by, "label", chosen[0]))
    return found


def _line(row: Row, given: Mapping[str, str]) -> dict[str, Any]:
    return {"text": row["text"], "label": sorted({label for label in given.values() if label})}


def _from_line(line: dict[str, Any]) -> list[Annotation]:
    labels = line.get("label", line.get("labels", []))
    labels = [labels] if isinstance(labels, str) else labels
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("labels that are no strings: spans are another kind of task")
    return [Annotation(key_of({"text": line["text"]}), str(line.get("username") or "doccano"), "label", label) for label in labels[:1]]
