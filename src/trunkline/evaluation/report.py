"""A report: what came out, how sure it is, what it is compared with, and how to run it again. After `evaluate`, saved with a branch.

One value, three faces: `to_json` (report.json, read back by `from_json` to an equal report), `str` (a table for the terminal) and
`html` (one page that works offline, page.py). Everything but `task` may be missing; what is missing is left out of the faces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from trunkline import storage
from trunkline.errors import ArtefactError, OptionError, unknown
from trunkline.evaluation.metrics import METRICS, answers, check
from trunkline.evaluation.page import render
from trunkline.evaluation.wording import Words, change, duration, in_order, language_of, number, proof, with_interval
from trunkline.types import Row

FORMAT = 1
_TABLE = ("accuracy", "macro_f1", "ece", "pearson", "spearman", "rmse", "micro_f1")
"""What a terminal is wide enough for: the main metric and the first others of these."""


@dataclass(frozen=True)
class Report:
    """All of it plain JSON values: tuples become lists, numpy numbers plain ones, NaN and infinity None, dicts sorted by key.

    data         {source, rows: {split: n}, labels: {label: rows}, fingerprint, notes: [..], findings: [..]}
    model        {name, id, layers, depth, method, trained, bytes, frozen_bytes, total, dtype}, and what the method says: ranks {target: rank}
    results      [{name, metrics: {metric: {value, low, high}}, seconds, seeds: {metric: [..]} or None}], in order of the table;
                 known names: those of wording.py's RESULTS
    comparisons  [{before, after, metric, difference, low, high, p_value, test, verdict}]; the first makes the headline
    confusion    {labels, matrix}        scatter  {truth, predicted} (numbers instead of labels)
    per_class    [{label, precision, recall, f1, support}]
    calibration  {temperature, ece_before, ece_after, bins, bins_before}
    errors       [{text, text_b, label, predicted, probability or error or neither}]
    samples      [{text, label, before, predicted}] of a task that writes texts
    search       {depth, learning_rate, metric, why, seconds, pairs, rows: [train, validation],
                 trials: [{depth, learning_rate, value, seconds, pairs, told}]}, pairs: how they are read, where both ways were tried;
                 told: further options of a trial, where those were searched too
    history      one list a seed of {step, epoch, seconds, train_loss, metrics}
    cost         {seconds: {stage: s}, tokens_per_second, peak_memory_bytes, cache_bytes}
    next         the commands that come after this one
    """

    task: str
    created: str = ""
    command: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    per_class: list[dict[str, Any]] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    scatter: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    search: dict[str, Any] = field(default_factory=dict)
    history: list[list[dict[str, Any]]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _plain(getattr(self, each.name), each.name))

    def to_json(self) -> bytes:
        """report.json: the same report, the same bytes."""
        return storage.to_json({"format": FORMAT, **{each.name: getattr(self, each.name) for each in fields(self)}})

    @classmethod
    def from_json(cls, data: bytes, where: str = "report.json") -> Report:
        """The report that `to_json` wrote. Raises: ArtefactError for damaged bytes, an unknown field or a newer format."""
        try:
            values = storage.from_json(data, where)
            form, _ = values.pop("format"), values["task"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{where}: damaged or not a report ({error}). Run `trunkline evaluate` again.") from error
        if not isinstance(form, int) or form > FORMAT:
            raise ArtefactError(
                f"{where}: written in format {form}; this Trunkline reads up to {FORMAT}. Upgrade: pip install -U trunkline"
            )
        plain = cls("")  # its empty values say what kind each field has
        for name, value in values.items():
            if name not in {each.name for each in fields(cls)}:
                raise unknown(f"{where}: field", name, [each.name for each in fields(cls)], ArtefactError)
            wanted = dict if name in ("confusion", "scatter", "calibration") and value is not None else type(getattr(plain, name))
            if not isinstance(value, wanted):
                raise ArtefactError(f"{where}: {name} is a {type(value).__name__}, and a {wanted.__name__} is needed.")
        return cls(**values)

    def html(self, language: str | None = None) -> str:
        """The page, "en" or "zh"; None picks by the language of the labels and texts."""
        return render(self, Words(language or self.language))

    @property
    def language(self) -> str:
        """The main language of the data: "en" or "zh"."""
        shown = [str(label) for label in self.data.get("labels") or ()] + [str(row.get("text", "")) for row in self.errors]
        return language_of(" ".join(shown))

    @property
    def main(self) -> tuple[str, str]:
        """The result that the report is about and its metric: those of the first comparison, else "tuned" (else the last result)
        and the first metric that was measured. Empty names where there is none."""
        if self.comparisons:
            return self.comparisons[0]["after"], self.comparisons[0]["metric"]
        named = {result["name"]: result for result in self.results}
        result = named.get("tuned") or (self.results[-1] if self.results else {"name": "", "metrics": {}})
        return result["name"], next(iter(in_order(result["metrics"])), "")

    def headline(self, language: str = "en") -> str:
        """What came out, in one sentence: the tuned branch, what it is compared with, and whether the difference is shown.

        >>> found = [{"name": "tuned", "metrics": {"accuracy": {"value": 0.931, "low": 0.922, "high": 0.94}}}]
        >>> Report("classify", results=found).headline()
        'The tuned branch gets 93.1% right (92.2–94.0).'
        """
        words, (name, metric) = Words(language), self.main
        main = next((result for result in self.results if result["name"] == name and metric in result["metrics"]), None)
        if main is None:
            return "尚无结果。" if language == "zh" else "No result yet."
        sentence = _achieved(words, main, metric)
        comparison = next((c for c in self.comparisons if c["metric"] == metric and c["after"] == main["name"]), None)
        other = next((r for r in self.results if comparison and r["name"] == comparison["before"]), None)
        if comparison is None or other is None or metric not in other["metrics"]:
            return sentence + ("。" if language == "zh" else ".")
        value, verdict = number(metric, other["metrics"][metric]["value"]), change(metric, comparison, words)
        if language == "zh":
            return f"{sentence}；{words.short(other['name'])}为 {value}：{verdict}。"
        return f"{sentence}; the {words.short(other['name'])} {value}: {verdict}."

    def __str__(self) -> str:
        """The table for a terminal: every result in one, then the comparisons, then the next command."""
        if not self.results:
            return self.headline()
        words, columns = Words(), table_metrics(self)
        head = ["", *(METRICS[name].title if name in METRICS else name for name in columns), "seconds"]
        rows = [head]
        for result in self.results:
            cells = [with_interval(name, result["metrics"].get(name)) for name in columns]
            rows.append([words.result(result["name"]), *cells, duration(result.get("seconds"))])
        widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        lines.insert(1, "-+-".join("-" * width for width in widths))
        lines += ["In brackets: 95% intervals over the test rows.", "", self.headline()]
        for comparison in self.comparisons:
            lines.append(f"{comparison_sentence(comparison, words)}.")
        lines += _seed_lines(self) + search_lines(self) + _cost_line(self)
        lines += ["", "Next:", *(f"  {command}" for command in self.next)] if self.next else []
        return "\n".join(lines)


def table_metrics(report: Report, most: int = 3) -> list[str]:
    """The metrics of a narrow table: the main one, then the usual ones that were measured."""
    measured = in_order(name for result in report.results for name in result["metrics"])
    wanted = [report.main[1], *(name for name in _TABLE if name in measured), *measured]
    return [name for name in dict.fromkeys(wanted) if name in measured][:most]


def comparison_sentence(comparison: Mapping[str, Any], words: Words) -> str:
    """One line for one comparison.

    >>> found = {"before": "tfidf", "after": "tuned", "metric": "accuracy", "difference": 0.02, "low": 0.01, "high": 0.03,
    ...          "p_value": 0.0004, "test": "exact McNemar", "verdict": "better"}
    >>> comparison_sentence(found, Words())
    'tuned branch against TF-IDF + linear, Accuracy: better by 2.0 points (1.0–3.0); exact McNemar, p < 0.001'
    """
    names = f"{words.result(comparison['after'])} {words('against')} {words.result(comparison['before'])}"
    colon, semicolon, comma = ("：", "；", "，") if words.language == "zh" else (": ", "; ", ", ")
    told = change(comparison["metric"], comparison, words)
    evidence = proof(comparison, words)
    return f"{names}{comma}{words.metric(comparison['metric'])}{colon}{told}" + (f"{semicolon}{evidence}" if evidence else "")


def confident_errors(rows: Sequence[Row], truth: Any, scores: Any, labels: Sequence[str] = (), *, count: int = 20) -> list[dict[str, Any]]:
    """The rows answered wrongly with the highest probability (numbers: those furthest off), worst first, for `Report.errors`.

    Raises: OptionError where rows and scores differ in number.
    """
    truth, scores, kind = check(truth, scores)
    if len(rows) != len(scores):
        raise OptionError(f"{len(rows)} rows and {len(scores)} scores do not fit: use the rows that were scored, in their order.")
    said = answers(scores, kind)
    if kind == "number":
        badness, wrong = np.abs(said - truth), said != truth
    elif kind == "single":
        badness, wrong = scores.max(axis=1), said != truth
    else:  # of a row's labels, the one that was decided wrongly with the most confidence
        badness, wrong = (np.maximum(scores, 1 - scores) * (said != truth)).max(axis=1), (said != truth).any(axis=1)
    worst = sorted(map(int, np.flatnonzero(wrong)), key=lambda at: (-badness[at], at))[:count]
    amount = "error" if kind == "number" else "probability"
    return [
        {"text": rows[at]["text"], **({"text_b": rows[at]["text_b"]} if rows[at].get("text_b") else {})}
        | {"label": _named(truth[at], labels, kind), "predicted": _named(said[at], labels, kind), amount: float(badness[at])}
        for at in worst
    ]


def _named(answer: Any, labels: Sequence[str], kind: str) -> Any:
    if kind == "number":
        return float(answer)
    return labels[int(answer)] if kind == "single" else ", ".join(label for label, there in zip(labels, answer) if there)


def _achieved(words: Words, result: Mapping[str, Any], metric: str) -> str:
    found, name = result["metrics"][metric], words.result(result["name"])
    if words.language == "zh":
        value = with_interval(metric, found).replace(" (", "（").replace(")", "）")
        return f"{name}答对 {value}" if metric == "accuracy" else f"{name}的{words.metric(metric)}为 {value}"
    value = with_interval(metric, found)
    if metric == "accuracy":
        share, *reach = value.split(" ", 1)
        return f"The {name} gets {share} right" + (f" {reach[0]}" if reach else "")
    return f"The {name} has {METRICS[metric].title if metric in METRICS else metric} {value}"


def _seed_lines(report: Report) -> list[str]:
    found = []
    for result in report.results:
        for metric, values in sorted((result.get("seeds") or {}).items()):
            if len(values) > 1 and metric in table_metrics(report, 1):
                mean, low, high = sum(values) / len(values), min(values), max(values)
                shown = number(metric, mean), number(metric, low), number(metric, high)
                found.append(f"{Words().result(result['name'])} over {len(values)} seeds: mean {shown[0]}, from {shown[1]} to {shown[2]}.")
    return found


def search_lines(report: Report) -> list[str]:
    """Which depths were tried, what each gave, which was taken and why."""
    found = report.search
    if not found:
        return []
    metric = found["metric"]
    if any(trial.get("told") for trial in found["trials"]):
        return _option_lines(found)
    tried = ", ".join(f"{_depth(trial)}{_rate(trial, found)}: {number(metric, trial['value'])}" for trial in found["trials"])
    name = METRICS[metric].title if metric in METRICS else metric
    train, validation = found["rows"]
    return [
        f"Depth {found['depth']} was chosen: {found['why']}.",
        f"  {name} on {validation:,} validation rows after {train:,} training rows, by depth: {tried} ({duration(found['seconds'])}).",
    ]


def _depth(trial: Mapping[str, Any]) -> str:
    return f"{trial['depth']} {trial['pairs']}" if trial.get("pairs") else str(trial["depth"])


def _option_lines(found: Mapping[str, Any]) -> list[str]:
    """Of a search for options: how many were tried, what was taken, and what the best five got."""
    metric, (train, validation) = found["metric"], found["rows"]
    name = METRICS[metric].title if metric in METRICS else metric
    lines = [f"The options are {found['why']} ({duration(found['seconds'])})."]
    lines.append(f"  {name} on {validation:,} validation rows after {train:,} training rows, the best five:")
    return lines + [
        f"    {number(metric, trial['value'])}  depth={trial['depth']} learning_rate={trial['learning_rate']:.2g} {trial['told']}"
        for trial in found["trials"][:5]
    ]


def _rate(trial: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The learning rate of a trial, where it is not the one that its depth was first tried with."""
    first = next(other for other in found["trials"] if other["depth"] == trial["depth"])
    return "" if first["learning_rate"] == trial["learning_rate"] else f" at {trial['learning_rate']:.0e}"


def _cost_line(report: Report) -> list[str]:
    """Where it ran and what it took, in one line; nothing where that was not noted."""
    spent, machine = report.cost.get("seconds") or {}, report.machine
    if not spent or not machine:
        return []
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in spent.items())
    peak = report.cost.get("peak_memory_bytes")
    memory = f"; peak memory {peak / 2**20:,.0f} MiB" if peak else ""
    threads = machine.get("threads")
    return [f"On {machine.get('device')} ({machine.get('processor')}, {threads} thread{'' if threads == 1 else 's'}): {stages}{memory}."]


def _plain(value: Any, where: str) -> Any:
    """Only dicts, lists, texts, finite numbers, booleans and None, so that JSON gives back an equal value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(inner, f"{where}.{key}") for key, inner in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner, where) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str | Path):
        return _text(str(value))
    raise OptionError(f"report {where}: a {type(value).__name__} cannot be written. Use texts, numbers, lists and dicts.")


def _text(text: str) -> str:
    """Half of a surrogate pair, which no file can hold, is shown by its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
