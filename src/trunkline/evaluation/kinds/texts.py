"""Answers that are whole texts: BLEU, chrF, ROUGE, exact match, and the number that a worked answer ends in.

truth: N lists of reference texts (one or more each); scores: N texts. Values are shares: a BLEU of 0.31 is what others print as 31.

bleu, chrf       corpus scores. sacrebleu counts each row (n-grams found, there, right), a resample sums the counts, and sacrebleu makes the
                 score of the sums. BLEU splits words by "13a", or by "zh" where over a fifth of the references' letters are Chinese;
                 everything else is sacrebleu's default (case kept, exponential smoothing). chrF is chrF2: characters up to six, beta 2.
rouge1, rouge2,  the mean over rows of rouge-score's F, no stemming, the best of a row's references. That package's own tokens know the
rouge_l          letters a to z and nothing else, and give 0 for a Chinese text without a word. So a row in which any letter is not a Latin
                 one is split here: each Chinese or Japanese character, and each other word. All other rows keep the package's tokens.
exact_match_text white space, case and width of characters do not count (`cells.fold`)
number_match     the number an answer ends in (`final_number`) equals that of a reference, as GSM8K is judged

Source: Papineni et al. 2002; Popović 2015; Post 2018 (sacrebleu); Lin 2004; Cobbe et al. 2021 for the mark "####".
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from trunkline.data.cells import fold
from trunkline.errors import MissingExtra, OptionError
from trunkline.evaluation.metric import Metric, Weighted, mean_of
from trunkline.types import Row

Truth = Sequence[Sequence[str]]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and every block of Chinese characters
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_NOT_LATIN = re.compile(r"[^\W\d_A-Za-zªºÀ-ɏḀ-ỿ]")
_NUMBER = re.compile(r"(?<![A-Za-z0-9.)\]])[-−]?\$?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?")
_ANSWER = "####"


def final_number(text: str) -> Decimal | None:
    """The last number behind the last "####", or else the last one in the text; None where there is none.

    Thousands may be parted by commas; a minus counts as a sign only where it cannot mean "less"; of a fraction it sees the last number.

    >>> final_number("16 - 3 = 13 eggs. #### 1,300.50"), final_number("so it is -4, or 5-9"), final_number("共花了１８元。"), final_number("none")
    (Decimal('1300.50'), Decimal('9'), Decimal('18'), None)
    """
    text = unicodedata.normalize("NFKC", text)
    _, mark, behind = text.rpartition(_ANSWER)
    for part in (behind, text) if mark else (text,):
        found = _NUMBER.findall(part)
        if found:
            return Decimal(re.sub("[,$]", "", found[-1]).replace("−", "-"))
    return None


def tokens(text: str) -> list[str]:
    """Lower-case words, and each Chinese or Japanese character by itself; marks are left out. Of ASCII text the same as rouge-score's.

    >>> tokens("GDP增长5.2%，Über-all")
    ['gdp', '增', '长', '5', '2', 'über', 'all']
    """
    return _TOKEN.findall(text.lower())


def errors(rows: Sequence[Row], truth: Truth, scores: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The rows whose answers share the fewest words with any reference, for `Report.errors`: text, label, predicted, error (1 - F1 of words)."""
    far = np.array([1 - max((_shared(right, said) for right in references), default=0.0) for references, said in zip(truth, scores)])
    worst = [int(at) for at in np.argsort(-far, kind="stable")[:count] if fold(scores[at]) not in map(fold, truth[at])]
    return [
        {"text": rows[at]["text"], "label": " | ".join(dict.fromkeys(truth[at])), "predicted": scores[at], "error": float(far[at])}
        for at in worst
    ]


