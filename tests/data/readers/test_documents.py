"""Plain text by line, paragraph and document; what is too long or empty."""

import gzip

import pytest

from trunkline.data.columns import Columns
from trunkline.data.formats import Form
from trunkline.data.readers.documents import open_documents
from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

NONE = Columns()
TEXT = "One, two\nthree\n\n\n  four\nfive\n \nsix"


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("line", [(1, "One, two"), (2, "three"), (5, "  four"), (6, "five"), (8, "six")]),
        ("paragraph", [(1, "One, two\nthree"), (5, "  four\nfive\n "), (8, "six")]),
        ("document", [(1, TEXT)]),
    ],
)
def test_pieces(tmp_path, by, expected) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    table, _ = open_documents(path, Form(), NONE, by=by)
    assert [(line, record["text"]) for line, record in table.records] == expected


def test_gb18030_is_found(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("今天的天气很好，我们去公园。\n他是我的朋友。".encode("gb18030"))
    table, _ = open_documents(path, Form(), NONE)
    assert [record["text"] for _, record in table.records] == ["今天的天气很好，我们去公园。", "他是我的朋友。"]
    assert "GB18030" in table.notes[0]


def test_a_text_too_long_is_a_problem(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word " * 300_000 + "\nshort\n" + "and on\n" * 600_000)
    whole = list(open_documents(path, Form(), NONE, by="document")[0].records)
    assert isinstance(whole[0], Problem)
    assert "is a document of over 1,048,576 characters" in whole[0].reason
    lines = open_documents(path, Form(), NONE)[0].records
    assert "is a line of over" in next(lines).reason
    assert next(lines) == (2, {"text": "short"})


def test_what_is_no_plain_text_is_left_to_the_other_readers(tmp_path) -> None:
    for name in ("a.csv", "a.txt"):
        (tmp_path / name).write_text("text,label\na,b\n")
    assert open_documents([{"text": "a"}], Form(), NONE) is None
    assert open_documents(tmp_path / "a.csv", Form(), NONE) is None
    assert open_documents(tmp_path / "a.txt", Form(), Columns(text="text")) is None
    assert open_documents(tmp_path / "b.txt", Form(), NONE) is None  # who opens it says that there is none


def test_refusals(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        open_documents(path, Form(), NONE)
    with pytest.raises(OptionError, match=r"by='word'.*document, line, paragraph"):
        open_documents(path, Form(), NONE, by="word")
