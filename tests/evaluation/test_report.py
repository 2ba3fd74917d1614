"""A report is the same after a trip through JSON, and says the same in the terminal."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.report_samples import SAMPLES
from trunkline.errors import ArtefactError, OptionError
from trunkline.evaluation.report import Report, confident_errors

NAMES = sorted(SAMPLES)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.floats().map(np.float64)
    | st.integers(0, 9).map(np.int64),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", NAMES)
def test_json_gives_back_an_equal_report_and_the_same_bytes(name):
    report = SAMPLES[name]()
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()
    assert again.html() == report.html()


@settings(max_examples=60, deadline=None)
@given(
    st.text(), st.dictionaries(st.text(max_size=9), VALUES, max_size=4), st.lists(st.dictionaries(st.text(max_size=9), VALUES), max_size=3)
)
def test_whatever_is_put_in_comes_back(text, mapping, entries):
    report = Report(text, command=text, settings=mapping, data={"source": text}, errors=entries, history=[entries])
    assert Report.from_json(report.to_json()) == report


def test_nan_and_half_surrogates_do_not_stop_a_report():
    report = Report("classify", history=[[{"step": 1, "train_loss": float("nan")}]], command="tune \ud83d")
    assert report.history == [[{"step": 1, "train_loss": None}]]
    assert "\\ud83d" in Report.from_json(report.to_json()).command


def test_what_cannot_be_written_is_refused_at_once():
    with pytest.raises(OptionError, match=r"settings\.model: a object"):
        Report("classify", settings={"model": object()})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b'{"format": 1}', "damaged"),
        (b'{"format": 2, "task": "x"}', "Upgrade"),
        (b'{"format": "1", "task": "x"}', "Upgrade"),
        (b'{"format": 1, "task": "x", "resuts": []}', "Did you mean 'results'"),
        (b'{"format": 1, "task": "x", "results": {}}', "a list is needed"),
        (b'{"format": 1, "task": "x", "task": "y"}', "duplicate"),
        (b'{"format": 1, "task": NaN}', "NaN"),
        (b"\xff", "damaged"),
    ],
)
def test_damaged_json_is_an_error_with_the_file_name(data, said):
    with pytest.raises(ArtefactError, match=said) as raised:
        Report.from_json(data, "runs/a/report.json")
    assert "runs/a/report.json" in str(raised.value)


def test_the_terminal_has_one_table_the_test_and_the_next_command():
    shown = str(SAMPLES["many"]())
    for name in ("majority class", "TF-IDF + linear", "untuned trunk + linear", "tuned branch"):
        assert sum(line.startswith(name) and " | " in line for line in shown.splitlines()) == 1
    assert "exact McNemar, p < 0.001" in shown
    assert "over 3 seeds: mean" in shown
    assert shown.splitlines()[-1] == "  trunkline evaluate runs/messages held_out.csv --json"
    assert max(map(len, shown.splitlines()[:6])) <= 120
    assert str(Report("classify")) == "No result yet."


def made(verdict, difference, low, high):
    metrics = {name: {"accuracy": {"value": v, "low": v - 0.009, "high": v + 0.009}} for name, v in (("untuned", 0.902), ("tuned", 0.931))}
    comparison = {"before": "untuned", "after": "tuned", "metric": "accuracy", "p_value": 0.0001, "test": "exact McNemar"}
    comparison |= {"difference": difference, "low": low, "high": high, "verdict": verdict}
    return Report("classify", results=[{"name": n, "metrics": m, "seconds": 1} for n, m in metrics.items()], comparisons=[comparison])


def test_the_headline_says_the_result_in_words():
    better = made("better", 0.029, 0.021, 0.037)
    assert better.headline() == "The tuned branch gets 93.1% right (92.2–94.0); the untuned trunk 90.2%: better by 2.9 points (2.1–3.7)."
    assert better.headline("zh") == "调优后的分支答对 93.1%（92.2–94.0）；未调优的主干为 90.2%：更好，相差 2.9 个百分点（2.1–3.7）。"
    assert made("worse", -0.029, -0.037, -0.021).headline().endswith("worse by 2.9 points (2.1–3.7).")
    assert made("no difference shown", 0.004, -0.002, 0.01).headline().endswith("no difference shown (+0.4 points, −0.2 … 1.0).")


def test_the_most_confident_errors_come_first():
    rows = [{"text": letter} for letter in "abcd"]
    truth, scores = [0, 0, 1, 1], [[0.4, 0.6], [0.05, 0.95], [0.1, 0.9], [0.7, 0.3]]
    found = confident_errors(rows, truth, scores, ["no", "yes"], count=2)
    assert [(row["text"], row["label"], row["predicted"], row["probability"]) for row in found] == [
        ("b", "no", "yes", 0.95),
        ("d", "yes", "no", 0.7),
    ]
    several = confident_errors(rows[:2], [[1, 0], [1, 1]], [[0.9, 0.8], [0.9, 0.02]], ["x", "y"])
    assert [(row["label"], row["predicted"], row["probability"]) for row in several] == [("x, y", "x", 0.98), ("x", "x, y", 0.8)]
    numbers = confident_errors(rows[:3], [1.0, 2.0, 3.0], [1.0, 4.0, 2.5])
    assert [(row["text"], row["error"]) for row in numbers] == [("b", 2.0), ("c", 0.5)]
    with pytest.raises(OptionError, match="3 rows and 2 scores"):
        confident_errors(rows[:3], [0, 1], scores[:2], ["no", "yes"])


def test_the_json_is_readable_and_says_its_format():
    values = json.loads(SAMPLES["chinese"]().to_json())
    assert values["format"] == 1
    assert "物流" in SAMPLES["chinese"]().to_json().decode()
