"""How numbers are written for people, and the report's words in English and Chinese. Between report.py and page.py.

English is the key: `Words("zh")("Cost")` gives the Chinese. A test holds that every phrase of the page is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.errors import unknown
from trunkline.evaluation.metrics import METRICS

LANGUAGES = ("en", "zh")

CHINESE = {
    "Accuracy": "准确率",
    "Data type of the states": "状态的数据类型",
    "After": "之后",
    "All metrics": "全部指标",
    "All labels": "全部标签",
    "BLEU": "BLEU",
    "chrF": "chrF",
    "ROUGE-1": "ROUGE-1",
    "ROUGE-2": "ROUGE-2",
    "ROUGE-L": "ROUGE-L",
    "Right number": "数值正确率",
    "Backbone": "骨干模型",
    "Before": "之前",
    "Before and after": "前后对比",
    "Calibration": "校准",
    "Calibration error (ECE)": "校准误差（ECE）",
    "Confusion matrix": "混淆矩阵",
    "Cost": "成本",
    "Count": "行数",
    "Data": "数据",
    "Depth": "深度（调优的上层数）",
    "Entity F1": "实体 F1",
    "Entity macro F1": "实体宏平均 F1",
    "Entity precision": "实体精确率",
    "Entity recall": "实体召回率",
    "Error": "误差",
    "Exact match": "完全匹配率",
    "F1": "F1",
    "F1 by row": "逐行 F1",
    "Fingerprint": "指纹",
    "How often": "占比",
    "Identity": "标识",
    "Label": "标签",
    "Labels": "标签",
    "Largest errors": "误差最大的样本",
    "Layers": "层数",
    "Learning curve": "学习曲线",
    "Learning rate": "学习率",
    "MAE": "平均绝对误差（MAE）",
    "MCC": "马修斯相关系数（MCC）",
    "MSE": "均方误差（MSE）",
    "Machine": "机器",
    "Macro F1": "宏平均 F1",
    "Macro precision": "宏平均精确率",
    "Macro recall": "宏平均召回率",
    "Method": "方法",
    "Metric": "指标",
    "Micro F1": "微平均 F1",
    "Micro precision": "微平均精确率",
    "Micro recall": "微平均召回率",
    "Model": "模型",
    "Most confident errors": "最自信的错误",
    "Wrong answers": "错误回答",
    "Written answers": "生成的回答",
    "Test rows drawn at random, the same for both.": "随机抽取的测试行，两者相同。",
    "Look at some before you trust the figures: the truth may be what is wrong.": "请先看几条再相信数字：错的可能是标注。",
    "Most confused pairs": "最易混淆的标签对",
    "Noticed in the data": "数据检查发现",
    "Options": "选项",
    "Parameters": "参数",
    "Pearson": "皮尔逊相关系数",
    "Peak memory": "内存峰值",
    "Per label": "各标签结果",
    "Precision": "精确率",
    "Predicted": "预测",
    "Predicted against true": "预测值与真实值",
    "Probability": "概率",
    "R2": "决定系数（R²）",
    "RMSE": "均方根误差（RMSE）",
    "ROC AUC": "ROC 曲线下面积（AUC）",
    "Recall": "召回率",
    "Recall at 1": "召回率@1",
    "Recall at 10": "召回率@10",
    "Recall at 100": "召回率@100",
    "MRR": "平均倒数排名（MRR）",
    "nDCG at 10": "nDCG@10",
    "MAP": "平均精确率均值（MAP）",
    "words alone (BM25)": "仅用词语（BM25）",
    "most popular items": "最热门的物品",
    "matrix factorisation (ALS)": "矩阵分解（ALS）",
    "Pair accuracy": "成对准确率",
    "Pair loss": "成对损失",
    "Pair calibration error": "成对校准误差",
    "lengths of the answers alone": "仅用回答长度",
    "policy, by likelihood": "策略（按似然）",
    "Reliability": "可靠性",
    "Residuals": "残差",
    "Rows": "行数",
    "Run it again": "再次运行",
    "Search for a depth": "深度搜索",
    "Search for options": "选项的搜索",
    "Seconds": "秒数",
    "Seeds": "随机种子",
    "Ranks": "秩",
    "Settings": "设置",
    "Size of what was learned": "所学参数的大小",
    "Frozen weights in memory": "内存中冻结的权重",
    "Source": "来源",
    "Spearman": "斯皮尔曼相关系数",
    "States on disk": "磁盘上的状态",
    "Temperature": "温度",
    "Text": "文本",
    "Tokens per second": "每秒词元数",
    "Trained": "训练的参数",
    "Training loss": "训练损失",
    "True": "真实",
    "Truth": "真实值",
    "Versions": "版本",
    "Weighted F1": "加权 F1",
    "Where it goes wrong": "错在哪里",
    "What next": "下一步",
    "baselines": "基线",
    "better": "更好",
    "encode": "编码",
    "evaluate": "评估",
    "majority class": "多数类",
    "mean of the training rows": "训练集均值",
    "no difference shown": "未显示出差异",
    "not tried": "未试",
    "apart": "两句分开读",
    "together": "两句一起读",
    "of": "/",
    "read": "读取",
    "search": "搜索",
    "rows": "行",
    "seed": "种子",
    "split": "划分",
    "step": "步数",
    "test": "测试集",
    "TF-IDF + linear": "TF-IDF + 线性模型",
    "train": "训练集",
    "training rows": "训练行",
    "test rows": "测试行",
    "tune": "调优",
    "tuned branch": "调优后的分支",
    "branch tuned alone": "单独调优的分支",
    "prompted model": "提示模型",
    "untuned trunk": "未调优的主干",
    "model before tuning": "调优前的模型",
    "untuned trunk + linear": "未调优的主干 + 线性模型",
    "validation": "验证集",
    "words of the question": "问题词重合",
    "dictionary of training entities": "训练集实体词典",
    "worse": "更差",
    "mean": "均值",
    "trained parameters": "训练的参数",
    "reading, encoding and tuning": "读取、编码与调优",
    "against": "对比",
    "Report": "报告",
    "claimed": "声称的概率",
    "came true": "实际正确率",
    "as trained": "训练后原样",
    "with temperature": "经温度校准",
    "Dots are the values on the test rows, bars the 95% intervals.": "圆点是测试集上的值，横线是 95% 区间。",
    "In brackets: the 95% interval, from rows drawn again with replacement.": "括号内为对测试行有放回重抽样得到的 95% 区间。",
    "Down: the true label. Across: what was answered. Right answers lie on the diagonal; point at a cell to read it.": (
        "纵向为真实标签，横向为预测标签。对角线上为正确；将指针移到方格上可读出数值。"
    ),
    "Only the labels with the most errors are drawn.": "仅绘出错误最多的标签。",
    "One line for each seed.": "每个随机种子一条线。",
    "On the dashed line, what is claimed is what comes true: of the answers given with 80%, 80% are right.": (
        "落在虚线上表示所声称的即为实际：以 80% 概率给出的回答中，有 80% 是对的。"
    ),
    "Hardest labels first.": "最难的标签在前。",
    "Wrong answers that were given with the highest probability: often a wrong label in the data, or two labels that mean the same.": (
        "以最高概率给出的错误回答：往往是数据标注有误，或两个标签含义相同。"
    ),
    "Rows where the prediction is furthest from the truth.": "预测离真实值最远的样本。",
    "On the dashed line, the prediction is the truth.": "落在虚线上表示预测等于真实值。",
    "Tried on some of the training and validation rows; the smallest depth that is about as good as the best is taken.": (
        "在部分训练行与验证行上试验；取与最佳深度相差无几的最小深度。"
    ),
    "The best of the trials, by the validation rows.": "按验证集排列的最佳试验。",
    "The same data, the same 64 characters.": "数据相同，则这 64 个字符相同。",
    "Wherever the result is used, measure it again on rows from there: the interval speaks of rows like these.": (
        "换到别处使用时，请用那里的数据重新测量：区间只对同类数据有效。"
    ),
    "No row was answered wrongly.": "没有答错的行。",
}


@dataclass(frozen=True)
class Words:
    """A phrase in the report's language. Raises: OptionError for a language that is not there."""

    language: str = "en"

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise unknown("language", self.language, LANGUAGES)

    def __call__(self, phrase: str) -> str:
        return CHINESE.get(phrase, phrase) if self.language == "zh" else phrase

    def metric(self, name: str) -> str:
        return self(METRICS[name].title) if name in METRICS else name

    def result(self, name: str) -> str:
        return self(RESULTS.get(name, name))

    def short(self, name: str) -> str:
        """The name of a result within a sentence."""
        return self(RESULTS.get(name, name).removesuffix(" + linear"))


