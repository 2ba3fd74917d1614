"""BLEU, chrF and ROUGE against sacrebleu and rouge-score on random texts, English, Chinese and mixed; and the rest by hand."""

import sys
from decimal import Decimal

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from trunkline.errors import MissingExtra, OptionError
from trunkline.evaluation.kinds import texts
from trunkline.evaluation.metrics import METRICS, compute

CASES = 120
ENGLISH = "the cat sat on a mat , and then it didn't go home (5.2%) . Why ? we'll see -- e.g. U.S. dogs über café 3,000".split()  # noqa: SIM905
CHINESE = [*"的一是不了我有在人这他来个们上到说国和地也子时道出而要于就下得可你年生自会那，。！５.2%", "GDP", "AI", " ", "iPhone"]
BY_NAME = {metric.name: metric for metric in texts.METRICS}


def sentence(generator, words, glue, most=25):
    return glue.join(generator.choice(words, int(generator.integers(0, most))).tolist())


def near(generator, text, words, glue):
    """The text with some of its words replaced or dropped, so that longer runs are shared too."""
    parts = text.split(glue) if glue else list(text)
    kept = [str(generator.choice(words)) if generator.random() < 0.2 else part for part in parts if generator.random() < 0.9]
    return glue.join(kept)


def cases(words, glue, seed):
    """Small corpora: 1 to 12 rows, 1 to 3 references each (of differing number), some answers empty."""
    generator = np.random.default_rng(seed)
    for _ in range(CASES):
        rows = int(generator.integers(1, 13))
        truth = [[sentence(generator, words, glue) for _ in range(generator.integers(1, 4))] for _ in range(rows)]
        scores = [near(generator, references[0], words, glue) for references in truth]
        yield truth, scores


BOTH = pytest.mark.parametrize(("words", "glue", "tokenizer"), [(ENGLISH, " ", "13a"), (CHINESE, "", "zh")], ids=["english", "chinese"])


@BOTH
def test_bleu_and_chrf_are_sacrebleu(words, glue, tokenizer) -> None:
    compared = 0
    for truth, scores in cases(words, glue, 1):
        if tokenizer == "zh" and not texts._is_chinese(text for references in truth for text in references):
            continue  # by chance a corpus of marks and English names
        streams = [[references[at] if at < len(references) else None for references in truth] for at in range(3)]
        found = compute(["bleu", "chrf"], truth, scores)
        assert found["bleu"] == pytest.approx(BLEU(tokenize=tokenizer, force=True).corpus_score(scores, streams).score / 100, abs=1e-9)
        assert found["chrf"] == pytest.approx(CHRF().corpus_score(scores, streams).score / 100, abs=1e-9)
        compared += 1
    assert compared > 100


@BOTH
def test_a_resample_is_the_score_of_the_rows_drawn(words, glue, tokenizer) -> None:
    generator = np.random.default_rng(2)
    truth, scores = next((t, s) for t, s in cases(words, glue, 3) if len(s) > 8)
    drawn = generator.integers(0, len(scores), (20, len(scores)))
    weights = np.stack([np.bincount(one, minlength=len(scores)) for one in drawn], axis=1).astype(float)
    for name, metric in BY_NAME.items():
        values = metric.weighted(truth, scores)(weights)
        for value, rows in zip(values, drawn):
            if name != "bleu" or tokenizer == "13a" or texts._is_chinese(text for at in rows for text in truth[at]):
                assert value == pytest.approx(metric.function([truth[at] for at in rows], [scores[at] for at in rows]), abs=1e-9)


@BOTH
def test_rouge_is_rouge_score(words, glue, tokenizer) -> None:
    names = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}
    latin, other = rouge_scorer.RougeScorer(names.values()), rouge_scorer.RougeScorer(names.values(), tokenizer=texts._Tokens())
    for truth, scores in cases(words, glue, 4):
        found = compute(names, truth, scores)
        for ours, theirs in names.items():
            values = [
                (other if any(texts._NOT_LATIN.search(text) for text in (*references, said)) else latin)
                .score_multi(references, said)[theirs]
                .fmeasure
                for references, said in zip(truth, scores)
            ]
            assert found[ours] == pytest.approx(np.mean(values), abs=1e-9)


