"""The words of the pages about data in Chinese; English is the key. A test holds that every phrase is here."""

# ruff: noqa: E501  (a sentence and its translation stand on one line)
from __future__ import annotations

from trunkline.choices import one_of

LANGUAGES = ("en", "zh")

CHINESE = {
    "Rows that stand in what is measured on too": "训练数据与测试数据重复",
    "The same text, or nearly, is on both sides: what was learned by heart is measured as if it were understood.": "相同或几乎相同的文本同时出现在两边：背下来的内容会被当成真正学会的能力来衡量。",
    "take these rows out of the training rows": "从训练数据中去掉这些行",
    "Nearly the same text, different labels": "文本几乎相同，标签不同",
    "No model can get both right. One of the labels is wrong, or the two labels mean nearly the same.": "任何模型都不可能两个都答对：要么有一个标签错了，要么两个标签含义几乎相同。",
    "decide which label is right, or put the two labels together": "确定哪个标签正确，或者合并这两个标签",
    "Rows that repeat another row": "重复的行",
    "Copies with the same label count twice, and where they are split up they make a score look better than it is.": "标签相同的副本会被重复计算；如果被分到训练和测试两边，分数会虚高。",
    "keep one of each, or give copies the same group so that they stay on one side": "每组只保留一行，或给副本相同的分组，使它们留在同一边",
    "Labels that may be wrong": "可能标错的标签",
    "The labels of all other rows speak for another label here. Worst first; in clean data most of these are right, so look at each.": "根据其他所有行的标签，这里更像是另一个标签。最可疑的排在最前；在干净的数据里其中大多数其实没错，请逐条确认。",
    "Labels that this model cannot judge": "该模型无法判断的标签",
    "It would give most rows another label than theirs, so it is the model that does not understand these texts. No row is named.": "该模型对大多数行都会给出别的标签，说明是模型不理解这些文本，因此不列出任何一行。",
    "give a model that knows the language of the texts": "换一个懂这种语言的模型",
    "Texts with a word whose label may be wrong": "其中某个词可能标错的文本",
    "The words of all other texts speak for another label of this one. Worst first; in clean data most of these are right, so look at each.": "根据其他所有文本的词，这里的这个词更像是另一种标签。最可疑的排在最前；在干净的数据里其中大多数其实没错，请逐条确认。",
    "correct the entities that are wrong": "改正确实错误的实体",
    "correct the labels that are wrong": "改正确实错误的标签",
    "Words that give a label away": "泄露标签的词",
    "Nearly every row with this word has this label. That may be its meaning, or a trace of how the data was made.": "几乎所有含这个词的行都是这个标签。这可能正是它的含义，也可能是数据制作时留下的痕迹。",
    "see whether the word will be there in real use; if not, take it out of the texts": "看看实际使用时是否会出现这个词；如果不会，请从文本中去掉",
    "Rows that are like no others": "与众不同的行",
    "Another subject, another language, or noise; sometimes the rarest and most useful rows.": "可能是别的主题、别的语言或噪声；有时也是最稀有、最有用的行。",
    "see whether they belong here": "看看它们是否属于这份数据",
    "Labels that are taken for each other": "容易混淆的标签",
    "Rows of the one look like the other, by the labels of all other rows. The text is the clearest such row.": "根据其他所有行的标签，这两类的行彼此相像。所列文本是最典型的一行。",
    "write down what sets the two apart, or put them together": "写明两者的区别，或者合并",
    "Labels with too little to go by": "数据不足的标签",
    "Few rows, or rows that the others never lead to. The score is how many of its rows are recognised.": "行数太少，或很难被识别。得分是其中能被识别的比例。",
    "collect and label more of these first": "优先收集并标注这些类别",
    "Personal data": "个人信息",
    "Mail addresses, phone numbers, bank cards, IBANs, Chinese identity numbers, IP addresses. Names and addresses are not found.": "邮箱、电话、银行卡、IBAN、中国身份证号、IP 地址。姓名和住址无法识别。",
    "mask them, unless you may keep them and need to": "遮盖它们，除非您有权且需要保留",
    "Damaged characters": "损坏的字符",
    "A file was read in another encoding than it was written in, or markup was left in.": "文件曾以错误的编码读取，或残留了网页标记。",
    "repair them where they come from": "在数据来源处修复",
    "Texts in a writing system that few others are in": "少见文字系统的文本",
    "Told by their letters; languages that share an alphabet are not told apart.": "按字符判断；使用同一字母表的语言无法区分。",
    "Texts far shorter or longer than the others": "过短或过长的文本",
    "Very short ones say too little; of very long ones a model reads the beginning only.": "过短的信息太少；过长的模型只读开头。",
    "see whether they are whole, and whether one row is one message": "看看文本是否完整，一行是否就是一条消息",
    "Data check": "数据检查",
    "rows": "行",
    "row": "行号",
    "text": "文本",
    "label": "标签",
    "proposed": "建议的标签",
    "compare with": "对照",
    "score": "得分",
    "why": "原因",
    "rows with it": "含此词的行数",
    "of them with the label": "其中有此标签的",
    "against": "对照数据",
    "error": "错误",
    "warning": "警告",
    "note": "提示",
    "Map of the texts": "文本地图",
    "Every dot is a row; texts that mean much the same lie near each other. Turn the wheel to zoom, drag to move, point at a dot to read it.": "每个点是一行；含义相近的文本彼此靠近。滚轮缩放，拖动移动，指向一个点即可阅读。",
    "Colour by": "着色方式",
    "what was found": "检查结果",
    "Nothing was found.": "没有发现问题。",
    "of": "共",
    "shown": "显示",
    "What to do": "怎么办",
    "Find a text": "查找文本",
    "Whole view": "全图",
    "Write yes into the first column of changes.csv for what you want to have changed, then run:": "在 changes.csv 第一列为要采纳的修改填写 yes，然后运行：",
    "Nothing is changed until you say so.": "在您确认之前，不会更改任何内容。",
    "not marked": "无问题",
    "some of the rows are drawn": "图中只画出部分行",
    "about so many labels are estimated to be wrong": "估计标错的标签数",
}


class Words:
    """`Words("zh")("rows")` gives the Chinese; English phrases are their own. Raises: OptionError for another language."""

    def __init__(self, language: str = "en") -> None:
        one_of("language", language, LANGUAGES)
        self.language = language

    def __call__(self, phrase: str) -> str:
        return CHINESE[phrase] if self.language == "zh" else phrase
