"""Each rule on a text that it lets pass and on one that it does not; repair, language and words the same."""

import time

import pytest

from trunkline.corpus.balance import most_each
from trunkline.corpus.language import language
from trunkline.corpus.repair import repair
from trunkline.corpus.rules import RULES, Page, failed, parse
from trunkline.corpus.toxicity import toxic_words
from trunkline.errors import DataError, OptionError

PROSE = (
    "The bank wrote to me last week that the new card was on its way to my home. I have waited for nine days and nothing has come. "
    "Could somebody tell me where it is, and what I am to do with the old one? My neighbours had to wait for theirs as well, "
    "and they were told to call a number that nobody answers in the morning."
)
CHINESE = (
    "上周银行来信说新卡已经寄出。我等了九天，什么也没有收到。能不能告诉我卡现在在哪里？旧卡应该怎么处理呢？邻居也遇到了同样的问题，他们打了客服电话，"
    "早上一直没有人接听，下午才有人回答。后来我又去了一次营业厅，工作人员说系统正在升级，请大家耐心等待几天，补办的卡会在月底之前寄到家里，不需要再付手续费。"
    "可是到了月底还是没有消息，我只好写信给总行，把事情的经过从头到尾讲了一遍，希望他们能够尽快给出一个说法，毕竟房租要从这张卡里扣。"
)
BAD = {
    "words": "Too short to be a page of prose.", "word_length": "a b c d e f " * 20, "symbols": PROSE + " #a #b #c #d #e #f #g #h #i #j",
    "bullets": "- one\n- two\n- three", "ellipses": "one...\ntwo…\nthree.", "letters": "12 34 56 78 word", "stop_words": "Buy cheap shoes online now. Fast shipping.",
    "repeated_lines": "Same line here.\n" * 5, "repeated_paragraphs": "Same here.\n\n" * 5, "common_phrases": "buy now " * 30 + "or later",
    "repeated_phrases": "one two three four five six seven. " * 2 + "end", "sentences": "No end here, no sentence", "no_code": "if (x) { return; }",
    "no_filler": "Lorem Ipsum dolor", "line_ends": "Home\nAbout\nContact", "short_lines": "Home\nAbout\nNews\nA line that is long enough to be more than thirty.",
    "chinese_length": "短。", "chinese_lines": "首页\n关于\n联系", "chinese_share": "abc 中文 abcdefghijk", "chinese_repeated": "同样的话说了一遍又一遍没有意思。" * 6,
    "chinese_sentences": "没有句号",
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_says_yes_and_no(rule: str) -> None:
    (keeps,) = parse(rule).values()
    good = CHINESE if RULES[rule].script == "chinese" else PROSE
    assert keeps(Page(good))
    assert not keeps(Page(BAD[rule]))


def test_scripts_have_rules_of_their_own() -> None:
    every = parse("gopher,repetition,c4,fineweb,chinese")
    assert failed(Page(PROSE), every, "en") is None
    assert failed(Page(CHINESE), every, "zh") is None
    assert failed(Page(BAD["stop_words"]), parse("stop_words"), "de") is None  # an English list says nothing of German
    assert failed(Page("短。"), parse("words"), "zh") is None


def test_limits_are_options_and_unknown_names_are_told() -> None:
    assert failed(Page("Six words are enough for me."), parse("words:least=6"), "en") is None
    for text, message in (("wrods", "words"), ("words:leest=3", "least"), ("gopher:least=3", "rule"), ("words:least=few", "float")):
        with pytest.raises(OptionError, match=message):
            parse(text)


def test_gopher_s_table_by_hand() -> None:
    """Ten letters in five words twice: 20 of 24 characters stand in a repeated run of five."""
    text = "aa bb cc dd ee aa bb cc dd ee"
    assert not parse("repeated_phrases:five=0.68:ten=0.6")["repeated_phrases"](Page(text))  # 20 / 29 = 0.69
    assert parse("repeated_phrases:five=0.70:ten=0.6")["repeated_phrases"](Page(text))


def test_repair() -> None:
    every = ("unicode", "markup", "boilerplate")
    assert repair("â€œhelloâ€\x9d，ＡＢＣ！", every)[0] == "“hello”，ＡＢＣ！"
    page = "<html><head><title>x</title><style>p {}</style></head><body><nav><a href='/'>Home</a></nav><p>First &amp; last.</p><script>var x;</script>"
    page += "<ul><li>one</li><li>two</li></ul>We use cookies. Accept cookies<br>All rights reserved.</body></html>"
    text, done = repair(page, every)
    assert text == "First & last.\n\none\n\ntwo"
    assert done == {"markup": 1, "boilerplate": 1}
    assert repair("[[Paris|the capital]] is '''big'''<ref name=a>x</ref>[12].", every)[0] == "the capital is big."
    assert repair("正文在这里。\n版权所有 2020\n责任编辑：王\n首页 | 新闻 | 体育 | 财经", every)[0] == "正文在这里。"
    long = "A policy on privacy is what the board spoke of for two hours, " * 4 + "and the privacy policy was then adopted."
    assert repair(long, every)[0] == long  # it speaks of it, and is no line of the page around
    assert repair("if a < b and c > d: pass", every)[0] == "if a < b and c > d: pass"
    assert repair("<p>x</p>", ())[0] == "<p>x</p>"


def test_a_menu_that_is_never_closed_does_not_swallow_the_page() -> None:
    assert repair("<body><p>One.</p><div><nav>menu</div></body><p>Two.</p>", ("markup",))[0].endswith("Two.")


@pytest.mark.parametrize(
    "text",
    ["<" * 100_000, "<p " * 50_000, "[[a|" * 50_000, "''" * 100_000, "<p>" * 30_000, "a | " * 50_000, "\n" * 200_000, "<!--" * 50_000],
)
def test_any_text_is_repaired_in_linear_time(text: str) -> None:
    before = time.process_time()
    repair(text, ("unicode", "markup", "boilerplate"))
    assert time.process_time() - before < 3


def test_languages() -> None:
    found = [
        language(text)
        for text in (PROSE, CHINESE, "Der Zug nach Berlin hat heute leider wieder Verspätung.", "これはペンです。あれは本です。", "12 !")
    ]
    assert found == ["en", "zh", "de", "ja", ""]


def test_toxic_words(tmp_path) -> None:
    words = toxic_words("embedded")
    assert words.too_many("you fucking cunt")
    assert words.too_many("你这个傻逼")
    assert not words.too_many(PROSE)
    assert not words.too_many("He was called a bastard once, and a whore of a day it was: " + PROSE)  # one in a long text is no reason
    (tmp_path / "list.txt").write_text("# mine\nbadger\n")
    assert toxic_words(str(tmp_path / "list.txt")).too_many("badger badger")
    assert toxic_words("none") is None
    with pytest.raises(DataError, match="cannot be read"):
        toxic_words(str(tmp_path / "no.txt"))


@pytest.mark.parametrize(
    ("counts", "share", "most"), [({"a": 100, "b": 30, "c": 20}, 0.5, 50), ({"a": 5, "b": 5}, 0.4, 0), ({"a": 7}, 1, 7), ({}, 0.5, 0)]
)
def test_most_each(counts: dict, share: float, most: int) -> None:
    assert most_each(counts, share) == most
