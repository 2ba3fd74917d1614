"""The verb on tiny models: what is measured, what is shown beside it, demonstrations that do not fit, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from tests.model.writing.test_language import saved
from tests.train.samples import make_rows
from trunkline.data.split import Split, split
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.baselines.labels import targets
from trunkline.evaluation.metrics import compute
from trunkline.evaluation.report import Report
from trunkline.prompting.prompt import prompt
from trunkline.prompting.settings import PromptSettings
from trunkline.prompting.template import Template
from trunkline.types import Rows

QUICK = PromptSettings(threads=1)
SHORT = Template("text {text} about {label}")
"""The tiny tokenizer has no letters for the default template's words, and no window for its instruction."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=64)


@pytest.fixture(scope="module")
def parts() -> Split:
    return split(make_rows(), validation=0.2, test=0.3)


@pytest.fixture(autouse=True)
def _cache(cache) -> None:
    """A cache folder for each test."""


@pytest.mark.parametrize("calibrate", ["none", "contextual", "pmi"])
@pytest.mark.parametrize(("shots", "pick"), [(0, "random"), (2, "random"), (2, "fixed"), (2, "nearest"), (2, "diverse")])
def test_report_is_of_the_answers(calibrate: str, shots: int, pick: str, llama, parts: Split) -> None:
    found = prompt(parts, llama, template=SHORT, shots=shots, pick=pick, calibrate=calibrate, settings=replace(QUICK, baseline_rows=0))
    answers = found.predict(parts.test)
    scores = np.stack([answer.scores for answer in answers])
    assert np.allclose(scores.sum(axis=1), 1)
    assert all(answer.value in found.spec.labels for answer in answers)
    (result,) = found.report.results
    assert result["name"] == "prompted"
    assert result["metrics"]["accuracy"]["value"] == compute(["accuracy"], targets(parts.test, found.spec), scores)["accuracy"]
    assert found.report.cost["tokens"] > 0


def test_baselines_stand_beside(llama, parts: Split) -> None:
    report = prompt(parts, llama, template=SHORT, settings=QUICK).report
    assert [result["name"] for result in report.results] == ["majority", "tfidf", "untuned", "prompted"]
    assert [(one["before"], one["after"]) for one in report.comparisons] == [("untuned", "prompted"), ("tfidf", "prompted")]
    assert Report.from_json(report.to_json()) == report
    assert "prompted" in report.headline()
    assert "prompt: template default, no demonstrations" in report.data["notes"]
    assert report.html().startswith("<!doctype html>") or "<html" in report.html()


@pytest.mark.parametrize("shots", [0, 2])
def test_reuse_changes_no_answer(shots: int, llama, parts: Split) -> None:
    told = {"template": SHORT, "shots": shots, "pick": "random", "calibrate": "contextual"}
    every = [
        prompt(parts, llama, **told, settings=replace(QUICK, reuse=reuse, baseline_rows=0)).scores(parts.test)
        for reuse in ("prefix", "row", "none")
    ]
    assert np.abs(every[0] - every[1]).max() < 1e-5
    assert np.abs(every[0] - every[2]).max() < 1e-5


def test_demonstrations_that_do_not_fit_are_dropped_and_said(llama, parts: Split) -> None:
    found = prompt(parts, llama, template=SHORT, shots=8, pick="random", settings=replace(QUICK, baseline_rows=0))
    (note,) = [note for note in found.report.data["notes"] if "dropped" in note]
    assert note.endswith(f"demonstrations of {len(parts.test):,} prompts did not fit the window and were dropped")


def test_a_text_that_does_not_fit_is_cut_and_said(llama, parts: Split) -> None:
    long = {"text": "refund " * 200, "label": "refund"}
    test = replace(parts.test, rows=(*parts.test.rows, long))
    notes = prompt(replace(parts, test=test), llama, template=SHORT, settings=replace(QUICK, baseline_rows=0)).report.data["notes"]
    assert "1 texts were longer than the window and lost their end" in notes


def test_window_too_small_for_the_template(llama, parts: Split) -> None:
    with pytest.raises(OptionError, match="instruction, form and labels fill it"):
        prompt(parts, llama, template=replace(SHORT, instruction="please " * 100), settings=QUICK)


def test_t5_is_prompted(tmp_path, parts: Split) -> None:
    found = prompt(parts, saved("t5", tmp_path), template=SHORT, shots=1, pick="fixed", settings=replace(QUICK, baseline_rows=0))
    assert found.report.results[0]["metrics"]["accuracy"]["value"] >= 0


def test_encoder_compares_with_the_labels(tiny_folder, parts: Split) -> None:
    folder = tiny_folder("bert")
    found = prompt(parts, folder, template=SHORT, calibrate="contextual", settings=QUICK)
    assert found.report.results[-1]["name"] == "prompted"
    again = prompt(parts, folder, template=SHORT, settings=QUICK)
    assert [answer.value for answer in again.predict(list(found.spec.labels))] == list(found.spec.labels)
    with pytest.raises(OptionError, match="reads no demonstrations"):
        prompt(parts, folder, template=SHORT, shots=1, settings=QUICK)
    with pytest.raises(OptionError, match="similarity has none"):
        prompt(parts, folder, template=SHORT, calibrate="pmi", settings=QUICK)


def test_search_takes_the_best_and_says_what_was_tried(llama, parts: Split) -> None:
    found = prompt(parts, llama, template=SHORT, shots=(0, 1), pick=("random", "nearest"), calibrate=("none", "pmi"), settings=QUICK)
    assert len(found.trials) == 6  # without demonstrations nothing is picked
    most = max(one.rows for one in found.trials)
    best = max((one for one in found.trials if one.rows == most), key=lambda one: one.value)
    assert best.what == found.what
    assert len([note for note in found.report.data["notes"] if note.startswith("tried on")]) == 6
    assert len(found.report.settings["search"]) == 6


def test_labels_need_words(llama, parts: Split) -> None:
    with pytest.raises(OptionError, match="no words for the label 'password'"):
        prompt(parts, llama, template=replace(SHORT, labels={"refund": "refund", "package": "package"}), settings=QUICK)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"calibrate": "context"}, "Did you mean 'contextual'"),
        ({"pick": "near", "shots": 1}, "Allowed: diverse, fixed, nearest, random"),
        ({"shots": 60}, "training rows to show"),
        ({"template": Template("{text} and {text_b} about {label}")}, "text_b"),
        ({"settings": replace(QUICK, by="similarity"), "calibrate": "pmi"}, "similarity has none"),
        ({"settings": replace(QUICK, by="cloze")}, "fills no gaps"),
    ],
)
def test_refusals(told: dict, message: str, llama, parts: Split) -> None:
    with pytest.raises(OptionError, match=message):
        prompt(parts, llama, **{"template": SHORT, "settings": QUICK, **told})


def test_other_tasks_are_refused(llama) -> None:
    with pytest.raises(OptionError, match="task='regress'"):
        prompt(make_rows("regress"), llama)
    with pytest.raises(DataError, match="no label, or several"):
        prompt(Rows(tuple({"text": f"a {n}", "label": ["x", "y"]} for n in range(40)), "classify"), llama)


def test_same_seed_same_bytes(llama, parts: Split) -> None:
    told = {"template": SHORT, "shots": 2, "pick": "random", "settings": replace(QUICK, baseline_rows=0)}
    one, other = (prompt(parts, llama, **told).scores(parts.test) for _ in range(2))
    assert one.tobytes() == other.tobytes()
