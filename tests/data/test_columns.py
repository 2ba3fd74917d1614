"""Which columns are taken when none, some or all are told; all guesses are said."""

import pytest

from trunkline.data.read import read
from trunkline.errors import DataError, OptionError


def columns(rows, task="classify", **told):
    return read(rows, task, **told).columns


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("text category", "text", "category"),
        ("label text_a", "text_a", "label"),
        ("split topic label TEXT", "TEXT", "label"),
        ("utterance intent", "utterance", "intent"),
        ("Review Stars", "Review", "Stars"),
        ("内容 类别", "内容", "类别"),
        ("标签 文本", "文本", "标签"),
        ("编号 评论 情感", "评论", "情感"),
        ("kind body", "body", "kind"),
        ("k what", "what", "k"),
    ],
)
def test_guessed_and_said(header, text, label):
    names = header.split()
    values = {text: "a long text with words {}", label: "{}"}
    source = [{name: values.get(name, f"{n} x").format(n % 2 if name == label else n) for name in names} for n in range(20)]
    rows = read(source)
    assert (rows.columns["text"], rows.columns["label"]) == (text, label)
    assert any(f"text = column {text!r}" in note and f"label = column {label!r}" in note for note in rows.notes)


@pytest.mark.parametrize(("a", "b"), [("sentence1", "sentence2"), ("premise", "hypothesis"), ("text_a", "text_b"), ("句子1", "句子2")])
def test_pairs(a, b):
    source = [{a: f"one {n}", b: f"two {n}", "score": n} for n in range(5)]
    assert columns(source, "regress") == {"text": a, "text_b": b, "label": "score"}
    assert columns(source, "regress", text=b) == {"text": b, "label": "score"}


def test_what_is_told_is_not_guessed_or_said():
    source = [{"text": f"one {n}", "title": f"two {n}", "label": n % 2, "stars": n % 3} for n in range(9)]
    rows = read(source, text="title", label="stars")
    assert rows.columns == {"text": "title", "label": "stars"}
    assert rows.notes == ()


def test_the_label_is_not_the_text():
    source = [{"title": f"a long one {n}", "text": "ab"[n % 2]} for n in range(6)]
    assert columns(source, label="text") == {"text": "title", "label": "text"}


def test_a_column_split_is_carried_only_when_it_means_that():
    source = [{"text": f"one {n}", "label": n % 2, "split": "test" if n > 3 else "train"} for n in range(9)]
    assert columns(source)["split"] == "split"
    assert "split" not in columns([{**row, "split": "north"} for row in source])


def test_unknown_and_unguessable(tmp_path):
    source = [{"text": "one", "label": "a"}]
    with pytest.raises(OptionError, match=r"column='txt': unknown\. Did you mean 'text'\? Allowed: label, text"):
        read(source, text="txt")
    with pytest.raises(DataError, match=r"no column looks like the label.*label=NAME.*when"):
        read([{"text": f"one {n}", "when": n} for n in range(9)])


@pytest.mark.parametrize("name", ["2019", "How satisfied were you with the service overall?"])
def test_odd_headers_are_fine_when_the_columns_are_told(tmp_path, name):
    path = tmp_path / "rows.csv"
    path.write_text(f"{name},label\nfine words,a\nbad words,b\n")
    with pytest.raises(DataError, match="looks like data"):
        read(path)
    assert len(read(path, text=name, label="label")) == 2
