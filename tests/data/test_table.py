"""Python objects as sources: lists of dicts, pandas, `datasets`."""

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from trunkline.data.read import read
from trunkline.errors import DataError, MissingExtra, OptionError

TEXTS = ["my card is lost", "where is my refund", "我的卡丢了"]


def dataset(label, values):
    return datasets.Dataset.from_dict(
        {"text": TEXTS, "label": values}, features=datasets.Features({"text": datasets.Value("string"), "label": label})
    )


def test_dataset_gives_names_of_classes():
    rows = read(dataset(datasets.ClassLabel(names=["card", "refund"]), [0, 1, 0]))
    assert [row["label"] for row in rows] == ["card", "refund", "card"]


def test_dataset_of_several_classes():
    rows = read(dataset(datasets.Sequence(datasets.ClassLabel(names=["card", "refund"])), [[0, 1], [1], []]))
    assert [row["label"] for row in rows] == [["card", "refund"], ["refund"], []]


def test_a_class_of_minus_one_is_missing():
    with pytest.raises(DataError, match="label is missing"):
        read(dataset(datasets.ClassLabel(names=["card", "refund"]), [0, 1, -1]))


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_saved_datasets_keep_the_names(tmp_path, form):
    data, path = dataset(datasets.ClassLabel(names=["card", "refund"]), [0, 1, 0]), tmp_path / "rows.parquet"
    if form == "folder":
        path = tmp_path / "saved"
        data.save_to_disk(path)
    else:
        data.to_parquet(path)
    rows = read(path)
    assert [(row["text"], row["label"]) for row in rows] == list(zip(TEXTS, ["card", "refund", "card"]))


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(DataError, match=r"state\.json"):
        read(tmp_path)
    datasets.DatasetDict(train=dataset(datasets.Value("string"), ["a", "b", "a"])).save_to_disk(tmp_path / "dict")
    with pytest.raises(DataError, match="dict/train"):
        read(tmp_path / "dict")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot load this folder"):
        read(tmp_path)


def test_the_extra_is_named_when_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"trunkline\[datasets\]"):
        read(tmp_path)


def test_frame_with_blanks():
    frame = pd.DataFrame({"text": [*TEXTS, "no label"], "label": [1, 2, 1, None]})
    rows = read(pd.concat([frame[:3]] * 40 + [frame[3:]]))
    assert [row["label"] for row in rows[:3]] == ["1", "2", "1"]
    assert (len(rows), len(rows.problems)) == (120, 1)
    assert rows.problems[0].line == 121


@pytest.mark.parametrize("kind", ["Int64", "int8", "float32", "category", "string"])
def test_kinds_of_frame_columns(kind):
    assert [row["label"] for row in read(pd.DataFrame({"text": TEXTS, "label": pd.Series([1, 2, 1]).astype(kind)}))] == ["1", "2", "1"]


def test_frame_with_dates_and_arrays():
    frame = pd.DataFrame(
        {"text": TEXTS, "label": [np.array(["a", "b"]), np.array(["a"]), np.array(["b"])], "when": pd.to_datetime(["1970-01-02"] * 3)}
    )
    rows = read(frame, time="when")
    assert rows[0] == {"text": TEXTS[0], "label": ["a", "b"], "time": 86400.0}


def test_frame_with_a_column_twice():
    with pytest.raises(DataError, match="stands there twice"):
        read(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_numpy_numbers_are_numbers():
    rows = read([{"text": text, "label": np.float32(0.5)} for text in TEXTS], task="regress")
    assert [row["label"] for row in rows] == [0.5] * 3
    assert [row["label"] for row in read([{"text": text, "label": np.int64(n)} for n, text in enumerate(TEXTS)], text="text")] == [
        "0",
        "1",
        "2",
    ]


def test_what_is_no_source():
    for source in (None, 5, b"rows.csv", (row for row in ())):
        with pytest.raises(OptionError, match="give a path"):
            read(source)
    with pytest.raises(DataError, match="Give one data set of it"):
        read({"train": []})
    with pytest.raises(DataError, match="no rows"):
        read([])


def test_parquet_reads_lists_and_large_files_in_pieces(tmp_path):
    frame = pd.DataFrame({"text": [f"message {n}" for n in range(3_000)], "label": [["a"], ["a", "b"], []] * 1_000})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert pq.ParquetFile(tmp_path / "rows.parquet").metadata.num_rows == len(read(tmp_path / "rows.parquet")) == 3_000
