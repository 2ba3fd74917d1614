"""Bar D1: over 60 malformed files, made here. Each gives one clean error or counted bad rows, never another exception."""

import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trunkline.data.read import read
from trunkline.errors import DataError, TrunklineError

GOOD = [("my card is lost", "card"), ("where is my refund", "refund"), ("我的卡丢了", "card"), ("退款在哪里", "refund")]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in GOOD)
TSV = CSV.replace(",", "\t")
LINES = "".join(json.dumps({"text": t, "label": c}, ensure_ascii=False) + "\n" for t, c in GOOD)
ARRAY = json.dumps([{"text": t, "label": c} for t, c in GOOD], ensure_ascii=False, indent=1)


def parquet(columns=None, **options):
    file = io.BytesIO()
    columns = columns or {"text": [t for t, _ in GOOD], "label": [c for _, c in GOOD]}
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def files():
    """name, bytes, and what is expected: a part of the error, or (kept, bad) with a quarantine file."""
    # CSV: rows
    yield "few_fields.csv", CSV + "only one\n", (4, 1)
    yield "many_fields.csv", CSV + "a,b,c\n", (4, 1)
    yield "every_row_wide.csv", "text,label\na,b,c\nd,e,f\n", "has 3 fields, and 2 are expected"
    yield "no_text.csv", CSV + ",card\n", (4, 1)
    yield "blank_text.csv", CSV + '"  \t ",card\n', (4, 1)
    yield "invisible_text.csv", CSV + "\u200b\u200d,card\n", (4, 1)
    yield "no_label.csv", CSV + "hello there,\n", (4, 1)
    yield "blank_label.csv", CSV + "hello there,  \n", (4, 1)
    yield "nul_in_text.csv", CSV + "a\x00b,card\n", (4, 1)
    yield "nul_in_label.csv", CSV + "hello,ca\x00rd\n", (4, 1)
    yield "quote_open_at_end.csv", CSV + '"never closed,card\n', (4, 1)
    yield "quote_open_in_middle.csv", 'text,label\n"open,card\n' + CSV[11:], (4, 1)
    yield "quote_then_text.csv", CSV + '"Good" he said,card\n', (4, 1)
    yield "cell_over_limit.csv", CSV + "x" * (1 << 20) + "y,card\n" + "hi,card\n", (5, 1)
    yield "line_over_limit.csv", CSV + "x" * (5 << 20) + ",card\nhi,card\n", (5, 1)
    yield "label_over_limit.csv", CSV + "hello," + "x" * 2000 + "\n", (4, 1)
    yield "quoted_cell_over_limit.csv", CSV + '"' + (99 * "x" + "\n") * 11_000 + '",card\n', "cannot be used"
    # CSV: the whole file
    yield "empty.csv", "", "the file is empty"
    yield "only_blank_lines.csv", "\n\n\n", "the file is empty"
    yield "only_mark.csv", b"\xef\xbb\xbf", "the file is empty"
    yield "header_only.csv", "text,label\n", "no rows that can be used"
    yield "header_twice.csv", "text,text,label\na,b,c\n", "2 times"
    yield "one_column.csv", "text\nhello\nthere\n", "has no column separator"
    yield "header_is_data.csv", "my card is lost and I would like another one soon,1\nwhere is it,0\n", "--no-header"
    yield "header_is_data_short.csv", "great film,pos\nbad film,neg\ngood,pos\nworse,neg\n", "--no-header"
    yield "header_broken_quote.csv", '"text,label\nhello,a\n', "never closed"
    yield "no_label_column.csv", "text,when\na b c,1\nd e f,2\n", "no column looks like the label"
    yield "all_numbers.csv", "a,b\n1,2\n3,4\n", "no column looks like the text"
    yield "excel.csv", b"PK\x03\x04" + bytes(range(256)), "ZIP or Excel"
    yield "old_excel.csv", b"\xd0\xcf\x11\xe0" + bytes(range(256)), "old Excel"
    yield "parquet_named.csv", parquet(), "is a Parquet file"
    yield "gzip_named.csv", gzip.compress(CSV.encode()), "is a gzip file"
    yield "pdf_named.csv", b"%PDF-1.7\n%\xe2\xe3\n", "is a PDF"
    yield "random_bytes.csv", random.Random(0).randbytes(5000), "byte"
    yield "image_like.csv", b"\x89PNG\r\n\x1a\n" + b"\0" * 400, "NUL bytes"
    # encodings
    yield "broken_utf8.csv", CSV.encode() + b"\xe6\x88,card\n", "is not UTF-8, although"
    yield "cut_utf8.csv", CSV.encode() + "我".encode()[:2], "is not UTF-8"
    yield "cut_utf16.csv", CSV.encode("utf-16")[:-1], "is not UTF-16-LE"
    yield "utf16_no_mark.csv", CSV.replace("我的卡丢了", "x").encode("utf-16-le"), "utf-16-le"
    yield "lone_utf16.csv", b"\xff\xfe" + "text,label\n".encode("utf-16-le") + b"\x00\xd8a\x00,\x00b\x00\n\x00", "is not UTF-16-LE"
    yield "mark_lies.csv", b"\xef\xbb\xbf" + "text,label\n你好,a\n".encode("gb18030"), "byte order mark promises"
    yield "big5.csv", ("text,label\n" + "這間酒店環境和服務態度亦算不錯,一\n" * 30).encode("big5"), "byte"
    yield "cyrillic.csv", ("text,label\n" + "где моя карта,возврат\n" * 30).encode("cp1251"), "byte"
    yield "old_mac.csv", CSV.replace("\n", "\r") + "lost\r", (4, 1)
    # TSV and text
    yield "few_fields.tsv", TSV + "only one\n", (4, 1)
    yield "many_fields.tsv", TSV + "a\tb\tc\n", (4, 1)
    yield "quote_in_row.tsv", TSV + '"open\tcard\nnext row\trefund\nclose"\tcard\n', (7, 0)
    yield "quote_in_short_row.tsv", TSV + '"open only\nnext row\trefund\n', (5, 1)
    yield "header_is_data.tsv", "it is a fine film\t1\nit is not\t0\n", "--no-header"
    yield "no_separator.txt", "hello\nthere\n", "has no column separator"
    # JSON Lines
    yield "broken_line.jsonl", LINES + '{"text": "a", "label"\n', (4, 1)
    yield "cut.jsonl", LINES[:-10], (3, 1)
    yield "list_line.jsonl", LINES + '["a", "b"]\n', (4, 1)
    yield "number_line.jsonl", LINES + "17\n", (4, 1)
    yield "no_text.jsonl", LINES + '{"label": "card"}\n', (4, 1)
    yield "null_label.jsonl", LINES + '{"text": "a", "label": null}\n', (4, 1)
    yield "number_text.jsonl", LINES + '{"text": 5, "label": "card"}\n', (4, 1)
    yield "object_label.jsonl", LINES + '{"text": "a", "label": {"x": 1}}\n', (4, 1)
    yield "nan.jsonl", LINES + '{"text": "a", "label": NaN}\n', (4, 1)
    yield "infinity.jsonl", LINES + '{"text": "a", "label": 1e999}\n', (4, 1)
    yield "duplicate_key.jsonl", LINES + '{"text": "a", "text": "b", "label": "card"}\n', (4, 1)
    yield "deep.jsonl", LINES + '{"text": "a", "label": ' + "[" * 500 + "]" * 500 + "}\n", (4, 1)
    yield "very_deep.jsonl", LINES + "[" * 200_000 + "\n", (4, 1)
    yield "long_integer.jsonl", LINES + '{"text": "a", "label": ' + "9" * 100_000 + "}\n", (4, 1)
    yield "lone_surrogate.jsonl", LINES + '{"text": "a\\ud800b", "label": "card"}\n', (4, 1)
    yield "nul_escape.jsonl", LINES + '{"text": "a\\u0000b", "label": "card"}\n', (4, 1)
    yield "python_dict.jsonl", LINES + "{'text': 'a', 'label': 'b'}\n", (4, 1)
    yield "line_over_limit.jsonl", LINES + '{"text": "' + "x" * (5 << 20) + '", "label": "a"}\n' + LINES, (8, 1)
    yield "first_line_broken.jsonl", '{"text": oops\n' + LINES, (4, 1)
    yield "empty.jsonl", " \n \n", "holds no JSON"
    # JSON
    yield "broken.json", ARRAY[:-5], ".json:"
    yield "string.json", '"hello"', "is a JSON str"
    yield "no_list.json", '{"a": 1}', "lists of objects"
    yield "two_lists.json", '{"a": [{"text": "x"}], "b": [{"text": "x"}]}', "lists of objects"
    yield "list_of_strings.json", '["a", "b"]', "no rows"
    yield "one_odd_row.json", ARRAY[:-2] + ', 17, {"text": "x", "label": "card"}]', (5, 1)
    yield "duplicate_key.json", '[{"text": "a", "text": "b", "label": "c"}]', "duplicate key"
    yield "nan.json", '[{"text": "a", "label": NaN}]', "NaN"
    yield "deep.json", "[" * 100_000 + "]" * 100_000, "nested"
    yield "long_integer.json", '[{"text": "a", "label": ' + "9" * 100_000 + "}]", "digits"
    yield "empty_list.json", "[]", "no rows"
    # Parquet
    yield "empty.parquet", b"", "cannot be read as Parquet"
    yield "text_in_it.parquet", CSV, "cannot be read as Parquet"
    yield "cut.parquet", parquet()[:-20], "cannot be read as Parquet"
    yield "no_footer.parquet", parquet()[:-4] + b"XXXX", "cannot be read as Parquet"
    yield "no_rows.parquet", parquet({"text": pa.array([], "string"), "label": pa.array([], "string")}), "no rows that can be used"
    yield "no_text.parquet", parquet({"text": ["a", None, ""], "label": ["x", "y", "z"]}), (1, 2)
    yield "numbers.parquet", parquet({"text": [1, 2], "label": ["x", "y"]}), "not a string"
    yield "structs.parquet", parquet({"text": [{"a": 1}], "label": ["x"]}), "no column looks like the text"
    yield "huge_cell.parquet", parquet({"text": ["a b", "x" * (20 << 20)], "label": ["x", "y"]}), "at most 1,048,576 per cell"
    yield "large_cell.parquet", parquet({"text": ["a b"] * 8 + ["x" * (2 << 20)], "label": list("xyxyxyxyx")}), (8, 1)
    # gzip
    yield "not_gzip.csv.gz", CSV, "damaged gzip"
    yield "cut.csv.gz", gzip.compress(CSV.encode())[:-12], "damaged gzip"
    yield "bad_sum.csv.gz", gzip.compress(CSV.encode())[:-8] + b"\0" * 8, "damaged gzip"
    yield "bomb.csv.gz", gzip.compress(b"text,label\n" + b"a" * (30 << 20)), "times the packed size"
    yield "bomb.jsonl.gz", gzip.compress(b"0" * (30 << 20)), "times the packed size"
    yield "bomb.parquet.gz", gzip.compress(b"0" * (30 << 20)), "times the packed size"
    yield "empty.csv.gz", gzip.compress(b""), "the file is empty"
    yield "inner_broken.csv.gz", gzip.compress(CSV.encode() + b"one\n"), (4, 1)
    # names
    yield "rows.xlsx", b"PK\x03\x04", "CSV UTF-8"
    yield "rows", CSV, "is not known"


