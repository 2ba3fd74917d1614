"""The command, the example and the document of prompting."""

import json
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from tests.model.writing.test_language import saved
from tests.train.samples import make_rows, write_csv
from trunkline import cli
from trunkline.errors import OptionError
from trunkline.prompting.settings import CALIBRATIONS, PICKS, PromptSettings

ROOT = Path(__file__).parents[2]
TEMPLATE = 'version: 1\nform: "{text} about {label}"\nlabels: {refund: refund, package: package, password: password}\n'


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=64)


def run(*words: object) -> None:
    cli.commands.main([str(word) for word in words], standalone_mode=False)


def test_command(llama: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, template, page = write_csv(tmp_path / "rows.csv", make_rows()), tmp_path / "t.yaml", tmp_path / "report.html"
    template.write_text(TEMPLATE, encoding="utf-8")
    run("prompt", file, "--model", llama, "--template", template, "--shots", "0,1", "--pick", "random", "--calibrate", "none,pmi",
        "--validation", "0.2", "--baseline-rows", "0", "--threads", "1", "--out", page, "--json")  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert len(report["settings"]["search"]) == 4
    assert report["settings"]["baseline_rows"] == 0
    assert report["settings"]["template"]["form"] == "{text} about {label}"
    assert [one["name"] for one in report["results"]] == ["prompted"]
    assert "prompted model" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "message"), [(("--shots", "few"), "--shots='few'"), (("--by", "magic"), "by='magic'")])
def test_wrong_words(words: tuple[str, str], message: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        run("prompt", write_csv(tmp_path / "rows.csv", make_rows()), "--model", llama, *words)


def test_example(llama: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "examples" / "prompt.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) < 60
    main = runpy.run_path(str(source))["main"]
    main(str(write_csv(tmp_path / "rows.csv", make_rows())), str(llama), settings=PromptSettings(threads=1, baseline_rows=0))
    assert "prompted model" in capsys.readouterr().out


def test_document_has_every_option() -> None:
    text = (ROOT / "docs" / "prompting.md").read_text(encoding="utf-8")
    for field in fields(PromptSettings):
        default = "none" if field.default is None else "off" if field.default is False else f"`{field.default}`"
        assert f"| `--{field.name.replace('_', '-')}` | {default} | {field.metadata['help']} |" in text
    assert not [name for name in (*PICKS, *CALIBRATIONS) if f"`{name}`" not in text]
