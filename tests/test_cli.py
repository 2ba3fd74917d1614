"""The commands as a user types them, on a tiny model: what is printed where, the files, the exit codes, the one line of an error."""

import codecs
import csv
import inspect
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from trunkline import cli
from trunkline.commands import branches
from trunkline.model.standard import MODELS
from trunkline.train.tune import tune

WORDS = ["my", "card", "account", "order", "please", "help", "today", "waiting", "arrived", "damaged", "password", "again", "now"]
FAST = ("--epochs", "2", "--depth", "1", "--learning-rate", "0.001")


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """Runs a command line in this process, from the entry point to the exit code."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["trunkline", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Said(end.value.code, printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, before)


def messages(count: int = 60, seed: int = 0) -> list[tuple[str, str]]:
    """Texts that a tiny model can tell apart, each once."""
    chosen = random.Random(seed)
    keys = {"refund": "refund the money", "delivery": "package has arrived"}
    return [
        (f"{keys[label]} {' '.join(chosen.sample(WORDS, 4))} {n}", label) for n, label in enumerate(["refund", "delivery"] * (count // 2))
    ]


def write(path: Path, header: list[str], rows: list[tuple[str, ...]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(autouse=True)
def _cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def data(home: Path) -> Path:
    return write(home / "messages.csv", ["message", "team"], messages())


@pytest.fixture(scope="module")
def branch(home: Path, data: Path, tiny_folder: Callable[[str], Path]) -> Path:
    """A branch that a real process tuned, as a user would have it."""
    environment = {**os.environ, "TRUNKLINE_CACHE": str(home / "cache")}
    words = ["tune", data, "--text", "message", "--label", "team", "--model", tiny_folder("bert"), "--out", home / "runs" / "team", *FAST]
    command = [sys.executable, "-W", "error", "-c", "from trunkline.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "tuned branch" in done.stdout
    assert "TF-IDF" in done.stdout
    assert "trunkline predict" in done.stderr, "the next command to type"
    return home / "runs" / "team"


def test_tune_leaves_a_branch_and_nothing_else(branch: Path) -> None:
    assert {path.name for path in branch.iterdir()} == {"branch.json", "branch.safetensors", "manifest.json", "report.html", "report.json"}
    assert [path.name for path in branch.parent.iterdir()] == ["team"], "the checkpoints are gone"


def test_predict_texts(type_in, branch) -> None:
    said = type_in("predict", branch, "refund the money", "[/b] text that looks like markup [red]")
    assert said.code == 0
    assert "refund the money" in said.out
    assert "[/b] text that looks like markup [red]" in said.out
    assert "%" in said.out


def test_predict_json(type_in, branch) -> None:
    said = type_in("predict", branch, "退款", "refund", "--json")
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [row["text"] for row in found] == ["退款", "refund"]
    assert {row["answer"] for row in found} <= {"refund", "delivery"}
    assert all(0 <= row["probability"] <= 1 for row in found)


def test_predict_file_to_csv_escapes_formulas(type_in, branch, home) -> None:
    told = ['=HYPERLINK("http://x","y")', "+1 refund", "-1 refund", "@SUM(A1)", "plain, with a comma\nand a line"]
    asked = write(home / "asked.csv", ["message"], [(text,) for text in told])
    said = type_in("predict", branch, "--file", asked, "--separator", ",", "--out", "answers.csv")  # one column has no separator to find
    assert (said.code, said.out) == (0, ""), said.err
    assert "5 answers written to answers.csv" in said.err
    with (home / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [f"'{text}" for text in told[:4]] + told[4:]
    assert all(row["answer"] in ("refund", "delivery") for row in rows)


def test_predict_file_to_json_lines(type_in, branch, data, home) -> None:
    said = type_in("predict", branch, "--file", data, "--out", "answers.jsonl")
    assert said.code == 0
    rows = [json.loads(line) for line in (home / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [text for text, _ in messages()]


def test_batch_and_single_answers_are_equal(type_in, branch, data) -> None:
    many = [json.loads(line) for line in type_in("predict", branch, "--file", data, "--json").out.splitlines()]
    for row in many[:3]:
        one = json.loads(type_in("predict", branch, row["text"], "--json").out)
        assert one["answer"] == row["answer"]
        assert one["probability"] == pytest.approx(row["probability"], abs=1e-3)


def test_evaluate(type_in, branch, data) -> None:
    said = type_in("evaluate", branch, data, "--label", "team", "--text", "message")
    assert said.code == 0
    assert "Accuracy" in said.out
    found = json.loads(type_in("evaluate", branch, data, "--label", "team", "--text", "message", "--json").out)
    answers = [json.loads(line)["answer"] for line in type_in("predict", branch, "--file", data, "--json").out.splitlines()]
    right = sum(answer == label for answer, (_, label) in zip(answers, messages(), strict=True))
    assert found["results"][0]["metrics"]["accuracy"]["value"] == pytest.approx(right / 60)
    assert found["data"]["rows"] == {"test": 60}


def test_evaluate_says_when_the_rows_were_learned_from(type_in, branch, data, home) -> None:
    told = "is what this branch was tuned on"
    assert told in type_in("evaluate", branch, data, "--label", "team", "--text", "message").err
    other = write(home / "later.csv", ["message", "team"], [("refund it", "refund"), ("where is it", "delivery")])
    assert told not in type_in("evaluate", branch, other, "--label", "team", "--text", "message").err


def test_evaluate_refuses_a_label_that_training_did_not_have(type_in, branch, home) -> None:
    said = type_in("evaluate", branch, write(home / "new.csv", ["text", "label"], [("refund it", "refund"), ("who", "delivry")]))
    assert said.code == 1
    assert "'delivry'" in said.error
    assert "Did you mean 'delivery'?" in said.error


def test_tune_json_is_json_alone(type_in, data, tiny_folder) -> None:
    said = type_in("tune", data, "--label", "team", "--model", tiny_folder("bert"), "--json", "--seeds", "2", *FAST)
    report = json.loads(said.out)
    assert said.code == 0
    assert report["model"]["depth"] == 1
    assert [result["name"] for result in report["results"]] == ["majority", "tfidf", "untuned", "tuned"]
    assert len(report["seeds"]) == len(report["results"][-1]["seeds"]["accuracy"]) == 2
    assert report["settings"]["epochs"] == 2


def test_tune_numbers(type_in, home, tiny_folder) -> None:
    rows = [(text, str(len(text) / 7)) for text, _ in messages()]
    file = write(home / "numbers.csv", ["text", "score"], rows)
    said = type_in("tune", file, "--task", "regress:loss=huber", "--model", tiny_folder("bert"), "--out", "runs/numbers", *FAST)
    assert said.code == 0, said.err
    assert "Pearson" in said.out
    answer = json.loads(type_in("predict", "runs/numbers", "refund the money", "--json").out)
    assert isinstance(answer["answer"], float)


def test_options_from_a_file_and_flags_over_them(type_in, data, home, tiny_folder) -> None:
    (home / "options.yaml").write_text(
        f"task: classify:label_smoothing=0.2\nmodel: {tiny_folder('bert')}\nlabel: team\nepochs: 3\ndepth: 2\nbatch_size: 16\n"
        "clip: none\ndrop_leaks: true\n",
        encoding="utf-8",
    )
    report = json.loads(type_in("tune", data, "--config", "options.yaml", "--epochs", "1", "--depth", "0", "--json").out)
    assert (report["model"]["depth"], report["settings"]["epochs"], report["settings"]["batch_size"]) == (0, 1, 16)
    assert report["settings"]["clip"] is None
    assert report["settings"]["spec"]["label_smoothing"] == 0.2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("epoch: 3", "key='epoch': unknown. Did you mean 'epochs'?"),
        ("batch-size: 3", "key='batch-size': unknown. Did you mean 'batch_size'?"),
        ("epochs: many", "setting: epochs='many': use a value of type int or none."),
        ("label: 3", "options.yaml: label=3: use a value of type str or none."),
        ("epochs: 3\nepochs: 4", "options.yaml:2"),
        ("epochs: &a 3", "options.yaml:1"),
    ],
)
def test_a_bad_option_file_is_refused(type_in, data, home, line, expected) -> None:
    (home / "options.yaml").write_text(line + "\n", encoding="utf-8")
    said = type_in("tune", data, "--config", "options.yaml")
    assert said.code in (1, 2)
    assert expected in said.err


def test_no_header(type_in, home, tiny_folder) -> None:
    file = write(home / "bare.csv", [], messages())
    said = type_in("tune", file, "--no-header", "--text", "0", "--label", "1", "--model", tiny_folder("bert"), *FAST, "--json")
    assert said.code == 0, said.err
    assert sum(json.loads(said.out)["data"]["rows"].values()) == 60
    refused = type_in("tune", file, "--model", tiny_folder("bert"))
    assert refused.code == 1
    assert "--no-header" in refused.err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["tune", "messages.csv", "--label", "taem"], 2, "column='taem': unknown. Did you mean 'team'?"),
        (["tune", "mesages.csv"], 1, "no such file. Did you mean 'messages.csv'?"),
        (["tune", "messages.csv", "--task", "clasify"], 2, "Did you mean 'classify'?"),
        (["tune", "messages.csv", "--task", "classify:smoothing=1"], 2, "option='smoothing': unknown"),
        (["tune", "messages.csv", "--method", "lorra"], 2, "Did you mean 'lora'?"),
        (["tune", "messages.csv", "--method", "lora:rnak=3"], 2, "Did you mean 'rank'?"),
        (["tune", "messages.csv", "--model", "minlm"], 2, "Did you mean 'minilm'?"),
        (["tune", "messages.csv", "--model", "./nowhere"], 1, "nowhere"),
        (["tune", "messages.csv", "--depth", "two"], 2, "depth='two': use a number of layers, 'all' or 'auto'."),
        (["tune", "messages.csv", "--optimizer", "adamv"], 2, "Did you mean 'adam"),
        (["tune", "messages.csv", "--epochs", "0"], 2, "epochs=0: use 1 to"),
        (["tune", "messages.csv", "--batch-size", "1.5"], 2, "--batch-size='1.5': use a value of type int."),
        (["predict", "runs/nowhere", "hello"], 1, "runs/nowhere: does not exist"),
        (["predict", "runs/team"], 2, "give texts or --file"),
        (["predict", "runs/team", "hello", "--file", "messages.csv"], 2, "give texts or --file"),
        (["models", "get", "minlm"], 2, "Did you mean 'minilm'?"),
    ],
)
def test_an_error_of_ours_is_one_line(type_in, branch, words, code, expected) -> None:
    said = type_in(*words)
    assert said.code == code, said.err
    assert expected in said.error
    assert said.error.startswith("trunkline: ")
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tune", "messages.csv", "--lable", "team"], "--label"),
        (["tun", "messages.csv"], "tune"),
        (["tune"], "FILE"),
        (["demo", "--language", "fr"], "'en', 'zh'"),
    ],
)
def test_wrong_usage(type_in, data, words, expected) -> None:
    said = type_in(*words)
    assert said.code == 2
    assert expected in said.err
    assert said.out == ""


def test_depth_out_of_range_says_what_the_model_has(type_in, data, tiny_folder) -> None:
    said = type_in("tune", data, "--label", "team", "--model", tiny_folder("bert"), "--depth", "9")
    assert said.code == 2
    assert said.error == "trunkline: depth=9: this model has 3 layers. Use 0 to 3, or 'all'."


def test_answers_only_to_a_known_kind_of_file(type_in, branch) -> None:
    said = type_in("predict", branch, "refund", "--out", "answers.xlsx")
    assert said.code == 2
    assert ".csv or a .jsonl" in said.error


@pytest.mark.parametrize(
    ("name", "encoding", "accent"), [("bom.csv", "utf-8-sig", "café"), ("latin.csv", "latin-1", "café"), ("sixteen.csv", "utf-16", "退款")]
)
def test_from_a_stranger_s_file_to_an_answer(type_in, home, tiny_folder, name, encoding, accent) -> None:
    """Files as spreadsheets save them: no option says how they are encoded."""
    rows = [(f"{text} {accent}", label) for text, label in messages()]
    file = write(home / name, ["text", "label"], rows, encoding)
    assert file.read_bytes().startswith(codecs.BOM_UTF8) == (encoding == "utf-8-sig")
    out = home / "runs" / name
    said = type_in("tune", file, "--model", tiny_folder("bert"), "--out", out, *FAST)
    assert said.code == 0, said.err
    answered = type_in("predict", out, "--file", file, "--json")
    assert [json.loads(line)["text"] for line in answered.out.splitlines()] == [text for text, _ in rows]


def test_bad_rows_stop_or_go_into_a_file(type_in, home, tiny_folder) -> None:
    file = write(home / "holes.csv", ["text", "label"], [*messages(), ("", "refund"), ("refund", "")])
    words = ("tune", file, "--model", tiny_folder("bert"), "--json", *FAST)
    said = type_in(*words)
    assert said.code == 1
    assert "2 of 62 rows cannot be used" in said.err
    assert "--skip-bad" in said.err
    said = type_in(*words, "--skip-bad", "bad.jsonl")
    assert said.code == 0
    assert len((home / "bad.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert sum(json.loads(said.out)["data"]["rows"].values()) == 60


def test_files_for_validation_and_test(type_in, home, data, tiny_folder) -> None:
    validation = write(home / "validation.csv", ["message", "team"], messages(20, seed=1))
    test = write(home / "test.csv", ["message", "team"], messages(30, seed=2))
    words = ["tune", data, "--validation-file", validation, "--test-file", test, "--label", "team", "--model", tiny_folder("bert")]
    said = type_in(*words, "--json", *FAST)
    assert json.loads(said.out)["data"]["rows"] == {"test": 30, "train": 60, "validation": 20}


def test_a_file_that_is_given_where_a_share_belongs(type_in, home, data) -> None:
    said = type_in("tune", data, "--test", data)
    assert said.code != 0
    assert "a share of the rows" in said.err
    assert "--test-file" in said.err
    assert "type float" in type_in("tune", data, "--test", "nothing").err, "which is no file"


def test_what_is_noticed_while_tuning_is_said(type_in, home, tiny_folder) -> None:
    rows = write(
        home / "zh.csv",
        ["message", "team"],
        [(f"{text} {number}", text) for number in range(30) for text in ("快递还没有到", "我的卡丢了")],
    )
    said = type_in("tune", rows, "--text", "message", "--label", "team", "--model", tiny_folder("bert"), *FAST)
    assert said.code == 0, said.err
    assert said.err.count("of the tokens are none that") == 1


def test_leaks_stop_until_they_are_dropped(type_in, home, data, tiny_folder) -> None:
    test = write(home / "leak.csv", ["message", "team"], [*messages(30, seed=2), *messages()[:4]])
    words = ["tune", data, "--test-file", test, "--label", "team", "--model", tiny_folder("bert"), "--json", *FAST]
    said = type_in(*words)
    assert said.code == 1
    assert "texts that stand in" in said.err
    assert type_in(*words, "--drop-leaks").code == 0


def test_models(type_in) -> None:
    table = type_in("models")
    assert table.code == 0
    assert all(name in table.out for name in ("minilm", "e5-small", "smollm2", "t5-small"))
    found = json.loads(type_in("models", "--json").out)
    assert {"name", "licence", "source", "bytes_on_disk"} <= found[0].keys()


def test_help_shows_the_defaults_of_the_function() -> None:
    """`tune` the command writes two defaults of `tune` the function in its help, and the models that stand in for none: they are the same."""
    shown = {parameter.name: parameter.help for parameter in branches.tune.params if isinstance(parameter, click.Option)}
    defaults = inspect.signature(tune).parameters
    for name in ("method", "depth"):
        assert f"[default: {defaults[name].default}]" in shown[name]
    assert defaults["model"].default is None
    assert all(model in shown["model"] for model in MODELS.values())


def test_version_and_no_command(type_in) -> None:
    assert type_in("--version").out.startswith("trunkline")
    assert type_in().code == 2
    assert type_in("--help").code == 0


def test_prepare_shows_what_was_understood_and_the_next_command(type_in, data, tiny_folder) -> None:
    said = type_in("prepare", data, "--label", "team", "--model", tiny_folder("bert"), "--task", "classify:max_tokens=8")
    assert said.code == 0, said.err
    assert "60 rows for classify" in said.out
    assert "refund the money" in said.out
    assert "lose something at max_tokens=8" in said.out
    following = said.err.strip().splitlines()[-1].split()
    assert following[:3] == ["trunkline", "tune", str(data)]
    assert following[-2:] == ["--out", "runs/messages"]
    assert "note:" not in said.err, "the notes are part of what is shown"
    assert branches.tune.make_context("tune", following[2:]).params["task"] == "classify:max_tokens=8"


def test_prepare_json_and_a_split_that_is_told(type_in, data, home) -> None:
    test = write(home / "other.csv", ["message", "team"], [*messages(30, seed=2), *messages()[:4]])
    said = type_in("prepare", data, "--json", "--label", "team", "--validation", "0.3", "--seed", "3", "--test-file", test)
    found = json.loads(said.out)
    assert found["columns"] == {"text": "message", "label": "team"}
    assert found["split"]["rows"]["test"] == 34
    assert found["split"]["rows"]["validation"] > 10
    assert found["remedies"] == ["--drop-leaks"]
    assert said.err.strip().endswith("--drop-leaks --out runs/messages")
    assert "--json" not in said.err
