"""The kinds of finding, a function each: what is looked at, in which words it is told, and what could be done about it (words.py has the Chinese)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trunkline.data import personal
from trunkline.data.split import text_key
from trunkline.quality import classes, texts
from trunkline.quality.duplicates import Pair, groups
from trunkline.quality.found import Section
from trunkline.quality.material import Material, label_of

_LEAST_TEXTS = 10


def sections(of: Material) -> Iterator[Section]:
    """All of them, also those that found nothing (count 0)."""
    yield from (_leaks(of), _conflicts(of), _duplicates(of))
    yield from _label_errors(of)
    yield from (_give_aways(of), _outliers(of), _overlaps(of), _gaps(of))
    yield from (_private(of), _damage(of), _scripts(of), _lengths(of))


def _leaks(of: Material) -> Section:
    across = [pair for pair in of.pairs if pair.first < len(of.rows) <= pair.second]
    exact = {text_key(row) for row in of.against}
    found = [of.pair(pair, action="drop") for pair in across]
    told = {row["row"] for row in found}
    missed = [at for at, row in enumerate(of.rows) if text_key(row) in exact and at + 1 not in told] if len(of.against) else []
    # a text in many copies is paired with its neighbours only
    found += [of.told(at, score=1.0, by="surface", action="drop") for at in missed]
    return Section(
        "leaks", "error", "Rows that stand in what is measured on too",
        "The same text, or nearly, is on both sides: what was learned by heart is measured as if it were understood.",
        "take these rows out of the training rows", tuple(found), len({row["row"] for row in found}),
    )  # fmt: skip


def _conflicts(of: Material) -> Section:
    if of.rows.task not in ("classify", "regress"):
        return _nothing("conflicts")
    inside = [p for p in of.pairs if p.second < len(of.rows) and label_of(of.rows[p.first]) != label_of(of.rows[p.second])]
    found = [of.pair(pair, action="") for pair in inside]
    return Section(
        "conflicts", "warning", "Nearly the same text, different labels",
        "No model can get both right. One of the labels is wrong, or the two labels mean nearly the same.",
        "decide which label is right, or put the two labels together", tuple(found), len(found),
    )  # fmt: skip


def _duplicates(of: Material) -> Section:
    alike = [p for p in of.pairs if p.second < len(of.rows) and label_of(of.rows[p.first]) == label_of(of.rows[p.second])]
    best: dict[int, Pair] = {}
    for pair in alike:
        best.setdefault(pair.second, pair)
    found, extra = [], 0
    for those in groups(len(of.rows), alike):
        extra += len(those) - 1
        found += [of.pair(best[at], of=at + 1) for at in those[1:] if at in best]
    found.sort(key=lambda row: -row["score"])
    rows = [{**of.told(row["of"] - 1), **_swapped(row), "action": "drop"} for row in found]
    return Section(
        "duplicates", "note", "Rows that repeat another row",
        "Copies with the same label count twice, and where they are split up they make a score look better than it is.",
        "keep one of each, or give copies the same group so that they stay on one side", tuple(rows), extra,
    )  # fmt: skip


def _label_errors(of: Material) -> Iterator[Section]:
    if of.rows.task == "tag":
        yield _word_errors(of)
        return
    found = of.suspects
    if found is None:
        return
    numbers = of.rows.task == "regress"
    if not of.is_judge:
        yield _no_judge(int((found.doubt > 0).sum()))
        return
    places, _, names = (np.arange(len(of.rows)), None, []) if numbers else of.labelled
    doubtful = [at for at in found.order.tolist() if found.doubt[at] > 0][: max(found.expected, 1)]
    rows = []
    for at in doubtful:
        proposed = f"{found.proposed[at]:.4g}" if numbers else names[int(found.proposed[at])]
        sure = {} if numbers else {"probability": round(float(found.probabilities[at, int(found.proposed[at])]), 4)}
        rows.append(of.told(int(places[at]), proposed=proposed, score=round(float(found.doubt[at]), 3), **sure, action="relabel"))
    yield Section(
        "labels", "warning", "Labels that may be wrong",
        "The labels of all other rows speak for another label here. Worst first; in clean data most of these are right, so look at each.",
        "correct the labels that are wrong", tuple(rows), len(rows),
    )  # fmt: skip


def _no_judge(count: int) -> Section:
    return Section(
        "labels", "warning", "Labels that this model cannot judge",
        "It would give most rows another label than theirs, so it is the model that does not understand these texts. No row is named.",
        "give a model that knows the language of the texts", (), count,
    )  # fmt: skip


def _word_errors(of: Material) -> Section:
    """Texts by their worst word. A label is a list of places there, so none is proposed for the whole row: the reason names the word."""
    found = of.word_suspects
    if found is None:
        return _nothing("labels")
    if found.share > 0.5:  # most words are in no entity, and a model that understands nothing takes all for that
        return _no_judge(int((found.doubt > 0).sum()))
    places, labels, names = of.tagged
    rows = []
    most = max(
        1, min(found.expected, max(_LEAST_TEXTS, len(places) // 5))
    )  # the estimate counts words, and is far too high where a probe is weak
    for at in [at for at in found.order.tolist() if found.doubt[at] > 0][:most]:
        row, word = places[at], int(found.worst[at])
        start, end = of.words(row).spans[word]
        why = f"{of.rows[row]['text'][start:end]!r} ({start} to {end}): {names[int(labels[at][word])]} -> {names[int(found.proposed[at])]}"
        rows.append(of.told(row, why=why, score=round(float(found.doubt[at]), 3), action=""))
    return Section(
        "labels", "warning", "Texts with a word whose label may be wrong",
        "The words of all other texts speak for another label of this one. Worst first; in clean data most of these are right, so look at each.",
        "correct the entities that are wrong", tuple(rows), len(rows),
    )  # fmt: skip


def _give_aways(of: Material) -> Section:
    places, _, _ = of.labelled
    found = classes.give_aways([of.texts[at] for at in places], [of.rows[at]["label"] for at in places])
    rows = [
        {"part": "rows", "row": None, "text": one.word, "label": one.label, "rows_with_it": one.rows, "with_label": one.with_label}
        for one in found
    ]
    return Section(
        "give-aways", "warning", "Words that give a label away",
        "Nearly every row with this word has this label. That may be its meaning, or a trace of how the data was made.",
        "see whether the word will be there in real use; if not, take it out of the texts", tuple(rows), len(rows),
    )  # fmt: skip


def _outliers(of: Material) -> Section:
    if of.vectors is None:
        return _nothing("outliers")
    order, score = classes.outliers(of.vectors.rows)
    rows = tuple(of.told(int(at), score=round(float(score[at]), 2), action="") for at in order)
    return Section(
        "outliers", "note", "Rows that are like no others",
        "Another subject, another language, or noise; sometimes the rarest and most useful rows.",
        "see whether they belong here", rows, len(rows),
    )  # fmt: skip


def _overlaps(of: Material) -> Section:
    places, labels, names = of.labelled
    if of.suspects is None or of.rows.task != "classify":
        return _nothing("overlaps")
    rows = []
    for one in classes.overlaps(of.suspects.probabilities, labels)[:50]:
        first = int(places[one.rows[0]])
        told = {"label": names[one.first], "other_label": names[one.second], "score": round(one.share, 4), "pairs": one.count}
        rows.append({**of.told(first), **told})
    return Section(
        "overlaps", "note", "Labels that are taken for each other",
        "Rows of the one look like the other, by the labels of all other rows. The text is the clearest such row.",
        "write down what sets the two apart, or put them together", tuple(rows), len(rows),
    )  # fmt: skip


def _gaps(of: Material) -> Section:
    _, labels, names = of.labelled
    if len(names) < 2:
        return _nothing("gaps")
    known = None if of.suspects is None else of.suspects.probabilities
    rows = [
        {"part": "rows", "row": None, "text": one.why, "label": one.label, "rows_with_it": one.rows,
         "score": None if one.recall is None else round(one.recall, 3)}
        for one in classes.gaps(labels, names, known)
    ]  # fmt: skip
    return Section(
        "gaps", "warning", "Labels with too little to go by",
        "Few rows, or rows that the others never lead to. The score is how many of its rows are recognised.",
        "collect and label more of these first", tuple(rows), len(rows),
    )  # fmt: skip


def _private(of: Material) -> Section:
    rows = [
        of.told(one.row, why=", ".join(f"{kind} {count}" for kind, count in one.kinds.items()), action="rewrite",
                  new_text=personal.mask(of.rows[one.row]["text"]))
        for one in texts.private([row["text"] for row in of.rows])
    ]  # fmt: skip
    return Section(
        "personal", "warning", "Personal data",
        "Mail addresses, phone numbers, bank cards, IBANs, Chinese identity numbers, IP addresses. Names and addresses are not found.",
        "mask them, unless you may keep them and need to", tuple(rows), len(rows),
    )  # fmt: skip


def _damage(of: Material) -> Section:
    rows = []
    for at, row in enumerate(of.rows):
        if why := texts.damage(of.texts[at]):
            better = texts.repaired(row["text"])
            rows.append(of.told(at, why=why, action="rewrite" if better else "", **({"new_text": better} if better else {})))
    return Section(
        "encoding", "warning", "Damaged characters",
        "A file was read in another encoding than it was written in, or markup was left in.",
        "repair them where they come from", tuple(rows), len(rows),
    )  # fmt: skip


def _scripts(of: Material) -> Section:
    _, odd = texts.odd_scripts(of.texts)
    rows = tuple(of.told(at, why=texts.script(of.texts[at]), action="") for at in odd)
    return Section(
        "languages", "note", "Texts in a writing system that few others are in",
        "Told by their letters; languages that share an alphabet are not told apart.",
        "see whether they belong here", rows, len(rows),
    )  # fmt: skip


def _lengths(of: Material) -> Section:
    short, long = texts.odd_lengths(of.texts)
    rows = [of.told(at, why=f"{len(of.texts[at]):,} characters", action="") for at in [*short, *long]]
    return Section(
        "lengths", "note", "Texts far shorter or longer than the others",
        "Very short ones say too little; of very long ones a model reads the beginning only.",
        "see whether they are whole, and whether one row is one message", tuple(rows), len(rows),
    )  # fmt: skip


def _nothing(kind: str) -> Section:
    return Section(kind, "note", kind, "", "", (), 0)


def _swapped(row: dict[str, Any]) -> dict[str, Any]:
    """A pair seen from its second row: the first one is the one it repeats."""
    return {"other_part": row["part"], "other_row": row["row"], "other": row["text"], "other_label": row["label"],
            "score": row["score"], "by": row["by"]}  # fmt: skip
