"""Column files: found, read, refused, and written so that they read the same."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trunkline as tl
from trunkline.data.columns import Columns
from trunkline.data.formats import Form
from trunkline.data.readers.conll import open_tagged, write
from trunkline.data.tagging import SCHEMES
from trunkline.errors import DataError, OptionError, TrunklineError
from trunkline.types import Problem

DATA = Path(os.environ.get("TRUNKLINE_DATA", Path(__file__).parents[4] / "shared" / "data"))
CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP I-MISC

Peter NNP B-NP B-PER
"""


def read(path, told=None, **options):
    """The records of a file and its notes; None where it is no column file."""
    opened = open_tagged(path, Form(), told or Columns(), **options)
    return None if opened is None else (list(opened[0].records), opened[0].notes)


def put(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def named(record):
    return [(record["text"][start:end], kind) for start, end, kind in record["label"]]


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.tsv", "a.bio", "noending"])
@pytest.mark.parametrize("separator", [" ", "\t"])
def test_four_columns(name, separator, tmp_path):
    (first, second), notes = read(put(tmp_path, name, CONLL.replace(" ", separator)))
    assert first == (
        3,
        {"text": "EU rejects German call", "words": [[0, 2], [3, 10], [11, 17], [18, 22]], "label": [[0, 2, "ORG"], [11, 22, "MISC"]]},
    )
    assert (second[0], named(second[1])) == (8, [("Peter", "PER")])
    assert notes == ["Tags are read as bio."]


def test_told_columns_and_scheme_of_another_column(tmp_path):
    path = put(tmp_path, "a.conll", CONLL)
    (first, _), notes = read(path, Columns(text="0", label="2"))
    assert named(first[1]) == [("EU", "NP"), ("rejects", "VP"), ("German call", "NP")]
    with pytest.raises(OptionError, match=r"label=7: .* has 4 columns. Use 0 to 3"):
        read(path, Columns(label="7"))
    with pytest.raises(OptionError, match="the columns of this file have no names"):
        read(path, Columns(label="ner"))
    (first, _), notes = read(path, labelled=False)
    assert set(first[1]) == {"text", "words"}
    assert notes == []


def test_gzip_latin_1_and_crlf(tmp_path):
    path = put(tmp_path, "a.bio.gz", gzip.compress("Zoë\tB-PER\r\nging\tO\r\n\r\nJa\tO\r\n".encode("latin-1")))
    records, _ = read(path)
    assert [record["text"] for _, record in records] == ["Zoë ging", "Ja"]


def test_chinese_by_character_in_bmes(tmp_path):
    text = "高 B-NAME\n勇 E-NAME\n： O\n1 O\n9 O\n6 O\n年 O\n任 O\n经 B-TITLE\n济 M-TITLE\n师 E-TITLE\n"
    ((_, record),), notes = read(put(tmp_path, "a.char.bmes", text))
    assert record["text"] == "高勇：196年任经济师"
    assert named(record) == [("高勇", "NAME"), ("经济师", "TITLE")]
    assert notes == ["Tags are read as bmes."]


def test_not_legal_tags_are_counted(tmp_path):
    _, notes = read(put(tmp_path, "a.bio", "a B-X\nb I-X\n\nc B-X\n\nd O\ne I-X\n\nf I-X\ng B-X\n"))
    assert notes[1] == "2 tags are not legal in bio and were read as well as could be (the first sentence at 6)."


def test_bad_sentences_are_told_and_the_rest_is_read(tmp_path):
    path = put(tmp_path, "a.conll", "a\tO\nb\tB-X\n\na\tO\nb\tO\textra\n\na\tO\nb\tX\n\n\u200b\tO\n\tO\n\nc\tO\n")
    records, _ = read(path)
    assert [isinstance(record, Problem) for record in records] == [False, True, True, True, False]
    assert str(records[1]) == f"{path}:5: has 3 columns, and 2 are expected in 'b O extra'"
    assert "'X' is no tag" in records[2].reason
    assert records[3].reason == "has a word with nothing in it"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.conll", "-DOCSTART- O\n\n", "no line with a word and a tag"),
        ("a.conll", "one\ntwo\n", "have one column"),
        ("a.conll", "a M-X\nb U-X\n", "belong to no scheme"),
        ("a.conll", "a O\n" * 100_001, "no blank line in 100,000 lines"),
        ("seq.in", "a b\n", r"seq\.out: no such file"),
    ],
)
def test_files_that_cannot_be_read_say_why(name, text, says, tmp_path):
    with pytest.raises(DataError, match=says):
        read(put(tmp_path, name, text))


def test_other_files_are_left_to_others(tmp_path):
    assert read(put(tmp_path, "a.csv", "text,label\nI like it,pos\nnot at all,neg\n")) is None
    assert read(put(tmp_path, "a.tsv", "text\tlabel\n中 年\tO B-X\n男 性\tO O\n")) is None
    assert read(put(tmp_path, "a.jsonl", '{"text": "a O"}\n')) is None
    assert read([{"text": "a"}]) is None
    assert read(tmp_path / "missing.txt") is None


