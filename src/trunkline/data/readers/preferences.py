"""What people preferred, in the forms that it is kept in, brought to one: a prompt, its better answer and a worse one.

Between `formats` (a source as a table) and `read`; `chat` then makes messages of the prompt. What is understood, record by record:
    {"chosen", "rejected"} beside a prompt, or with it           a pair; all forms of `chat` (Anthropic, LLaMA-Factory, OpenAI messages)
    {"answers": [..]} beside a prompt, best first                a ranking: a pair of each two answers
    the same with "ranks": [..] or "ratings": [..]               the same by rank (1 is best; equals make no pair) or by rating
    {"response", "rating"} beside a prompt, an answer a record   ratings: a pair of each two answers to one prompt that differ
    {"response", "liked"} (kto_tag, thumb, ...), an answer a record   thumbs: the liked answers against the others to one prompt
    messages in place of prompt and response                     the last message is the response

What comes out: `text` and `messages` (the prompt), `text_b` (the better answer), `rejected`, `group` (of dialogues that begin alike), `margin`
where ratings say how much better, `annotator` where a column does. To be scored only, a prompt with one answer will do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from trunkline.data.cells import is_missing
from trunkline.data.columns import Columns
from trunkline.data.readers.chat import _LISTS, as_dialogues
from trunkline.data.readers.spans import plain
from trunkline.data.table import Records, Table, each, looked_into
from trunkline.errors import DataError

ANSWERS = ("answers", "responses", "completions", "outputs", "candidates")
RESPONSE = ("response", "output", "completion", "answer", "reply", "回答", "答案", "输出")
RANKS = ("ranks", "rank", "ranking", "排名")
RATINGS = ("ratings", "rating", "scores", "score", "stars", "评分", "打分", "分数")
LIKED = ("liked", "kto_tag", "thumb", "thumbs", "feedback", "label", "点赞")
ANNOTATOR = ("annotator", "annotator_id", "worker", "worker_id", "labeler", "rater", "标注员")
_UP = ("up", "good", "like", "liked", "yes", "true", "1", "+1", "👍", "赞")
_DOWN = ("down", "bad", "dislike", "disliked", "no", "false", "0", "-1", "👎", "踩")


def as_preferences(table: Table, told: Columns, *, labelled: bool = True) -> tuple[Table, Columns]:
    """The same table with `text`, `messages`, `text_b`, `rejected` and what else a record brings, and the columns to read it by.

    labelled: False takes a prompt with one answer too. Raises: as `chat.as_dialogues`; DataError where no column says what was preferred.
    """
    table, rows, there = looked_into(table)
    form = _form(there, rows, told)
    records = table.records
    if form.answers:
        records = _of_lists(table, form, records)
    elif form.verdict and (form.response or form.messages) and labelled:
        records = _of_single(table, form, records)
    elif labelled and not form.paired:
        raise DataError(
            f"{table.name}: no column says which answer was preferred. Give chosen and rejected, answers with ranks or ratings, or a response "
            f"with a rating or a thumb. There are: {', '.join(there)[:400]}."
        )
    columns = () if form.answers or not form.paired else (*there, *(("annotator",) if form.annotator else ()))
    told = replace(told, label=None) if form.answers or form.verdict else told
    if form.annotator:
        records = each(table.name, records, lambda line, values: [{**values, "annotator": values.get(form.annotator or "")}])
    made, found = as_dialogues(replace(table, columns=columns, records=records), told, turns="last")
    if found.label is None:
        raise DataError(f"{table.name}: there are texts and no answers to them. Give prompts with answers.")
    columns = (*(name for name in made.columns if name != "label"), "text_b")
    moved = each(made.name, made.records, lambda line, values: [{**values, "text_b": values.get("label")}])
    answered = Table(table.name, columns, moved, notes=made.notes)
    return answered, replace(found, label=None, text_b="text_b")


@dataclass(frozen=True)
class _Form:
    """Which columns hold what; None: no such column. verdict: of one answer, its rating or thumb; of several, their ratings or ranks."""

    paired: bool
    answers: str | None
    response: str | None
    messages: str | None
    verdict: str | None
    ranks: bool
    thumbs: bool
    annotator: str | None

    def prompt(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What of a record is neither answer nor verdict."""
        gone = (self.answers, self.response, self.verdict)
        return {name: value for name, value in record.items() if name not in gone}


def _form(there: Sequence[str], rows: Sequence[Mapping[str, Any]], told: Columns) -> _Form:
    lower = {name.casefold(): name for name in reversed(there)}

    def first(wanted: Sequence[str]) -> str | None:
        return next((lower[name] for name in wanted if name in lower), None)

    paired = "chosen" in lower and "rejected" in lower
    answers = next((lower[n] for n in ANSWERS if n in lower and any(isinstance(_list(row.get(lower[n])), list) for row in rows)), None)
    ranks, ratings = first(RANKS), told.label or first(RATINGS)
    thumbs = next((lower[name] for name in LIKED if name in lower and any(_thumb(row.get(lower[name])) is not None for row in rows)), None)
    verdict = (ratings or ranks) if answers else (ratings or thumbs)
    return _Form(
        paired and not answers, answers, None if paired or answers else first(RESPONSE), first(_LISTS), None if paired else verdict,
        verdict is not None and verdict == ranks, verdict is not None and verdict == thumbs and verdict != first(RATINGS), first(ANNOTATOR),
    )  # fmt: skip


