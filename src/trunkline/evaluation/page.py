"""The report as one HTML page that works offline: no script, no font, no address outside itself. Called by `Report.html`.

Here is what the page says and in which order; report.html.j2 has its look, charts.py its pictures, wording.py its words.
Every text of the user (labels, messages, commands) is escaped by Jinja's autoescape or by charts.py, and the page forbids
scripts and connections by its own Content-Security-Policy.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, Template
from markupsafe import Markup

from trunkline.evaluation import charts
from trunkline.evaluation.metrics import METRICS
from trunkline.evaluation.wording import Words, change, duration, in_order, number, proof, size, span, with_interval

if TYPE_CHECKING:
    from trunkline.evaluation.report import Report

_ROWS_OPEN = 15  # rows of a long table that are shown before one has to unfold it
_TRIALS = 30  # of a search for options, the best
_TEXT = 400
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_SPLITS = ("train", "validation", "test")
_STAGES = ("read", "split", "encode", "tune", "evaluate", "baselines")


def render(report: Report, words: Words) -> str:
    """The whole page."""
    return _template().render(
        report=report,
        t=words,
        language={"zh": "zh-CN"}.get(words.language, words.language),
        headline=_headline(report, words),
        facts=_facts(report, words),
        results=_results(report, words),
        interval_chart=_interval_chart(report, words),
        comparisons=[_comparison(c, words) for c in report.comparisons],
        curves=_curves(report, words),
        search=_search(report, words),
        confusion=_confusion(report, words),
        scatter=_scatter(report, words),
        reliability=_reliability(report, words),
        labels=sorted(report.per_class, key=lambda row: (row["f1"], row["label"])),
        rows_open=_ROWS_OPEN,
        errors=_errors(report, words),
        stages=_stages(report),
        model=_model(report, words),
        data_labels=_data_labels(report),
        splits=_in_order(report.data.get("rows") or {}, _SPLITS),
    )


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration, size=size, count=_count, clean=_clean)
    return environment.from_string(importlib.resources.files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _headline(report: Report, words: Words) -> dict[str, str]:
    """The sentence, and the verdict that colours it."""
    first = report.comparisons[0] if report.comparisons else None
    verdict = first["verdict"] if first else ""
    css = {"better": "good", "worse": "bad"}.get(verdict, "same" if verdict else "")
    sentence = report.headline(words.language).replace("–", "\u2060–\u2060").replace(" … ", "\u00a0…\u00a0")  # no line break inside
    return {"sentence": sentence, "verdict": words(verdict), "css": css}


def _facts(report: Report, words: Words) -> list[tuple[str, str, str]]:
    """The tiles at the top: value, what it is, a line below."""
    facts = []
    first = report.comparisons[0] if report.comparisons else None
    name, metric = report.main
    found = next((r["metrics"][metric] for r in report.results if r["name"] == name and metric in r["metrics"]), None)
    if found:
        facts.append((number(metric, found["value"]), words.metric(metric), span(metric, found.get("low"), found.get("high"))))
    if first:
        sign = "+" if first["difference"] > 0 else ""
        unit = (" 个百分点" if words.language == "zh" else " points") if metric in METRICS and METRICS[metric].percent else ""
        against = f"{words('against')} {words.short(first['before'])}"
        facts.append((f"{sign}{number(metric, first['difference'], unit=False)}{unit}", against, proof(first, words)))
    rows = report.data.get("rows") or {}
    if rows:
        facts.append((_count(rows.get("train", 0)), words("training rows"), f"{_count(rows.get('test', 0))} {words('test rows')}"))
    seconds = report.cost.get("seconds") or {}
    spent = sum(seconds.get(stage) or 0 for stage in ("read", "encode", "tune"))
    if spent:
        facts.append((duration(spent), words("reading, encoding and tuning"), str(report.machine.get("device") or "")))
    if report.model.get("trained") is not None:
        total = report.model.get("total")
        below = f"{100 * report.model['trained'] / total:.2g}% {words('of')} {_short(total)}" if total else ""
        facts.append((_short(report.model["trained"]), words("trained parameters"), below))
    return facts


def _results(report: Report, words: Words) -> dict[str, Any]:
    """The table: one line a metric, one column a result, and their seconds below."""
    measured = in_order(name for result in report.results for name in result["metrics"])
    main, lines = report.main[0], []
    for name in measured:
        cells = [(result["metrics"].get(name) or {"value": None}) for result in report.results]
        shown = [(number(name, c["value"]), span(name, c.get("low"), c.get("high"))) for c in cells]
        lines.append((words.metric(name), shown))
    return {
        "names": [(words.result(result["name"]), result["name"] == main) for result in report.results],
        "lines": lines,
        "seconds": [duration(result.get("seconds")) for result in report.results],
        "seeds": [_seeds(result, measured, words) for result in report.results],
    }


def _errors(report: Report, words: Words) -> dict[str, Any]:
    """The rows that were answered wrongly, worst first, with by how much where that is known; nothing where there are none."""
    if not report.errors:
        return {}
    measure = next((name for name in ("error", "probability") if name in report.errors[0]), "")
    title, note, amount = {
        "error": ("Largest errors", "Rows where the prediction is furthest from the truth.", "Error"),
        "probability": (
            "Most confident errors",
            "Wrong answers that were given with the highest probability: often a wrong label in the data, or two labels that mean the same.",
            "Probability",
        ),
        "": ("Wrong answers", "Look at some before you trust the figures: the truth may be what is wrong.", ""),
    }[measure]
    how = {"error": "{:.3g}", "probability": "{:.1%}", "": ""}[measure]
    rows = [
        (row["text"], row.get("text_b"), _shown(row["label"]), _shown(row["predicted"]), how.format(row.get(measure) or 0.0))
        for row in report.errors
    ]
    return {"title": words(title), "note": words(note), "amount": words(amount) if amount else "", "rows": rows}


def _shown(answer: Any) -> str:
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer or "–")


def _search(report: Report, words: Words) -> dict[str, Any]:
    """The depths that were tried, and which was taken; nothing where the depth was given."""
    found = report.search
    if not found:
        return {}
    taken = (found["depth"], found["learning_rate"], found.get("pairs", ""))
    trials = [
        (_depth(t, words), f"{t['learning_rate']:.2g}", number(found["metric"], t["value"]), duration(t["seconds"]),
         (t["depth"], t["learning_rate"], t.get("pairs", "")) == taken, t.get("told", ""))
        for t in found["trials"][:_TRIALS]
    ]  # fmt: skip
    if not any(trial[4] or trial[5] for trial in trials):  # a depth that was taken untried; a search for options takes one of its trials
        trials.append((_depth(found, words), f"{taken[1]:.2g}", words("not tried"), "", True, ""))
    return {"metric": words.metric(found["metric"]), "trials": trials, "told": any(t[-1] for t in trials)}


def _depth(trial: Mapping[str, Any], words: Words) -> str:
    return f"{trial['depth']}, {words(trial['pairs'])}" if trial.get("pairs") else str(trial["depth"])


def _seeds(result: Mapping[str, Any], measured: Sequence[str], words: Words) -> str:
    """The mean over seeds and their range, of the first metric that was repeated."""
    for name in measured:
        values = [value for value in (result.get("seeds") or {}).get(name) or () if value is not None]
        if len(values) > 1:
            mean, reach = number(name, sum(values) / len(values)), span(name, min(values), max(values))
            return f"{words('mean')} {mean}" + (f" ({reach})" if reach else "") + f", n = {len(values)}"
    return ""


def _interval_chart(report: Report, words: Words) -> Markup:
    (main, metric), dots = report.main, []
    for result in report.results:
        found = result["metrics"].get(metric)
        if found and found["value"] is not None:
            low, high = (found["value"] if found.get(end) is None else found[end] for end in ("low", "high"))
            shown = with_interval(metric, found)
            dots.append(charts.Dot(words.result(result["name"]), found["value"], low, high, shown, result["name"] == main))
    if not dots:
        return Markup("")
    return charts.intervals(dots, _axis(metric), f"{words('Before and after')}: {words.metric(metric)}")


def _comparison(comparison: Mapping[str, Any], words: Words) -> dict[str, str]:
    return {
        "names": f"{words.result(comparison['after'])} {words('against')} {words.result(comparison['before'])}",
        "metric": words.metric(comparison["metric"]),
        "told": change(comparison["metric"], comparison, words),
        "proof": proof(comparison, words),
        "css": {"better": "good", "worse": "bad"}.get(comparison["verdict"], "same"),
    }


def _curves(report: Report, words: Words) -> list[tuple[str, Markup]]:
    """Training loss, and the watched metric on validation: a chart each, a line a seed."""
    metrics = in_order(name for run in report.history for entry in run for name in entry.get("metrics") or ())
    watched = report.main[1] if report.main[1] in metrics else next(iter(metrics), None)
    charted = [(words("Training loss"), lambda entry: entry.get("train_loss"), lambda value: f"{value:.3g}")]
    if watched:
        title = f"{words.metric(watched)} ({words('validation')})"
        charted.append((title, lambda entry: (entry.get("metrics") or {}).get(watched), _axis(watched)))
    found = []
    for title, read, shown in charted:
        lines = []
        for at, run in enumerate(report.history):
            name = f"{words('seed')} {report.seeds[at] if at < len(report.seeds) else at}"
            points = [(entry["step"], read(entry)) for entry in run if read(entry) is not None]
            lines += [charts.Line(name, points)] if points else []
        if lines and max(len(line.points) for line in lines) > 1:
            found.append((title, charts.curves(lines, shown, title, words("step"))))
    return found


def _confusion(report: Report, words: Words) -> dict[str, Any] | None:
    """The heat map, and the pairs of labels that are most often taken for each other."""
    if not report.confusion or not report.confusion["labels"]:
        return None
    labels, matrix = report.confusion["labels"], report.confusion["matrix"]
    pairs = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    pairs.sort(key=lambda pair: (-pair[0], -pair[0] / sum(matrix[pair[1]]), pair[1], pair[2]))
    drawn = charts.most_wrong(labels, matrix)
    return {
        "chart": charts.heat_map(*drawn, (words("True"), words("Predicted")), words("Confusion matrix")),
        "small": len(labels) <= 8,
        "part": len(drawn[0]) < len(labels),
        "pairs": [(labels[i], labels[j], n, f"{100 * n / sum(matrix[i]):.0f}%") for n, i, j in pairs[:12]],
    }


def _scatter(report: Report, words: Words) -> dict[str, Markup] | None:
    if not report.scatter or not report.scatter["truth"]:
        return None
    truth, predicted = report.scatter["truth"], report.scatter["predicted"]
    residuals = [p - t for t, p in zip(truth, predicted)]
    title = words("Predicted against true")
    return {
        "chart": charts.scatter(truth, predicted, (words("True"), words("Predicted")), title),
        "residuals": charts.histogram(residuals, f"{words('Predicted')} − {words('True')}", words("Residuals")),
    }


def _reliability(report: Report, words: Words) -> Markup | None:
    found = report.calibration or {}
    if not any(b["count"] for b in found.get("bins") or ()):
        return None
    names = words("claimed"), words("came true")
    return charts.reliability(found["bins"], found.get("bins_before") or [], names, words("Reliability"))


def _stages(report: Report) -> list[tuple[str, float, float]]:
    """Stage, seconds, and its share of the longest in percent, in the order of the work."""
    seconds = {stage: value for stage, value in (report.cost.get("seconds") or {}).items() if value is not None}
    most = max(seconds.values(), default=0) or 1
    return [(stage, value, round(100 * value / most, 1)) for stage, value in _in_order(seconds, _STAGES)]


def _in_order(values: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, Any]]:
    """The pairs with the known names first, in their order; JSON keeps none."""
    return [(name, values[name]) for name in dict.fromkeys((*order, *values)) if name in values]


def _model(report: Report, words: Words) -> list[tuple[str, str]]:
    """What was tuned, line by line."""
    model = report.model
    named = {"name": "Backbone", "layers": "Layers", "depth": "Depth", "method": "Method", "dtype": "Data type of the states"}
    found = [(words(title), str(model[key])) for key, title in named.items() if model.get(key) is not None]
    if model.get("trained") is not None:
        total = f" {words('of')} {_count(model['total'])}" if model.get("total") else ""
        found.append((words("Trained"), _count(model["trained"]) + total))
    if model.get("bytes") is not None:
        found.append((words("Size of what was learned"), size(model["bytes"])))
    if model.get("frozen_bytes") is not None:
        found.append((words("Frozen weights in memory"), size(model["frozen_bytes"])))
    if model.get("ranks"):
        ranks = list(model["ranks"].values())
        found.append((words("Ranks"), f"{min(ranks)}–{max(ranks)}, {words('mean')} {sum(ranks) / len(ranks):.1f}"))
    return found


def _data_labels(report: Report) -> list[tuple[str, int, float]]:
    """Label, rows, and its share of the largest in percent, largest first."""
    labels = report.data.get("labels") or {}
    most = max(labels.values(), default=0) or 1
    return [(label, n, round(100 * n / most, 1)) for label, n in sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))]


def _axis(metric: str) -> Any:
    """How ticks of this metric are written: whole percents where they are whole."""
    if metric in METRICS and METRICS[metric].percent:
        return lambda value: f"{100 * value:.1f}".removesuffix(".0") + "%"
    return lambda value: f"{value:.4g}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _short(value: float) -> str:
    return size(value, ("", "k", "M", "B")).replace(" ", "")


def _clean(text: Any) -> str:
    """A text of the user for reading: control characters made visible, and cut to a readable length."""
    shown = str(text).translate(_CONTROLS)
    return shown if len(shown) <= _TEXT else shown[:_TEXT] + "…"
