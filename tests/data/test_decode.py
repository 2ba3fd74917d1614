"""Bar D2: each encoding is decoded as it was written, or refused with a byte offset; no U+FFFD is made."""

import codecs
import gzip
import re

import pytest

from trunkline.data.decode import find_encoding
from trunkline.data.read import read
from trunkline.errors import DataError, OptionError

CHINESE = [("我的银行卡丢了，怎么办？", "挂失"), ("退款什么时候到账", "退款"), ("你们的服务太差了！", "投诉")] * 5
WESTERN = [
    ("Où est ma carte ? Elle n'est pas arrivée.", "carte"),
    ("Ich möchte mein Geld zurück, bitte schön", "geld"),
    ("¿Dónde está?", "carte"),
] * 5
CURLY = [("It’s “lost” – again…", "card"), ("Price: 5 € a month", "price")] * 5
PLAIN = [("my card is lost", "card"), ("where is my refund", "refund")] * 5
MARKS = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
MATRIX = [
    *((rows, name) for rows in (CHINESE, WESTERN, CURLY, PLAIN) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32")),
    *((CHINESE, name) for name in ("gb18030", "gbk", "gb2312")),
    *((rows, name) for rows in (WESTERN, PLAIN) for name in ("latin-1", "cp1252")),
    (CURLY, "cp1252"),
]


def write(path, rows, encoding):
    text = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows)
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    path.write_bytes(mark + text.encode(encoding))
    return path


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize(("rows", "encoding"), MATRIX, ids=[f"{rows[0][1]}-{name}" for rows, name in MATRIX])
def test_each_encoding_is_found(tmp_path, rows, encoding, ending):
    path = write(tmp_path / "rows.csv", rows, encoding)
    if ending.endswith("gz"):
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = read(tmp_path / f"rows.{ending}")
    assert [(row["text"], row["label"]) for row in found] == rows
    plain = encoding in ("utf-8", "utf-8-sig") or (rows is PLAIN and not encoding.startswith("utf"))
    assert any("Decoded as" in note for note in found.notes) != plain


@pytest.mark.parametrize("encoding", ["big5", "shift_jis", "cp1251", "utf-16-le", "utf-8", "UTF8"])
def test_an_encoding_that_is_told(tmp_path, encoding):
    rows = {"big5": "這間酒店環境不錯", "shift_jis": "カードを失くしました", "cp1251": "где моя карта"}.get(encoding, "wo ist die Karte")
    path = write(tmp_path / "rows.csv", [(rows, "a")], encoding)
    assert read(path, encoding=encoding)[0]["text"] == rows


@pytest.mark.parametrize(
    ("encoding", "text"), [("euc_jp", "私のカードはどこにありますか"), ("euc_kr", "제 카드는 어디에 있습니까"), ("cp1251", "где моя карта")]
)
def test_other_encodings_are_refused_and_not_read_as_chinese(tmp_path, encoding, text):
    path = write(tmp_path / "rows.csv", [(f"{text} {n}", "a") for n in range(20)], encoding)
    with pytest.raises(DataError, match=r"byte 12 .*encoding="):
        read(path)


@pytest.mark.parametrize("place", [0, 1, 5_000, (1 << 20) - 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
def test_the_byte_offset_is_right(tmp_path, place):
    """One broken byte among good Chinese text, at and around the borders of the pieces that are read at a time."""
    good = "我的卡丢了,卡\n".encode()
    data = b"text,label\n" + good * ((3 << 20) // len(good))
    place += 11
    while data[place] & 0xC0 == 0x80:  # to the start of a character
        place += 1
    path = tmp_path / "rows.csv"
    path.write_bytes(data[:place] + b"\xff" + data[place:])
    with pytest.raises(DataError, match=re.escape(f"byte {place:,} (0xff) is not UTF-8, although")):
        read(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_byte_offset_counts_the_mark(tmp_path, mark):
    path = tmp_path / "rows.csv"
    path.write_bytes(mark + b"text,label\nhello,a\n\xff")
    with pytest.raises(DataError, match=rf"byte {len(mark) + 19} \(0xff\)"):
        read(path, encoding="utf-8")


def test_a_replacement_character_in_the_file_is_kept_and_noted(tmp_path):
    path = write(tmp_path / "rows.csv", [("caf\ufffd", "a"), ("tea", "b")], "utf-8")
    rows = read(path)
    assert rows[0]["text"] == "caf\ufffd"
    assert any("U+FFFD" in note for note in rows.notes)


@pytest.mark.parametrize("name", ["utf-9", "hex", "rot13", "base64", "", "\x00"])
def test_what_is_no_encoding(tmp_path, name):
    path = write(tmp_path / "rows.csv", PLAIN, "utf-8")
    with pytest.raises(OptionError, match="not a known encoding"):
        find_encoding(path, name)
