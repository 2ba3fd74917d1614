"""The page: every kind of report renders, nothing outside is asked for, and no text of a user becomes markup."""

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from tests.evaluation.report_samples import CHINESE_LABELS, MESSAGES, SAMPLES, classified
from trunkline.errors import OptionError
from trunkline.evaluation.wording import CHINESE, Words

PAYLOADS = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" onmouseover="alert(1)',
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "{{ 7 * 7 }}{{ config }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<meta http-equiv=refresh content='0;url=http://example.org'>",
    "<base href=http://example.org/>",
    "<link rel=stylesheet href=//example.org/x.css>",
    "</svg></table><form action=http://example.org><input>",
    "＜script＞&lt;script&gt;&#60;script&#62;",
    "\x00\x1b[31m\u202e<script>\u2066alert(1)",
]
VOID = {"meta", "link", "br", "img", "input", "hr", "base"}


class Elements(HTMLParser):
    """Every tag with its attributes, all texts, and whether the tags close as they open."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@cache
def harmless():
    return classified(["a label that is longer than a cell is wide", "no", "maybe"], MESSAGES, rows=200)


def words_of(page):
    return " ".join(" ".join(Elements(page).texts).split())


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_report_renders_and_asks_for_nothing_outside(name, language):
    page = SAMPLES[name]().html(language)
    found = Elements(page)
    assert found.open == []
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for target in (attributes.get("src"), attributes.get("href"), attributes.get("xlink:href")):
            assert target is None or target.startswith("#") or target == "data:,"
    assert not re.search(r"https?://|@import|url\(", page)
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "nan" not in re.findall(r'[xyrd]="([^"]*)"', page.lower())


def test_links_on_the_page_lead_somewhere():
    for name in SAMPLES:
        found = Elements(SAMPLES[name]().html())
        here = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
        assert {a["href"][1:] for t, a in found.tags if t == "a"} <= here


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_users_text_is_never_markup(payload):
    plain = Elements(harmless().html("en"))
    report = classified([payload, "no", "maybe"], [payload], rows=200)
    hostile = replace(
        report,
        command=payload,
        next=[payload],
        task=payload,
        created=payload,
        settings={payload: payload},
        versions={payload: payload},
        machine={payload: payload, "device": payload},
        data={
            **report.data,
            "source": payload,
            "fingerprint": payload,
            "notes": [payload],
            "findings": [payload],
            "rows": {payload: 3, "train": 5},
        },
        model={**report.model, "name": payload, "id": payload, "method": payload},
        cost={**report.cost, "seconds": {payload: 1.0, "tune": 2.0}},
        results=[*report.results, {**report.results[0], "name": payload}],
        comparisons=[*report.comparisons, {**report.comparisons[0], "before": payload, "metric": "accuracy"}],
    )
    page = hostile.html("en")
    found = Elements(page)
    assert found.open == []
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags}
    assert {key for _, attributes in found.tags for key in attributes} <= {key for _, a in plain.tags for key in a}
    shown = payload.replace("\x00", "␀").replace("\x1b", "␛")
    assert shown in "".join(found.texts)
    assert found.texts.count(shown) > 5


def test_many_labels_have_a_cell_with_a_tooltip_for_every_count_and_a_table_of_pairs():
    report = SAMPLES["many"]()
    page = report.html()
    full = sum(n > 0 for row in report.confusion["matrix"] for n in row)
    assert len(re.findall(r"<title>[^<]* → [^<]*: \d+ / \d+ \(\d+%\)</title>", page)) == full
    worst = max((n, i, j) for i, row in enumerate(report.confusion["matrix"]) for j, n in enumerate(row) if i != j)
    labels = report.confusion["labels"]
    assert f"{labels[worst[1]]} {labels[worst[2]]} {worst[0]}" in words_of(page)
    assert len(page) < 400_000


def test_over_a_hundred_labels_only_the_most_wrong_are_drawn():
    page = classified([f"label {n}" for n in range(150)], MESSAGES, rows=900, sure=3.0).html()
    assert "Only the labels with the most errors are drawn." in page
    assert len(page) < 600_000


def test_labels_are_listed_hardest_first():
    report = SAMPLES["chinese"]()
    section = report.html("zh").split('id="labels"')[1].split("</section>")[0]
    listed = re.findall(r'<bdi class="label">([^<]+)</bdi>', section)
    assert listed == [row["label"] for row in sorted(report.per_class, key=lambda row: row["f1"])]


def test_numbers_have_a_scatter_and_no_confusion_matrix():
    page = words_of(SAMPLES["regress"]().html())
    assert "Predicted against true" in page
    assert "Residuals" in page
    assert "Most confused pairs" not in page


@pytest.mark.parametrize(
    ("language", "titles"),
    [("en", ("Size of what was learned", "Frozen weights in memory", "Ranks")), ("zh", ("所学参数的大小", "内存中冻结的权重", "秩"))],
)
def test_the_size_of_what_was_learned_and_its_ranks_are_shown(language, titles):
    report = SAMPLES["two"]()
    assert titles[0] not in report.html(language)
    page = replace(
        report, model={**report.model, "bytes": 739_636, "frozen_bytes": 90_861_568, "ranks": {"query": 2, "key": 8, "value": 0}}
    ).html(language)
    assert all(title in page for title in (*titles, "739.6 kB", "90.9 MB", "0–8", "3.3"))


def test_the_page_speaks_the_language_of_the_data():
    assert '<html lang="zh-CN">' in SAMPLES["chinese"]().html()
    assert "混淆" in SAMPLES["chinese"]().html()
    assert '<html lang="en">' in SAMPLES["two"]().html()
    assert '<html lang="en">' in SAMPLES["chinese"]().html("en")
    with pytest.raises(OptionError, match="language='fr'"):
        SAMPLES["bare"]().html("fr")


def test_every_phrase_has_its_chinese():
    folder = files("trunkline.evaluation")
    template = folder.joinpath("report.html.j2").read_text("utf-8")
    code = folder.joinpath("page.py").read_text("utf-8")
    phrases = set(re.findall(r'\bt\("([^"]+)"\)', template)) | set(re.findall(r"""\bwords\(["']([^"']+)["']\)""", code))
    assert len(phrases) > 50
    assert phrases <= set(CHINESE)
    shown = words_of(SAMPLES["many"]().html("zh"))
    for phrase in phrases - {"F1", "of"}:
        assert phrase not in shown.replace(" ".join(MESSAGES), "") or len(phrase) < 7, phrase
    metrics = {Words("zh").metric(name) for name in ("macro_recall", "mcc", "ece", "rmse", "spearman", "exact_match")}
    assert not metrics & {"Macro recall", "MCC", "RMSE"}


def test_a_report_with_holes_still_renders():
    whole = SAMPLES["chinese"]()
    for name in ("data", "model", "settings", "cost", "versions", "machine"):
        assert Elements(replace(whole, **{name: {}}).html()).open == []
    for name in ("results", "comparisons", "per_class", "errors", "history", "seeds", "next"):
        assert Elements(replace(whole, **{name: []}).html()).open == []
        assert str(replace(whole, **{name: []}))
    for name in ("confusion", "calibration"):
        assert Elements(replace(whole, **{name: None}).html()).open == []
    short = [{"name": "tuned", "metrics": {"accuracy": {"value": 1.0}}}]
    assert Elements(replace(whole, results=short, comparisons=[]).html()).open == []
    single = replace(whole, history=[[{"step": 1, "train_loss": None, "metrics": None}]], data={"labels": dict.fromkeys(CHINESE_LABELS, 0)})
    assert Elements(single.html()).open == []


@pytest.mark.parametrize(("language", "title"), [("en", "Search for a depth"), ("zh", "深度搜索")])
def test_a_search_is_shown_with_what_was_taken(language, title):
    trials = [{"depth": d, "learning_rate": 3e-4, "value": v, "seconds": 2.0} for d, v in ((0, 0.81), (1, 0.9), ("all", 0.905))]
    found = {"depth": 1, "learning_rate": 3e-4, "metric": "accuracy", "why": "x", "seconds": 6.0, "rows": [10, 5], "trials": trials}
    report = replace(SAMPLES["many"](), search=found)
    section = report.html(language).split('id="search"')[1].split("</section>")[0]
    assert title in section
    assert '<td class="main">1</td>' in section
    assert section.count("<tr>") == 4
    assert "90.5%" in section
    untried = replace(report, search=found | {"depth": 2}).html(language).split('id="search"')[1].split("</section>")[0]
    assert '<td class="main">2</td>' in untried
    assert {"en": "not tried", "zh": "未试"}[language] in untried