_BOUNDED = {name for name, metric in METRICS.items() if metric.bounds[1] == 1}

RESULTS = {
    "majority": "majority class",
    "mean": "mean of the training rows",
    "tfidf": "TF-IDF + linear",
    "untuned": "untuned trunk + linear",
    "before": "model before tuning",
    "overlap": "words of the question",
    "dictionary": "dictionary of training entities",
    "tuned": "tuned branch",
    "prompted": "prompted model",
    "bm25": "words alone (BM25)",
    "popularity": "most popular items",
    "als": "matrix factorisation (ALS)",
    "length": "lengths of the answers alone",
    "after": "policy, by likelihood",
    "alone": "branch tuned alone",
}


def in_order(names: Iterable[str]) -> list[str]:
    """Metrics in the order of the table in metrics.py, each once, unknown ones last (JSON keeps no order).

    >>> in_order(["ece", "accuracy", "mine"])
    ['accuracy', 'ece', 'mine']
    """
    known = list(METRICS)
    return sorted(set(names), key=lambda name: (known.index(name) if name in METRICS else len(known), name))


def language_of(text: str) -> str:
    """ "zh" where over a fifth of the letters are Chinese characters, else "en".

    >>> language_of("物流太慢了，差评"), language_of("too slow"), language_of("")
    ('zh', 'en', 'en')
    """
    chinese = len(re.findall(r"[㐀-鿿]", text))
    return "zh" if chinese > 0.2 * sum(char.isalpha() for char in text) and chinese else "en"