def _of_lists(table: Table, form: _Form, records: Records) -> Records:
    """Of each record with a list of answers a record for each two of them, the better one first."""
    assumed = 0

    def rows(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        nonlocal assumed
        answers, worth = _listed(form, values)
        assumed += worth is None
        rated = worth is not None and not form.ranks
        return _pairs(form.prompt(values), list(zip(answers, worth or [-float(place) for place in range(len(answers))])), rated)

    yield from each(table.name, records, rows, form.answers or "")
    if assumed:
        table.notes.append(f"Answers of {assumed:,} records were taken as ranked, the best first.")


def _listed(form: _Form, values: Mapping[str, Any]) -> tuple[list[Any], list[float] | None]:
    """The answers of a record, and what each is worth (more is better), or None where only their order says it. Raises: ValueError."""
    answers, worth = _list(values.get(form.answers or "")), _list(values.get(form.verdict or ""))
    if not isinstance(answers, list) or len(answers) < 2:
        raise ValueError("there are fewer than two answers, so none is preferred to another")
    inside = [name for name in (*RATINGS, *RANKS) if all(isinstance(one, Mapping) and name in one for one in answers)]
    is_rank = form.ranks
    if inside and worth is None:
        worth, is_rank = [one[inside[0]] for one in answers], inside[0] in RANKS
    if worth is not None and (not isinstance(worth, list) or len(worth) != len(answers)):
        raise ValueError(f"{len(answers)} answers and {str(worth)[:40]!r} as what they are worth: one number each is needed")
    texts = [_said(one) for one in answers]
    return texts, None if worth is None else [-_number(one) if is_rank else _number(one) for one in worth]


def _said(answer: Any) -> Any:
    """The text of an answer that is an object with more in it than that."""
    if isinstance(answer, Mapping) and "role" not in answer and "from" not in answer:
        return next((answer[name] for name in ("text", "content", *RESPONSE) if name in answer), answer)
    return answer


def _of_single(table: Table, form: _Form, records: Records) -> Records:
    """Of records with one answer each a record for each two that have the same prompt and another verdict."""
    groups: dict[str, tuple[int, dict[str, Any], list[tuple[Any, float, Any]]]] = {}

    def kept(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        prompt, answer, worth = _single(form, values)
        apart = {name: value for name, value in prompt.items() if name not in ("id", form.annotator)}
        key = json.dumps(apart, sort_keys=True, ensure_ascii=False, default=str)
        groups.setdefault(key, (line, prompt, []))[2].append((answer, worth, values.get(form.annotator or "")))
        return iter(())

    yield from each(table.name, records, kept, form.response or form.messages or "")
    alone = 0
    for line, prompt, answers in groups.values():
        made = list(_pairs(prompt, [(answer, worth) for answer, worth, _ in answers], not form.thumbs))
        alone += not made
        said_by = {who for _, _, who in answers}
        for pair in made:
            if form.annotator and len(said_by) > 1:
                pair[form.annotator] = None  # two people rated the two answers
            yield line, pair
    if alone:
        table.notes.append(f"{alone:,} of {len(groups):,} prompts have no two answers that differ in what people said of them.")


def _single(form: _Form, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any, float]:
    """The prompt of a record, its answer, and what that is worth. Raises: ValueError."""
    prompt, verdict = form.prompt(values), values.get(form.verdict or "")
    if form.thumbs:
        thumb = _thumb(verdict)
        if thumb is None:
            raise ValueError(f"{form.verdict} is {str(verdict)[:40]!r}, which is neither up nor down")
        worth = float(thumb)
    else:
        worth = _number(verdict)
    if form.response:
        answer = values.get(form.response)
    else:
        messages = _list(values.get(form.messages or ""))
        if not isinstance(messages, list) or len(messages) < 2:
            raise ValueError("there is no message with an answer behind a prompt")
        prompt[form.messages or ""], answer = messages[:-1], messages[-1]
    if is_missing(answer):
        raise ValueError("the answer is missing")
    return prompt, answer, worth


def _pairs(prompt: Mapping[str, Any], answers: Sequence[tuple[Any, float]], rated: bool) -> Iterator[dict[str, Any]]:
    """Each two answers that are not worth the same, the better one as chosen. Source: Ouyang et al. 2022, section 3.5 (all pairs of a ranking)."""
    for one, other in combinations(answers, 2):
        if one[1] != other[1]:
            better, worse = (one, other) if one[1] > other[1] else (other, one)
            margin = {"margin": better[1] - worse[1]} if rated else {}
            yield {**prompt, "chosen": better[0], "rejected": worse[0], **margin}


def _list(value: Any) -> Any:
    """A list that may stand as JSON in a string; None for what is missing."""
    try:
        return None if is_missing(value) else plain(value)
    except ValueError:
        return value


def _number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"what the answer is worth is {str(value)[:40]!r}, not a number") from error


def _thumb(value: Any) -> bool | None:
    """True for up, False for down, None for what is neither."""
    word = str(value).strip().casefold()
    return True if word in _UP else False if word in _DOWN else None