def test_comments_are_passed_over_and_a_hash_is_a_word(tmp_path):
    records, _ = read(put(tmp_path, "a.conll", "# id 53 domain=en\nEU _ _ B-ORG\n\n# _ _ O\n1 _ _ O\n"))
    assert [record["text"] for _, record in records] == ["EU", "# 1"]


def test_two_files_side_by_side(tmp_path):
    put(tmp_path, "seq.in", "play  some jazz\n\nstop \n")
    put(tmp_path, "seq.out", "O O B-genre\n\nO \n")
    for source in (tmp_path, tmp_path / "seq.in"):
        records, notes = read(source)
        assert [(line, named(record)) for line, record in records] == [(1, [("jazz", "genre")]), (3, [])]
        assert "read as bio" in notes[0]
    put(tmp_path, "seq.out", "O O\n\nO\n")
    assert read(tmp_path)[0][0].reason == "has 3 words and 2 tags"
    put(tmp_path, "seq.out", "O O\n")
    with pytest.raises(DataError, match=r"seq\.in has 3 lines and seq\.out 1"):
        read(tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("separator", ["\t", " "])
def test_what_is_written_reads_the_same(scheme, separator, tmp_path):
    rows = [
        {"text": "Ann Lee went to Bonn", "label": [[0, 7, "PER"], [16, 20, "LOC"]]},
        {"text": "张三去北京和Bonn开会", "label": [[0, 2, "PER"], [3, 5, "LOC"], [6, 10, "LOC"]]},
        {"text": "prefix2020 left", "label": [[6, 10, "DATE"]]},
        {"text": "B A C D E", "label": [[0, 5, "PER"], [6, 7, "PER"], [8, 9, "PER"]]},
        {"text": "nobody"},
    ]
    path = write(rows, tmp_path / "out.conll", scheme=scheme, separator=separator)
    records, notes = read(path)
    assert notes == [f"Tags are read as {scheme}."]
    assert [named(record) for _, record in records] == [named({"label": [], **row}) for row in rows]


def test_what_cannot_be_written_is_refused(tmp_path):
    row = {"text": "New York", "words": [[0, 8]]}
    with pytest.raises(OptionError, match="the word 'New York' cannot be written"):
        write([row], tmp_path / "a", separator=" ")
    with pytest.raises(OptionError, match="use a tab or a space"):
        write([row], tmp_path / "a", separator=",")
    write([row], tmp_path / "a.conll")
    assert read(tmp_path / "a.conll")[0][0][1]["words"] == [[0, 8]]


def test_read_gives_rows_with_their_words(tmp_path):
    path = put(tmp_path, "a.conll", CONLL)
    rows = tl.read(path, "tag")
    assert rows.task == "tag"
    assert rows[0] == {"text": "EU rejects German call", "words": [[0, 2], [3, 10], [11, 17], [18, 22]],
                       "label": [[0, 2, "ORG"], [11, 22, "MISC"]]}  # fmt: skip
    assert rows.notes == ("Tags are read as bio.",)
    assert "label" not in tl.read(path, "tag", labelled=False)[0]
    assert tl.read(path, "tag", label="2")[1]["label"] == [[0, 5, "NP"]]
    again = tl.read(list(rows), "tag")
    assert list(again) == list(rows)


def test_read_counts_bad_rows_and_puts_them_aside(tmp_path):
    path = put(
        tmp_path, "a.jsonl", '{"text": "Ann left", "label": [[0, 3, "PER"]]}\n{"text": "Bob", "label": [[0, 9, "PER"]]}\n{"text": "so"}\n'
    )
    with pytest.raises(DataError, match="'PER' from 0 to 9 does not lie inside"):
        tl.read(path, "tag")
    rows = tl.read(path, "tag", skip_bad=tmp_path / "bad.jsonl")
    assert [row["text"] for row in rows] == ["Ann left"]
    assert [problem.reason for problem in rows.problems][1] == "label is missing"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sentences", "bad", "entities"),
    [
        ("biomed_ner/BC5CDR-IOB/train.tsv", 4560, 0, 5203 + 4182),
        ("biomed_ner/NCBI-disease-IOB/test.tsv", 940, 0, 960),
        ("atis_snips/snips/dev", 700, 0, 1794),
        ("cluener/normalised/train.jsonl", 10747, 1, 23968),
        ("kbert_zh/datasets/medical_ner/train.tsv", 6919, 0, 23750),
    ],
)
def test_real_files_are_read_without_options(name, sentences, bad, entities):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    rows = tl.read(DATA / name, "tag")
    assert (len(rows), len(rows.problems)) == (sentences, bad)
    assert sum(len(row["label"]) for row in rows) == entities


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(alphabet="ab \t\n\r中BIOESX-_#\x00\x85\u2028\u200b\ufeff", min_size=1, max_size=60),
    name=st.sampled_from(["a.conll", "a.txt"]),
)
def test_whatever_stands_in_a_file_is_rows_or_reasons(text, name, tmp_path):
    try:
        found = read(put(tmp_path, name, text))
    except TrunklineError:
        return
    for record in found[0] if found else []:
        if not isinstance(record, Problem):
            row = record[1]
            assert all(row["text"][start:end].strip() for start, end in row["words"])
            assert all(0 <= start < end <= len(row["text"]) for start, end, _ in row["label"])
