"""Bars D10 and D11 for option files: what is refused, how fast, and where it says the trouble is."""

import math
import time

import pytest

from trunkline.data.options import read_options
from trunkline.errors import DataError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi"))
REFUSED = [
    ("bomb.yaml", BOMB, ":1: the anchor"),
    ("alias.yaml", "a: 1\nb: *a\n", ":2: the anchor or alias"),
    ("anchor.yaml", "a: 1\nb: &x 2\n", ":2: the anchor or alias"),
    ("merge.yaml", "base: &b {x: 1}\nc:\n  <<: *b\n", ":1: the anchor"),
    ("tag.yaml", "a: 1\nb: !!python/object/apply:os.system ['true']\n", ":2: a tag"),
    ("own_tag.yaml", "a: !x 1\n", ":1: a tag"),
    ("twice.yaml", "depth: 1\nseed: 2\ndepth: 3\n", ":3: the key 'depth' stands there twice"),
    ("twice_deep.yaml", "a:\n  b: 1\n  b: 2\n", ":3: the key 'b'"),
    ("number_key.yaml", "1: a\n", ":1: the key 1 is not a string"),
    ("list.yaml", "- a\n- b\n", "holds a list"),
    ("text.yaml", "hello\n", "holds a str"),
    ("nan.yaml", "a: 1\nb: .nan\n", ":2: '.nan'"),
    ("inf.yaml", "a: 1e999\n", ":1: '1e999'"),
    ("open.yaml", "a: [1,\nb: 2\n", ".yaml:"),
    ("tab.yaml", "a:\n\tb: 1\n", ":2: is not YAML"),
    ("two.yaml", "a: 1\n---\nb: 2\n", "second document"),
    ("deep.yaml", "a: " + "[" * 60 + "]" * 60, "nested deeper than 50"),
    ("very_deep.yaml", "a: " + "[" * 100_000, "nested deeper than 50"),
    ("many.yaml", "".join(f"k{n}: 1\n" for n in range(6_000)), "over 10,000 values"),
    ("long_integer.yaml", "a: " + "9" * 100_000, ":1: a number of 100,000"),
    ("nul.yaml", "a: \x00b\n", "is not YAML"),
    ("large.yaml", "#" * ((1 << 20) + 1), "over 1,048,576 bytes"),
    ("latin.yaml", b"a: caf\xe9\n", "byte 6 is not UTF-8"),
    ("twice.json", '{"depth": 1,\n "depth": 2}', ":2: duplicate key 'depth'"),
    ("nan.json", '{"a": 1,\n "b": NaN}', ":2: NaN is not JSON"),
    ("infinity.json", '{"a": -Infinity}', ":1: -Infinity is not JSON"),
    ("large_number.json", '{"a": 1e999}', "too large"),
    ("deep.json", '{"a": ' + "[" * 60 + "]" * 60 + "}", "nested deeper than 50"),
    ("very_deep.json", "[" * 100_000, "nested deeper"),
    ("many.json", '{"a": [' + "1," * 10_000 + "1]}", "over 10,000 values"),
    ("long_integer.json", '{"a": ' + "9" * 100_000 + "}", "digits"),
    ("broken.json", '{"a": 1,\n\n "b" 2}', ":3: is not JSON"),
    ("list.json", "[1, 2]", "holds a list"),
    ("options.toml", "a = 1\n", "Option files end in"),
]


@pytest.mark.parametrize(("name", "text", "expected"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_refused_with_the_place_and_soon(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        read_options(path)
    assert time.process_time() - start < 0.1
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


def test_what_options_may_be(tmp_path):
    path = tmp_path / "tune.yaml"
    path.write_text(
        "# tuning\nmodel: e5-small\nlr: 1e-3\nepochs: 5\nkeep: true\nnone: null\nday: 2026-01-31\ntext: 文本\nlabels: [a, 'b']\nin: {x: 1.5}\n"
    )
    expected = {"model": "e5-small", "lr": 0.001, "epochs": 5, "keep": True, "none": None, "day": "2026-01-31"}
    assert read_options(path) == {**expected, "text": "文本", "labels": ["a", "b"], "in": {"x": 1.5}}


def test_yaml_and_json_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text('{"lr": 5e-05, "depth": 2, "name": "x", "list": [1, null, true]}')
    (tmp_path / "a.json").write_text('{"lr": 5e-05, "depth": 2, "name": "x", "list": [1, null, true]}')
    assert read_options(tmp_path / "a.yaml") == read_options(tmp_path / "a.json")
    assert math.isclose(read_options(tmp_path / "a.yaml")["lr"], 5e-5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_no_options(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    assert read_options(tmp_path / "a.yaml") == {}


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_options(tmp_path / "a.yaml")
