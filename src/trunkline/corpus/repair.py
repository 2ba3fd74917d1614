"""What is repaired in a text before it is judged: broken Unicode, markup, lines that belong to the page and not to the text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

from trunkline.errors import MissingExtra

try:
    import ftfy
except ModuleNotFoundError as error:
    raise MissingExtra("ftfy", "corpus", "Cleaning") from error

_UNICODE = ftfy.TextFixerConfig(
    uncurl_quotes=False, fix_character_width=False, fix_latin_ligatures=False, unescape_html=False, explain=False
)
"""What was decoded wrongly is decoded rightly; quotes and full-width punctuation stay, since they are right in Chinese."""
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\r]")
_TAG = re.compile(
    r"</?(?:p|div|br|a|span|table|tr|td|th|h[1-6]|ul|ol|li|html|body|head|script|style|img|b|i|strong|em|section|article|nav|footer)"
    r"(?:\s[^<>]{0,2000})?/?>", re.IGNORECASE,
)  # fmt: skip
_SKIPPED = {
    "script",
    "style",
    "noscript",
    "nav",
    "header",
    "footer",
    "aside",
    "form",
    "button",
    "select",
    "template",
    "svg",
    "iframe",
    "title",
}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_BLOCKS = {
    "p",
    "div",
    "li",
    "ul",
    "ol",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "section",
    "article",
    "blockquote",
    "pre",
    "dd",
    "dt",
    "body",
}
_WIKI = re.compile(r"\[\[(?:[^\[\]|]{0,200}\|)?([^\[\]|]{1,200})\]\]|'{2,5}|<ref[^<>]{0,200}/>|<ref[^<>]{0,200}>[^<]{0,2000}</ref>")
_PAGE_LINES = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|accept cookies"  # C4, section 2.2
    r"|all rights reserved|^copyright\b|^©|^share (?:this|on)\b|^click here\b|^read more\b|^sign in\b|^log ?in\b|^skip to (?:main )?content"
    r"|版权所有|备案号?[:：]?|ICP备|^(?:上|下)一[篇页]|转载请注明|责任编辑|未经授权|点击(?:查看|关注|下载|进入)|扫(?:一扫|描)二维码|^(?:首页|返回顶部|更多>*)$",
    re.IGNORECASE,
)
_LONG_LINE = 200  # characters: a longer line that speaks of such things is text
_MENU = re.compile(r"(?:[^|｜>»/\n]{1,24}\s*[|｜>»]\s*){3,}[^|｜>»\n]{0,24}")
_CITATION = re.compile(r"\[(?:\d{1,3}|citation needed|edit)\]")


def repair(text: str, what: tuple[str, ...]) -> tuple[str, Counter[str]]:
    """The repaired text, and what was done to it.

    >>> repair("<p>Itâ€™s here.<br>Accept cookies</p><p>Good.</p>", ("unicode", "markup", "boilerplate"))[0]
    'It’s here.\\n\\nGood.'
    """
    done: Counter[str] = Counter()
    for name in what:
        made = _REPAIRS[name](text)
        if made != text:
            done[name] += 1
        text = made
    return text.strip(), done


def unicode_repaired(text: str) -> str:
    """Text that was decoded wrongly somewhere, as it was meant; NFC; control characters out; line ends as \\n. Source: ftfy."""
    if text.isascii() and not _ODD.search(text):
        return text
    return str(ftfy.fix_text(text, _UNICODE))


def without_markup(text: str) -> str:
    """The text of HTML without its tags, and without what is no text (scripts, menus, forms); links of a wiki as their words."""
    if "<" in text and len(_TAG.findall(text)) >= 2:
        reader = _Reader()
        reader.feed(text)
        reader.close()
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\xa0]+", " ", re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(reader.pieces))))
    return _WIKI.sub(lambda found: found[1] or "", text) if "[[" in text or "''" in text or "<ref" in text else text


def without_boilerplate(text: str) -> str:
    """The text without lines of the page around it (cookies, copyright, menus, "read more"), and without marks of footnotes.

    Source: C4 (Raffel et al. 2020), section 2.2; the Chinese phrases and the menus are ours.
    """
    kept = [line for line in text.split("\n") if not _is_boilerplate(line.strip())]
    return _CITATION.sub("", "\n".join(kept)) if "[" in text else "\n".join(kept)


def _is_boilerplate(line: str) -> bool:
    return 0 < len(line) <= _LONG_LINE and bool(_PAGE_LINES.search(line) or (_MENU.fullmatch(line) and not line.endswith((".", "。"))))


_REPAIRS = {"unicode": unicode_repaired, "markup": without_markup, "boilerplate": without_boilerplate}


class _Reader(HTMLParser):
    """Collects the text of a page. An unclosed menu ends with the block around it at the latest, so it cannot swallow the page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped.append(tag)
        if tag in _BLOCKS:
            self.pieces.append("\n\n")
        if tag in ("br", "tr", "td", "th"):
            self.pieces.append("\n" if tag in ("br", "tr") else " ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipped:
            del self._skipped[self._skipped.index(tag) :]
        if tag in ("body", "html", "main"):
            self._skipped.clear()
        if tag in _BLOCKS:
            self.pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.pieces.append(data)