FILES = list(files())


def test_corpus_is_large_enough():
    assert len({name for name, *_ in FILES}) == len(FILES) >= 60


@pytest.mark.parametrize(("name", "data", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_malformed_file(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    quarantine = tmp_path / "bad.jsonl"
    if isinstance(expected, str):
        with pytest.raises(TrunklineError) as caught:
            read(path)
        assert expected in str(caught.value)
        assert str(path) in str(caught.value)
        return
    kept, bad = expected
    rows = read(path, skip_bad=quarantine)
    assert (len(rows), len(rows.problems)) == (kept, bad)
    written = [json.loads(line) for line in quarantine.read_text("utf-8").splitlines()]
    assert [(one["line"], one["reason"]) for one in written] == [(one.line, one.reason) for one in rows.problems]
    if bad:
        with pytest.raises(DataError, match=r"cannot be used") as caught:
            read(path)
        assert f"{path}:{rows.problems[0].line}: {rows.problems[0].reason}" in str(caught.value)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json", "rows.parquet", "rows.csv.gz"])
def test_cut_and_flipped_anywhere(tmp_path, name):
    """Any beginning of a good file, and a good file with any byte changed: ours or nothing."""
    whole = {
        "rows.csv": CSV.encode(),
        "rows.tsv": TSV.encode(),
        "rows.jsonl": LINES.encode(),
        "rows.json": ARRAY.encode(),
        "rows.parquet": parquet(),
        "rows.csv.gz": gzip.compress(CSV.encode()),
    }[name]
    generator, path = random.Random(7), tmp_path / name
    for _ in range(60):
        place = generator.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        for data in (whole[:place], bytes(flipped)):
            path.write_bytes(data)
            try:
                rows = read(path, skip_bad=tmp_path / "bad.jsonl")
            except TrunklineError:
                continue
            assert len(rows) > 0


def test_line_number_is_where_the_record_starts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",a\n\n"three\nmore\nlines",b,c\nfine,a\n')
    rows = read(path, skip_bad=tmp_path / "bad.jsonl")
    assert [row["text"] for row in rows] == ["two\nlines", "fine"]
    assert [problem.line for problem in rows.problems] == [5]


def test_line_number_in_a_json_list(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"about": [1, 2],\n "data": [\n  {"text": "a b c", "label": "x"},\n\n  {"text": "", "label": "x"}, 5\n]}')
    rows = read(path, skip_bad=tmp_path / "bad.jsonl")
    assert [problem.line for problem in rows.problems] == [5, 5]


def test_many_broken_quotes_end_in_an_error_soon(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + 'x","y\n' * 100_000)  # each line opens a quotation mark that no later line closes
    with pytest.raises(DataError, match="quotation marks are broken all over"):
        read(path, skip_bad=tmp_path / "bad.jsonl")
