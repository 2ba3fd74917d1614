"""The examples of data work run, on a tiny model."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("example", "told"), [("check", "Write to me at [mail], my card is [card]"), ("label", "more labels buy about")])
def test_examples_run(
    example: str, told: str, cache: Path, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len((ROOT / f"examples/{example}.py").read_text("utf-8").splitlines()) < 60
    main = runpy.run_path(str(ROOT / f"examples/{example}.py"))["main"]
    main(str(tiny_folder("bert"))) if example == "label" else main()
    assert told in capsys.readouterr().out