def number(metric: str, value: float | None, *, unit: bool = True) -> str:
    """A value as people read this metric.

    >>> number("accuracy", 0.9312), number("mcc", 0.9312), number("mse", 12345.678), number("ece", None)
    ('93.1%', '0.931', '1.23e+04', '–')
    """
    if value is None:
        return "–"
    if metric in METRICS and METRICS[metric].percent:
        return _minus(f"{100 * value:.1f}") + ("%" if unit else "")
    return _minus(f"{value:.3f}" if abs(value) < 100 and (abs(value) >= 0.001 or metric in _BOUNDED or not value) else f"{value:.3g}")


def _minus(shown: str) -> str:
    """A true minus sign in front, where a hyphen would read as a dash between two numbers."""
    return "−" + shown[1:] if shown.startswith("-") else shown


def span(metric: str, low: float | None, high: float | None) -> str:
    """An interval without its unit; empty where there is none, or where it has no width.

    >>> span("accuracy", 0.92, 0.94), span("r2", -0.01, 0.1), span("accuracy", 1.0, 1.0)
    ('92.0–94.0', '−0.010 … 0.100', '')
    """
    if low is None or high is None or low == high:
        return ""
    ends = number(metric, low, unit=False), number(metric, high, unit=False)
    return (" … " if low < 0 else "–").join(ends)


def with_interval(metric: str, found: Mapping[str, Any] | None) -> str:
    """
    >>> with_interval("accuracy", {"value": 0.93, "low": 0.92, "high": 0.94})
    '93.0% (92.0–94.0)'
    """
    if not found:
        return "–"
    reach = span(metric, found.get("low"), found.get("high"))
    return number(metric, found["value"]) + (f" ({reach})" if reach else "")


def change(metric: str, comparison: Mapping[str, Any], words: Words) -> str:
    """What a comparison says, in words: "better by 2.9 points (2.1–3.7)".

    >>> found = {"difference": 0.029, "low": 0.021, "high": 0.037, "verdict": "better"}
    >>> change("accuracy", found, Words()), change("accuracy", found, Words("zh"))
    ('better by 2.9 points (2.1–3.7)', '更好，相差 2.9 个百分点（2.1–3.7）')
    >>> change("mae", {"difference": 0.1, "low": -0.2, "high": 0.4, "verdict": "no difference shown"}, Words())
    'no difference shown (+0.100, −0.200 … 0.400)'
    """
    percent, chinese = metric in METRICS and METRICS[metric].percent, words.language == "zh"
    difference, low, high = (comparison.get(key) for key in ("difference", "low", "high"))
    if difference is None:
        return words(comparison["verdict"])
    points = (" 个百分点" if chinese else " points") if percent else ""
    if comparison["verdict"] == "no difference shown":
        sign = "+" if difference > 0 else ""
        inside = f"{sign}{number(metric, difference, unit=False)}{points}, {span(metric, low, high) or number(metric, 0.0, unit=False)}"
        return f"{words('no difference shown')}（{inside}）" if chinese else f"no difference shown ({inside})"
    ends = sorted(abs(end) for end in (low, high) if end is not None)
    reach, by = span(metric, *ends) if len(ends) == 2 else "", number(metric, abs(difference), unit=False) + points
    if chinese:
        return f"{words(comparison['verdict'])}，相差 {by}" + (f"（{reach}）" if reach else "")
    return f"{comparison['verdict']} by {by}" + (f" ({reach})" if reach else "")


def proof(comparison: Mapping[str, Any], words: Words) -> str:
    """Which test was made and its p value, in brackets after a comparison."""
    p = comparison.get("p_value")
    if p is None:
        return ""
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    name = str(comparison.get("test", ""))
    if words.language == "zh":
        name = {"exact McNemar": "McNemar 精确检验", "paired bootstrap": "配对自助法"}.get(name, name)
    return f"{name}, {shown}"


def duration(seconds: float | None) -> str:
    """
    >>> duration(0.042), duration(8.26), duration(75), duration(7384), duration(None)
    ('0.04 s', '8.3 s', '1 min 15 s', '2 h 3 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float | None, units: tuple[str, ...] = ("B", "kB", "MB", "GB", "TB")) -> str:
    """
    >>> size(512), size(45_300_000), size(1_250, ("", "k", "M")), size(None)
    ('512 B', '45.3 MB', '1.2 k', '–')
    """
    if count is None:
        return "–"
    value, at = float(count), 0
    while value >= 999.95 and at < len(units) - 1:
        value, at = value / 1000, at + 1
    return (f"{value:.0f}" if at == 0 else f"{value:.1f}") + (f" {units[at]}" if units[at] else "")