def usable(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of the metrics that can be worked out here, and a sentence for each package that the others need: to be asked before the work.

    >>> usable(["exact_match_text", "number_match"])
    (['exact_match_text', 'number_match'], [])
    """
    names = list(names)
    lacking = {name: _PACKAGES[name] for name in names if name in _PACKAGES and not importlib.util.find_spec(_PACKAGES[name][0])}
    said = [str(MissingExtra(package, "text", purpose)) for _, package, purpose in dict.fromkeys(lacking.values())]
    return [name for name in names if name not in lacking], said


def _bleu(truth: Truth, scores: Sequence[str]) -> Weighted:
    tokenizer = "zh" if _is_chinese(text for references in truth for text in references) else "13a"
    return _summed(_sacrebleu().BLEU(tokenize=tokenizer, force=True), truth, scores)  # force: no advice about tokenised text


def _is_chinese(texts: Iterable[str]) -> bool:
    counts = [(len(_CHINESE.findall(text)), len(_LETTER.findall(text))) for text in texts]
    return sum(chinese for chinese, _ in counts) > 0.2 * sum(letters for _, letters in counts)


def _chrf(truth: Truth, scores: Sequence[str]) -> Weighted:
    return _summed(_sacrebleu().CHRF(), truth, scores)


def _summed(metric: Any, truth: Truth, scores: Sequence[str]) -> Weighted:
    """The score of the rows' summed statistics. The three methods used are those that sacrebleu's own bootstrap is made of."""
    rows = np.asarray(_statistics(metric, truth, scores), dtype=np.float64)  # (N, counts)

    def value(weights: np.ndarray) -> np.ndarray:
        sums = (rows.T @ weights).T.tolist()
        return np.array([metric._compute_score_from_stats(one).score for one in sums]) / 100

    return value


def _statistics(metric: Any, truth: Truth, scores: Sequence[str]) -> list[list[int]]:
    lacking = next((at for at, references in enumerate(truth) if not references), None)
    if lacking is not None:
        raise OptionError(f"row {lacking + 1} has no reference text to compare with. Give one or more for every row.")
    most = max(map(len, truth))
    streams = [[references[at] if at < len(references) else None for references in truth] for at in range(most)]
    found: list[list[int]] = metric._extract_corpus_statistics(list(scores), streams)
    return found


def _shared(right: str, said: str) -> float:
    """F1 of the two bags of words: needs no package, for a report is made whatever is installed."""
    one, other = Counter(tokens(right)), Counter(tokens(said))
    return 2 * sum((one & other).values()) / max(1, sum(one.values()) + sum(other.values()))


def _rouge(kind: str) -> Callable[[Any, Any], Weighted]:
    """Row means of rouge-score's F of one kind ("rouge1", "rouge2", "rougeL")."""

    def rows(truth: Truth, scores: Sequence[str]) -> np.ndarray:
        module = _package("rouge1")
        latin, other = module.RougeScorer([kind]), module.RougeScorer([kind], tokenizer=_Tokens())
        found = []
        for references, said in zip(truth, scores, strict=True):
            scorer = other if any(map(_NOT_LATIN.search, (*references, said))) else latin
            found.append(max((scorer.score(right, said)[kind].fmeasure for right in references), default=0.0))
        return np.array(found)

    return mean_of(rows)


class _Tokens:
    """`tokens` in the form that rouge-score asks for."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


def _any_reference(same: Callable[[str], Any]) -> Callable[[Any, Any], Weighted]:
    """The share of rows whose answer is the same as a reference, after `same`; an answer of which it leaves nothing (None) is wrong."""

    def rows(truth: Truth, scores: Sequence[str]) -> np.ndarray:
        said = [same(text) for text in scores]
        return np.array([one is not None and one in _each(same, references) for one, references in zip(said, truth, strict=True)])

    return mean_of(rows)


def _each(same: Callable[[str], Any], references: Iterable[str]) -> list[Any]:
    return [same(reference) for reference in references]


def _sacrebleu() -> Any:
    return _package("bleu")


def _package(metric: str) -> Any:
    """The module of a package that only these metrics need, loaded when one of them is asked for."""
    module, package, purpose = _PACKAGES[metric]
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(package, "text", purpose)
    if package == "sacrebleu":
        import sacrebleu.metrics

        return sacrebleu.metrics
    import rouge_score.rouge_scorer

    return rouge_score.rouge_scorer


_PACKAGES = dict.fromkeys(("bleu", "chrf"), ("sacrebleu", "sacrebleu", "BLEU and chrF"))
_PACKAGES |= dict.fromkeys(("rouge1", "rouge2", "rouge_l"), ("rouge_score", "rouge-score", "ROUGE"))
"""The module, its package, and what it is for."""

METRICS = (
    Metric("bleu", "BLEU", _bleu, ("texts",), percent=True),
    Metric("chrf", "chrF", _chrf, ("texts",), percent=True),
    Metric("rouge1", "ROUGE-1", _rouge("rouge1"), ("texts",), percent=True),
    Metric("rouge2", "ROUGE-2", _rouge("rouge2"), ("texts",), percent=True),
    Metric("rouge_l", "ROUGE-L", _rouge("rougeL"), ("texts",), percent=True),
    Metric("exact_match_text", "Exact match", _any_reference(fold), ("texts",), percent=True),
    Metric("number_match", "Right number", _any_reference(final_number), ("texts",), percent=True),
)
