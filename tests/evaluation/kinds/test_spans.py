"""Exact match and F1 of answers in a passage, against the published definitions written out again, and by hand."""

import random
import re
import string

import numpy as np
import pytest

from trunkline.evaluation.kinds import spans

F1, EXACT = spans.METRICS


# The definitions once more, step by step as the papers and scripts give them: SQuAD 2.0 (Rajpurkar et al. 2018), CMRC 2018 (Cui et al. 2019).
def squad_words(text):
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split() if word]


def squad(truth, said):
    """Exact match and F1, the best over the right answers."""
    rights = [squad_words(right) for right in truth]
    rights = [words for words in rights if words] or [[]]
    answer = squad_words(said)
    exact, best = 0, 0.0
    for right in rights:
        exact = max(exact, int(right == answer))
        if not right or not answer:
            best = max(best, float(right == answer))
            continue
        left, same = list(right), 0
        for word in answer:
            if word in left:
                left.remove(word)
                same += 1
        if same:
            precision, recall = same / len(answer), same / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


MARKS = "- : _ * ^ / \\ ~ ` + = ， 。 ： ？ ！ “ ” ； ’ 《 》 · 、 「 」 （ ） － ～ 『 』".split()  # noqa: SIM905


def cmrc_tokens(text):
    tokens, word = [], ""
    for char in text.lower().strip():
        if char in MARKS:
            continue
        if "\u4e00" <= char <= "\u9fa5":
            tokens += [*word.split(), char]
            word = ""
        else:
            word += char
    return tokens + word.split()


def cmrc(truth, said):
    def bare(text):
        return "".join(char for char in text.lower().strip() if char not in MARKS)

    answer, best = cmrc_tokens(said), 0.0
    for right in map(cmrc_tokens, truth):
        runs = [
            size
            for start in range(len(right))
            for size in range(1, len(right) - start + 1)
            if any(answer[at : at + size] == right[start : start + size] for at in range(len(answer)))
        ]
        if runs:
            precision, recall = max(runs) / len(answer), max(runs) / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return int(any(bare(right) == bare(said) for right in truth)), best


ENGLISH = ["the", "a", "An", "Eiffel", "tower,", "in", "1889", "U.S.", "don't", "co-op", "the.", "!", "tower", "Paris", "in", "résumé"]
CHINESE = ["北", "京", "市", "，", "2008", "年", "奥", "运", " NBA ", "会", "《", "》", "-", " the ", "8", "市", "。"]


def draw(generator, words, most):
    return ("" if words is CHINESE else " ").join(generator.choices(words, k=generator.randrange(most + 1)))


@pytest.mark.parametrize(("words", "reference", "cases"), [(ENGLISH, squad, 2000), (CHINESE, cmrc, 2000)], ids=["squad", "cmrc"])
def test_as_the_published_scripts(words, reference, cases):
    generator, seen = random.Random(0), set()
    for _ in range(cases):
        truth = [draw(generator, words, 6) for _ in range(generator.randrange(4))]
        said = draw(generator, words, 6)
        if words is CHINESE and not re.search("[\u4e00-\u9fa5]", "".join(truth)):
            continue  # English rules then
        wanted = reference(truth, said)
        assert spans.exact(truth, said) == pytest.approx(wanted[0], abs=1e-9), (truth, said)
        assert spans.f1(truth, said) == pytest.approx(wanted[1], abs=1e-9), (truth, said)
        seen.add(wanted)
    assert len(seen) > 15, "the cases differ"


@pytest.mark.parametrize(
    ("truth", "said", "exact", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos!", 1, 1),
        (["Denver Broncos", "Broncos"], "broncos", 1, 1),
        (["a b c d"], "b c x", 0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),  # "a" is an article
        ([], "", 1, 1),
        ([], "Paris", 0, 0),
        ([], "the", 1, 1),  # nothing is left of it
        (["Paris"], "", 0, 0),
        (["the", "Paris"], "", 0, 0),  # a right answer of which nothing is left does not count beside others
        (["the"], "", 1, 1),
        (["埃菲尔铁塔"], "铁塔", 0, 4 / 7),
        (["埃菲尔铁塔"], "《埃菲尔·铁塔》", 1, 1),
        (["埃菲尔铁塔"], "塔铁", 0, 2 / 7),  # a run, not a subsequence
        (["NBA联赛"], "NBA", 0, 2 / 4),
        (["NBA"], "NBA联赛", 0, 2 / 4),  # Chinese rules, for what was said is Chinese
        (["1,024 元"], "1,024元", 0, 1),  # the script compares letters for the exact match, tokens for F1
        ([], "北京", 0, 0),
    ],
)
def test_by_hand(truth, said, exact, f1):
    assert spans.exact(truth, said) == exact
    assert spans.f1(truth, said) == pytest.approx(f1, abs=1e-12)


def test_a_metric_is_the_mean_of_rows_by_weight():
    truth, said = [["Paris"], ["in the year 1889"], []], ["Paris", "1889", "no"]
    assert F1.function(truth, said) == pytest.approx((1 + 0.5 + 0) / 3)
    assert EXACT.function(truth, said) == pytest.approx(1 / 3)
    weights = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 1.0]])
    assert F1.weighted(truth, said)(weights) == pytest.approx([0.5, 1 / 3])


def test_errors_are_the_worst_first():
    rows = [{"text": name, "text_b": "passage"} for name in ("right", "half", "none", "wrong")]
    found = spans.errors(rows, [["Paris"], ["in the year 1889", "1889 AD"], [], ["Paris", "Paris"]], ["paris", "1889", "Rome", ""], 9)
    assert [error["text"] for error in found] == ["none", "wrong", "half"]
    assert found[0] == {"text": "none", "text_b": "passage", "label": spans.NONE, "predicted": "Rome"}
    assert found[1]["label"] == "Paris"
    assert found[1]["predicted"] == spans.NONE
    assert found[2]["label"] == "in the year 1889 | 1889 AD"
    assert len(spans.errors(rows, [["x"]] * 4, [""] * 4, 2)) == 2
