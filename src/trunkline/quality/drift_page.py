"""What `drift` found as one HTML page that works offline: the answer, a map of earlier and live texts, shares before and now, the texts that moved.

As safe as the page of `check`: one script, allowed by its sum; every text of the user is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from trunkline import storage
from trunkline.quality.drift import LEVEL, Drifted
from trunkline.quality.map import places
from trunkline.quality.material import text_of
from trunkline.quality.page import asset, clean, template
from trunkline.quality.words import Words

_MOVED, _CLASSES, _TERMS = 60, 40, 30
_DOTS = 1000
"""Of each side on the map, at most."""


def render(found: Drifted, language: str = "en") -> str:
    """The page. Raises: OptionError for a language that is not "en" or "zh"."""
    words, script = Words(language), asset("check.js")
    largest = max((max(one.before, one.now) for one in (*found.classes[:_CLASSES], *found.words[:_TERMS])), default=1.0)

    def bar(share: float, when: str) -> Markup:
        return Markup('<i class="{}" style="width:{:.1f}%"></i><span>{:.1%}</span>').format(when, 70 * share / max(largest, 1e-9), share)

    def mark(changed: bool) -> Markup:
        level, said = ("warning", words("changed")) if changed else ("good", words("no change"))
        return Markup('<span class="pill {}">{}</span>').format(level, said)

    return template("drift.html.j2").render(
        t=words,
        bar=bar,
        mark=mark,
        level=LEVEL,
        language={"zh": "zh-CN"}.get(language, language),
        found=found,
        texts_changed="texts" in found.reasons,
        classes_changed="classes" in found.reasons,
        changed_classes=sum(one.p_value < LEVEL for one in found.classes),
        chance=f"{100 * found.shift.p_value:.1f}",
        classes=found.classes[:_CLASSES],
        words=[one for one in found.words if one.p_value < LEVEL][:_TERMS],
        moved=found.moved[:_MOVED],
        labels=any(row["label"] for row in found.moved),
        map=Markup(json.dumps(_map(found, words), ensure_ascii=False).replace("<", "\\u003c")),
        script=Markup(script),
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(asset("check.css")),
    )


def save(found: Drifted, folder: str | Path, language: str = "en") -> Path:
    """Write drift.html and drift.json into the folder, each all at once."""
    folder = Path(folder)
    storage.write_file(folder / "drift.html", render(found, language).encode("utf-8", "replace"))
    storage.write_file(folder / "drift.json", storage.to_json(found.to_json()))
    return folder


def _map(found: Drifted, words: Words) -> dict[str, Any]:
    """Dots of both sides, as the page of `check` has them: [x, y, label, 0 for live and -1 for stored, row, text]."""
    generator = np.random.default_rng(0)
    live = found.moved[: _DOTS // 2]
    rest = list(found.moved[_DOTS // 2 :])
    live = (*live, *(rest[at] for at in generator.permutation(len(rest))[: _DOTS - len(live)]))
    old = np.sort(generator.choice(len(found.stored), min(_DOTS, len(found.stored)), replace=False))
    vectors = np.concatenate([found.vectors.rows[old], found.vectors.against[[row["row"] - 1 for row in live]]])
    _, where = places(vectors, drawn=len(vectors))
    names = sorted({row["label"] for row in live if row["label"]})[:1000]
    ids = {name: at for at, name in enumerate(names)}
    told = [(-1, -1, int(at) + 1, text_of(found.stored[int(at)])) for at in old]
    told += [(ids.get(row["label"], -1), 0, row["row"], row["text"]) for row in live]
    dots = [
        [round(float(x), 4), round(float(y), 4), label, kind, row, clean(text)[:200]]
        for (x, y), (label, kind, row, text) in zip(where, told)
    ]
    return {"labels": names, "kinds": [words("came in now")], "none": words("earlier"), "dots": dots}
