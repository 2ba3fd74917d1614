"""`augment`: new rows come from training rows only and stay in train, the filter and the measure do what they say."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import trunkline as tl
from trunkline.augmentation import meaning
from trunkline.augmentation.augment import augment
from trunkline.augmentation.gain import gain
from trunkline.augmentation.settings import AugmentSettings
from trunkline.augmentation.synonyms import Neighbours
from trunkline.augmentation.write import write
from trunkline.data.cells import fold
from trunkline.data.split import row_id, split
from trunkline.errors import DataError, ModelError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.tasks.classify import TaskSpec
from trunkline.types import Rows

LOOSE = {"meaning": -1.0, "folds": 0}


def rows(count: int = 60) -> Rows:
    made = [
        {"text": f"my card {n} has not arrived", "label": "card"} if n % 2 else {"text": f"refund order {n} today", "label": "money"}
        for n in range(count)
    ]
    return Rows(tuple(made), "classify")


@pytest.fixture
def made(cache: Path, tiny_folder):
    return augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="eda,aeda", **LOOSE))


def test_new_rows_come_from_train_and_stay_there(made) -> None:
    origins = {row_id(row): row for row in made.parts.train if "source" not in row}
    assert len(made.new) > 20
    for row in made.new:
        assert row["label"] == origins[row["source"]]["label"]
        assert row["method"] in ("eda", "aeda")
    for part in (made.parts.validation, made.parts.test):
        assert len(part)
        assert not [row for row in part if "source" in row]
    measured = {fold(row["text"]) for part in (made.parts.validation, made.parts.test) for row in part}
    assert not measured & {fold(row["text"]) for row in made.new}
    assert len({row["id"] for row in made.new}) == len(made.new)


def test_kept_and_dropped_are_what_was_made(made) -> None:
    kept = {name: sum(row["method"] == name for row in made.new) for name in made.made}
    assert {name: kept[name] + sum(made.dropped[name].values()) for name in made.made} == made.made


def test_a_new_split_keeps_them_out_of_what_is_measured_on(made) -> None:
    """All rows together, divided anew with any seed: a row that was made of one to measure on is left out, all others are in train."""
    together = Rows((*rows(), *made.new), "classify")
    for seed in range(4):
        parts = split(together, seed=seed)
        assert not [row for part in (parts.validation, parts.test) for row in part if "source" in row]
        later = {row_id(row) for part in (parts.validation, parts.test) for row in part}
        in_train = [row for row in parts.train if "source" in row]
        assert {row["id"] for row in in_train} == {row["id"] for row in made.new if row["source"] not in later}
        plain = split(rows(), seed=seed)
        assert [row["text"] for row in parts.test] == [row["text"] for row in plain.test]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_the_file_says_where_each_row_belongs(made, tmp_path: Path, name: str) -> None:
    write(made, tmp_path / name)
    read = split(tl.read(tmp_path / name, text="text", label="label"), by="given")
    assert [len(part) for part in read.parts().values()] == [len(part) for part in made.parts.parts().values()]
    assert [row["text"] for row in read.test] == [row["text"] for row in made.parts.test]
    with pytest.raises(OptionError, match="jsonl"):
        write(made, tmp_path / "out.xls")


def test_the_same_seed_the_same_rows(made, tiny_folder) -> None:
    again = augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="eda,aeda", **LOOSE))
    other = augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="eda,aeda", seed=1, **LOOSE))
    assert again.new == made.new
    assert other.new != made.new


def test_the_filter_by_hand() -> None:
    """Two labels at the ends of a line: a new row must be near its origin, and nearer to it than to the other label."""
    vectors = np.array([[-1.0, 0.1], [-1.0, -0.1], [1.0, 0.1], [1.0, -0.1]])
    labels = np.array([0, 0, 1, 1])
    made = np.array([[-1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    assert meaning.judged(vectors, labels, made, np.array([0, 0, 0]), 0.5) == [None, meaning.FAR, meaning.FAR]
    assert meaning.judged(vectors, labels, made, np.array([0, 0, 0]), -1.0) == [None, meaning.LABEL, None]
    assert meaning.judged(vectors, None, made, np.array([0, 0, 0]), -1.0) == [None, None, None]
    assert meaning.usual(vectors, labels) == pytest.approx(0.9802, abs=1e-3)


def test_a_strict_filter_lets_nothing_in(cache: Path, tiny_folder) -> None:
    found = augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="eda", meaning=1.01))
    assert not found.new
    assert found.gain is None
    assert "no new row was let in" in str(found)


def test_gain_is_seen_where_there_is_one_and_not_where_there_is_none() -> None:
    """Rows on a noisy line; new rows that carry what the few rows lack help, copies of what is there do not, and wrong ones do harm."""
    generator = np.random.default_rng(0)
    truth = np.arange(200) % 2
    centre = np.zeros((2, 40))
    centre[1, :10] = 0.35
    vectors = (centre[truth] + generator.normal(size=(200, 40))).astype(np.float32)
    source = np.repeat(np.arange(200), 5)
    better = (centre[truth[source]] + 0.3 * generator.normal(size=(1000, 40))).astype(np.float32)
    worse = (centre[1 - truth[source]] + 0.3 * generator.normal(size=(1000, 40))).astype(np.float32)
    spec = TaskSpec(task="classify", labels=("a", "b"))
    verdicts = [gain(vectors, truth, new, source, spec, folds=5, seed=0)[0].verdict for new in (better, vectors[source], worse)]
    assert verdicts == ["better", "no difference shown", "worse"]


def test_a_branch_must_keep_the_label(cache: Path, tiny_folder, tmp_path: Path) -> None:
    from trunkline.branch import Branch
    from trunkline.methods.full import Config

    spec = TaskSpec(task="classify", labels=("card", "money"))
    branch = Branch.new(load_backbone(tiny_folder("bert")), spec, "full", Config(), 1)
    branch.save(tmp_path / "branch")
    found = augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="eda", branch=str(tmp_path / "branch"), **LOOSE))
    assert all(answer.value == row["label"] for answer, row in zip(branch.predict(list(found.new)), found.new))
    assert found.dropped["eda"][meaning.BRANCH] > 0


def test_words_near_in_the_embedding(tiny_folder) -> None:
    others = Neighbours(load_backbone(tiny_folder("bert")), k=4, least=-1.0)
    assert 0 < len(others("card")) <= 4
    assert "card" not in others("card")
    assert all(char.isascii() for char in "".join(others("card")))
    assert others("the") == others("unheard") == []


def test_what_cannot_be_done_is_said(cache: Path, tiny_folder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no output layer for gaps"):
        augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="masked"))
    with pytest.raises(ModelError, match="fills no gaps"):
        augment(rows(), tiny_folder("llama"), settings=AugmentSettings(methods="masked"))
    with pytest.raises(OptionError, match="would not fit"):
        augment(Rows(rows().rows, "tag"), tiny_folder("bert"))
    with pytest.raises(DataError, match="at least 10"):
        augment(rows(6), tiny_folder("bert"))
    for options, message in (
        ({"methods": "edda"}, "eda"),
        ({"methods": ","}, "at least one"),
        ({"methods": "translate"}, "there and back"),
        ({"copies": 0}, "copies"),
    ):
        with pytest.raises(OptionError, match=message):
            AugmentSettings(**options)


def test_a_masked_model_fills_gaps(cache: Path, tiny_folder, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(tiny_folder("bert"))
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder("bert") / name).read_bytes())
    found = augment(rows(), tmp_path, settings=AugmentSettings(methods="masked", **LOOSE))
    assert len(found.new) > 20
    assert not [row for row in found.new if "[MASK]" in row["text"]]


def test_a_branch_that_writes_says_it_anew(cache: Path, tiny_folder, tmp_path: Path) -> None:
    from trunkline.branch import Branch
    from trunkline.methods.full import Config
    from trunkline.tasks import seq2seq

    spec = seq2seq.TaskSpec(task="seq2seq", max_new_tokens=6)
    Branch.new(load_backbone(tiny_folder("t5")), spec, "full", Config(), 1).save(tmp_path / "writer")
    folder = str(tmp_path / "writer")
    settings = AugmentSettings(methods="translate,paraphrase", there=folder, back=folder, writer=folder, **LOOSE)
    found = augment(rows(20), tiny_folder("bert"), settings=settings)
    assert set(found.made) == {"translate", "paraphrase"}  # what an untuned tiny model writes is nothing to look at
    reads = TaskSpec(task="classify", labels=("card", "money"))
    Branch.new(load_backbone(tiny_folder("bert")), reads, "full", Config(), 0).save(tmp_path / "reads")
    with pytest.raises(OptionError, match="writes nothing"):
        augment(rows(), tiny_folder("bert"), settings=AugmentSettings(methods="paraphrase", writer=str(tmp_path / "reads")))


def test_figures_are_plain(made) -> None:
    assert json.loads(json.dumps(made.to_json()))["new"] == len(made.new)
    assert not made.helped


def test_the_example_runs(cache: Path, tiny_folder, capsys: pytest.CaptureFixture) -> None:
    example = Path(__file__).parents[2] / "examples/augment.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(example))["main"](None, str(tiny_folder("bert")), settings=tl.Settings(epochs=1))
    assert "new rows" in capsys.readouterr().out
