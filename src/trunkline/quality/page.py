"""What `check` found as one HTML page that works offline: a map of the texts, and tables with the rows.

One script of ours and no address outside the page: its Content-Security-Policy lets exactly that script run, by its sum. Every text of the user is
escaped by Jinja, or goes into a JSON block in which no tag can begin.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from trunkline import storage
from trunkline.quality import changes
from trunkline.quality.found import Checked, Section
from trunkline.quality.map import places
from trunkline.quality.words import Words

_ROWS = 300  # of a section that the page holds; check.json and changes.csv have all
_TEXT = 500
_COLUMNS = {
    "row": "row", "text": "text", "label": "label", "proposed": "proposed", "compare_with": "compare with", "score": "score", "why": "why",
    "rows_with_it": "rows with it", "with_label": "of them with the label",
}  # fmt: skip
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}


def render(found: Checked, language: str = "en", *, command: str = "") -> str:
    """The page. command: what applies decided changes, shown at its end. Raises: OptionError for a language that is not "en" or "zh"."""
    words = Words(language)
    script = asset("check.js")
    drawn = _map(found, words)
    return template("check.html.j2").render(
        t=words,
        language={"zh": "zh-CN"}.get(language, language),
        found=found,
        sections=[_section(section, words) for section in found.sections],
        map=Markup(json.dumps(drawn, ensure_ascii=False).replace("<", "\\u003c")) if drawn else "",
        sampled=len(drawn["dots"]) < len(found.rows) if drawn else False,
        drawn=len(drawn["dots"]) if drawn else 0,
        script=Markup(script),
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(asset("check.css")),
        command=command,
    )


def save(found: Checked, folder: str | Path, language: str = "en", *, command: str = "") -> Path:
    """Write check.html, changes.csv and check.json into the folder. A changes.csv that is there already keeps its decisions: it is moved aside."""
    folder = Path(folder)
    storage.write_file(folder / "check.html", render(found, language, command=command).encode("utf-8", "replace"))
    storage.write_file(folder / "check.json", storage.to_json(found.to_json()))
    there = folder / "changes.csv"
    if there.exists():
        number = next(n for n in range(1, 10_000) if not (folder / f"changes.{n}.csv").exists())
        there.rename(folder / f"changes.{number}.csv")
    changes.write(found, there)
    return folder


def _section(section: Section, words: Words) -> dict[str, Any]:
    rows = [_cells(row) for row in section.rows[:_ROWS]]
    columns = [name for name in _COLUMNS if any(row.get(name) not in (None, "") for row in rows)]
    return {
        "kind": section.kind,
        "level": section.level,
        "title": words(section.title),
        "note": words(section.note),
        "do": words(section.do),
        "count": section.count,
        "columns": [(name, words(_COLUMNS[name])) for name in columns],
        "rows": rows,
        "all": len(section.rows),
    }


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the table shows it: what it is compared with in one cell."""
    cells = {name: row.get(name) for name in _COLUMNS}
    if row.get("other_row"):
        part = "" if row["other_part"] == "rows" else f"{row['other_part']} "
        cells["compare_with"] = {"where": f"{part}{row['other_row']:,}", "text": row["other"], "label": row["other_label"]}
    elif row.get("other_label"):
        cells["compare_with"] = {"where": "", "text": "", "label": row["other_label"]}
    return cells


def _map(found: Checked, words: Words) -> dict[str, Any] | None:
    """What the script draws: labels, kinds of finding, and for each dot [x, y, label, kind, row, text]."""
    if found.vectors is None or len(found.rows) < 3:
        return None
    kinds = [section for section in found.sections if section.kind not in ("give-aways", "gaps", "overlaps", "duplicates")]
    marked: dict[int, int] = {}
    for at, section in enumerate(kinds):
        for row in section.rows[:_ROWS]:
            if row["part"] == "rows":
                marked.setdefault(row["row"] - 1, at)
    chosen, where = places(found.vectors.rows, list(marked))
    labels = [str(found.rows[at].get("label", "")) for at in range(len(found.rows))]
    names = sorted(set(labels), key=lambda name: (-labels.count(name), name)) if len(set(labels)) <= 1000 else []
    ids = {name: at for at, name in enumerate(names)}
    dots = [
        [round(float(x), 4), round(float(y), 4), ids.get(labels[at], -1), marked.get(at, -1), at + 1, clean(found.rows[at]["text"])[:200]]
        for at, (x, y) in zip(chosen.tolist(), where)
    ]
    return {"labels": names, "kinds": [words(section.title) for section in kinds], "none": words("not marked"), "dots": dots}


def clean(text: Any) -> str:
    """A text as pages show it: control characters as pictures, cut after 500 characters."""
    shown = str(text).translate(_CONTROLS).strip()
    return shown if len(shown) <= _TEXT else shown[:_TEXT] + "…"


@functools.cache
def asset(name: str) -> str:
    """A file of this folder."""
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


@functools.cache
def template(name: str) -> Template:
    """A page of this folder, which escapes what it is given."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(clean=clean)
    return environment.from_string(asset(name))