def test_chinese_is_not_lost() -> None:
    assert rouge_scorer.RougeScorer(["rouge1"]).score("我喜欢猫", "我喜欢猫")["rouge1"].fmeasure == 0  # the trap
    assert compute(["rouge1", "rouge2", "rouge_l"], [["我喜欢猫"]], ["我喜欢狗"]) == pytest.approx(
        {"rouge1": 0.75, "rouge2": 2 / 3, "rouge_l": 0.75}
    )
    assert compute(["rouge1"], [["Привет, мир"]], ["привет мир"]) == {"rouge1": 1.0}
    assert compute(["bleu"], [["今天的天气非常好，我们去公园。"]], ["今天的天气非常好，我们去公园。"])["bleu"] == pytest.approx(1.0)
    assert (
        compute(["bleu"], [["今天的天气非常好，我们去公园。"]], ["今天的天气非常好，他们去学校。"])["bleu"] > 0.5
    )  # 13a sees one wrong word


@pytest.mark.parametrize("text", ["The cat's 3 mats_here, it's 5.2%.", "", "a-b C++ x_y", "ISBN 978-3-16"])
def test_tokens_of_ascii_are_those_of_rouge_score(text) -> None:
    assert texts.tokens(text) == rouge_scorer.tokenizers.DefaultTokenizer().tokenize(text)


def test_exact_match_folds_space_case_and_width() -> None:
    truth = [["Yes, it is"], ["北京", "北京市"], ["no"], ["a"]]
    assert compute(["exact_match_text"], truth, ["  yes,  IT is\n", "北京市", "No.", ""]) == {"exact_match_text": 0.5}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She pays 5 + 6 = <<5+6=11>>11.\n#### 11", "11"),
        ("#### 1,234", "1234"),
        ("#### -$7.50", "-7.50"),
        ("The first is 3. #### 4 #### 5 apples", "5"),
        ("It is 12, #### so there", "12"),
        ("10-3", "3"),
        ("(2)-3", "3"),
        ("minus: -3", "-3"),
        ("共 １，２００ 元", "1200"),
        ("温度是−4度", "-4"),
        ("9" * 60, "9" * 60),
    ],
)
def test_final_number(text, number) -> None:
    assert texts.final_number(text) == Decimal(number)


def test_number_match() -> None:
    truth = [["a #### 18"], ["#### 5"], ["#### 3"], ["no number"]]
    assert compute(["number_match"], truth, ["the answer is 18.00", "5 or 6", "none", "none"]) == {"number_match": 0.25}


def test_errors_are_the_worst_first_and_none_that_is_right() -> None:
    rows = [{"text": f"question {at}"} for at in range(4)]
    truth = [["the red cat"], ["the red cat"], ["yes"], ["猫在这里"]]
    found = texts.errors(rows, truth, ["a red cat", "dogs", "YES", "猫在那里"], 3)
    assert [one["text"] for one in found] == ["question 1", "question 0", "question 3"]
    assert found[0] == {"text": "question 1", "label": "the red cat", "predicted": "dogs", "error": 1.0}
    assert found[2]["error"] == pytest.approx(0.25)


def test_a_row_without_reference_is_refused() -> None:
    for name in ("bleu", "chrf"):
        with pytest.raises(OptionError, match="row 2 has no reference"):
            compute([name], [["a"], []], ["a", "b"])


@pytest.mark.parametrize(("metric", "package"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge_l", "rouge-score")])
def test_a_missing_package_says_how_to_get_it(monkeypatch, metric, package) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"'{package}'.*pip install 'trunkline\[text\]'"):
        compute([metric], [["a"]], ["a"])
    can, said = texts.usable([metric, "number_match"])
    assert can == ["number_match"]
    assert len(said) == 1
    assert f"'{package}'" in said[0]
    assert compute(["exact_match_text", "number_match"], [["1"]], ["1"]) == {"exact_match_text": 1.0, "number_match": 1.0}
    assert texts.errors([{"text": "q"}], [["a"]], ["b"], 1)


def test_every_metric_is_in_the_table() -> None:
    assert all(METRICS[metric.name] is metric for metric in texts.METRICS)
    assert all(metric.percent and metric.kinds == ("texts",) for metric in texts.METRICS)
    assert "sacrebleu" in sys.modules  # the tests above ran them
