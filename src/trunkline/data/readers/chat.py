"""Instructions, chats and plain text, in the forms that people keep them in, brought to one: the prompt, its messages, and the answer.

Between `formats` (a source as a table) and `read`, like `spans` and `squad`. What is understood, record by record:
    {"messages": [{"role", "content"}, ...]}                           OpenAI; content may be a list of {"type": "text", "text"}
    {"conversations": [{"from", "value"}, ...], "system", "tools"}     ShareGPT: human, gpt, system, function_call, observation
    {"instruction", "input", "output", "system", "history"}            Alpaca; the input stands on a line below the instruction
    {"question", "answer"} and kin                                     two columns, told or found by their names (ASKED, ANSWERED)
    {"text"}, or a .txt file (documents.py)                            plain text to go on from: no answer
    any of these with "chosen" and "rejected" in place of the answer   a preference; also "\\n\\nHuman: ...\\n\\nAssistant: ..." strings
    any of these with "kto_tag", or a "label" that is true or false    one answer that was liked or not

What comes out: `text` (the prompt as shown to people), `messages` (the prompt as {"role", "content"}; roles in ROLES' values), `label` (the
answer), `group` (the same for all rows of dialogues that begin alike: split by it, or an answer of the training rows stands in a test
prompt), and where they were there `tools`, `rejected`, `liked`. A call of a function is the assistant's message, its JSON the content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trunkline.data.cells import fold, is_missing
from trunkline.data.columns import Columns
from trunkline.data.readers.spans import clean, plain
from trunkline.data.table import Records, Table, each, looked_into
from trunkline.errors import DataError, unknown

Message = dict[str, str]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
"""Every name of a speaker that is known, and the role that it is."""
TURNS = ("all", "last")
ASKED = ("instruction", "prompt", "question", "query", "ask", "问题", "提问", "指令", "input", "text")
ANSWERED = ("output", "response", "completion", "answer", "canonical_solution", "reply", "回答", "答案", "输出", "target", "label")
TEXT = ("text", "content", "document", "body", "文本", "内容", "正文")
_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog")
_TOOLS = ("tools", "functions")
_SPEAKERS = re.compile(r"\n\n(Human|Assistant):")


def as_dialogues(table: Table, told: Columns, *, labelled: bool = True, turns: str = "all") -> tuple[Table, Columns]:
    """The same table with `text`, `messages`, `label`, `group` and what else a record brings, and the columns to read it by.

    turns: "all" makes a row of every answer of a dialogue, with all that was said before it as its prompt; "last" of its last answer only.
    A preference or a liked answer is always the last one. labelled: False makes one row of each dialogue, its last message the prompt's
    end unless that is an answer, which then is the label.

    The columns have no label where records are plain text, or where none is asked for.
    Raises: OptionError for a told column that is not there or an unknown `turns`; DataError where no column has dialogues or texts.
    """
    if turns not in TURNS:
        raise unknown("turns", turns, TURNS)
    table, rows, there = looked_into(table)
    form = _form(table, there, rows, told)
    kept = tuple(name for name in (told.id, told.group, told.time, "split", "id") if name and name in there)
    kept += tuple(name for name in ("margin", "annotator") if name in there)
    columns = ("text", "messages", "label", "group", "tools", "rejected", "liked", *kept)
    made = Table(table.name, tuple(dict.fromkeys(columns)), _records(table, form, (labelled, turns), kept), notes=table.notes)
    group = told.group or (None if form.is_plain else "group")
    return made, replace(told, text="text", label="label" if labelled and not form.is_plain else None, group=group)


def shown(messages: Sequence[Message]) -> str:
    """A prompt as people read it: a single question as it stands, else each message behind its speaker.

    >>> shown([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}])
    'User: Hi\\nAssistant: Hello\\nUser: Bye'
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


@dataclass
class _Form:
    """Which columns hold what (None: no such column), and what was done on the way, for the notes."""

    messages: str | None
    asked: str | None
    answered: str | None
    preferred: bool
    done: dict[str, list[int]] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Texts to go on from, which nobody asked."""
        return self.messages is None and self.answered is None and not self.preferred and (self.asked or "").casefold() in TEXT

    def count(self, what: str, line: int) -> None:
        self.done.setdefault(what, [0, line])[0] += 1

    def notes(self) -> Iterator[str]:
        for what, (count, line) in self.done.items():
            yield f"{what}: {count:,} (the first at {line})."


@dataclass
class _Dialogue:
    """One record as messages; `answered` where its last message is the one answer to learn, and not every turn."""

    messages: list[Message]
    extra: dict[str, Any]
    answered: bool = False


def _form(table: Table, there: Sequence[str], rows: Sequence[Mapping[str, Any]], told: Columns) -> _Form:
    """Raises: OptionError, DataError."""
    if not there:
        raise DataError(f"{table.name}: no rows. Give some with messages, an instruction and its output, or a text.")
    for name in told.told().values():
        if name not in there:
            raise unknown(f"{table.name}: column", name, there)
    lower = {name.casefold(): name for name in reversed(there)}
    preferred = "chosen" in lower and "rejected" in lower and told.label is None
    messages = told.text if told.text and any(isinstance(_quiet(row.get(told.text)), list) for row in rows) else None
    if told.text is None:
        messages = next((lower[n] for n in _LISTS if n in lower and any(isinstance(_quiet(row.get(lower[n])), list) for row in rows)), None)
    answers = [lower[name] for name in ANSWERED if name in lower and not any(_is_flag(row.get(lower[name])) for row in rows)]
    answered = told.label or next((name for name in answers if name != told.text), None)
    asked = told.text or next((lower[name] for name in (*ASKED, *TEXT) if name in lower and lower[name] != answered), None)
    if messages is None and asked is None and not preferred:
        raise DataError(
            f"{table.name}: no column looks like messages, an instruction or a text. Say which ones: text=NAME (what is asked) and "
            f"label=NAME (the answer). There are: {', '.join(there)[:400]}."
        )
    guessed = [("text", messages or asked), ("label", answered if messages is None and not preferred else None)]
    said = [f"{what} = column {name!r}" for what, name in guessed if name and not getattr(told, what) and name != what]
    if said:
        table.notes.append(f"Guessed: {', '.join(said)}. To choose, give {' and '.join(one.split()[0] for one in said)} yourself.")
    return _Form(messages, asked, answered, preferred)


def _records(table: Table, form: _Form, how: tuple[bool, str], kept: Sequence[str]) -> Records:
    def rows(line: int, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        carried = {name: values.get(name) for name in kept}
        yield from ({**row, **carried} for row in _rows(form, line, values, how))

    yield from each(table.name, table.records, rows, form.messages or form.asked or "")
    table.notes.extend(form.notes())


def _rows(form: _Form, line: int, record: Mapping[str, Any], how: tuple[bool, str]) -> Iterator[dict[str, Any]]:
    """The rows of one record. Raises: ValueError with what is wrong with it."""
    labelled, turns = how
    if form.is_plain:
        yield {"text": _text(record.get(form.asked or ""), "the text")}
        return
    dialogue = _dialogue(form, line, record)
    messages = _ordered(form, line, dialogue.messages)
    places = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if not labelled:
        places = [at for at in places[-1:] if at == len(messages) - 1]
        if not places:
            yield _row(messages, None, messages, dialogue.extra)
    elif not places:
        raise ValueError("there is no answer: no message of the assistant, or the answer is empty")
    elif places[-1] < len(messages) - 1:
        form.count("Dialogues that go on after the last answer; the rest was left out", line)
    for at in places[-1:] if turns == "last" or dialogue.answered else places:
        yield _row(messages[:at], messages[at]["content"], messages, dialogue.extra)


def _row(prompt: list[Message], answer: str | None, whole: Sequence[Message], extra: Mapping[str, Any]) -> dict[str, Any]:
    first = next(message["content"] for message in whole if message["role"] == "user")
    row: dict[str, Any] = {"text": shown(prompt), "messages": prompt}
    if answer is not None:
        row["label"] = answer
    return {**row, "group": hashlib.sha256(fold(first).encode()).hexdigest()[:16], **extra}


def _dialogue(form: _Form, line: int, record: Mapping[str, Any]) -> _Dialogue:
    """The messages of a record in whatever form, and its tools, preference and liking. Raises: ValueError."""
    extra: dict[str, Any] = {}
    tools = next((record[name] for name in _TOOLS if not is_missing(record.get(name)) and record[name] != []), None)
    if tools is not None:
        extra["tools"] = tools if isinstance(tools, str) else json.dumps(plain(tools), ensure_ascii=False)
    if not is_missing(record.get("images")) and record.get("images"):
        form.count("Dialogues about pictures, of which only the text is read", line)
    messages = _asked(form, record)
    if form.preferred and not is_missing(record.get("chosen")):
        chosen, rejected = _preference(messages, record["chosen"], record.get("rejected"))
        return _Dialogue(chosen, {**extra, "rejected": rejected}, True)
    answer = record.get(form.answered) if form.answered else None
    if isinstance(answer, str) and answer.strip() and (form.messages is None or (messages and messages[-1]["role"] != "assistant")):
        messages = [*messages, {"role": "assistant", "content": _text(answer, "the answer")}]
    elif form.messages is None and not is_missing(answer):
        raise ValueError(f"the answer is a {type(answer).__name__}, not a string")
    liked = next((record[name] for name in ("kto_tag", "label", "liked") if _is_flag(record.get(name))), None)
    return _Dialogue(messages, extra if liked is None else {**extra, "liked": bool(liked)}, liked is not None)


def _asked(form: _Form, record: Mapping[str, Any]) -> list[Message]:
    """All messages that a record brings as such; of an instruction and its kin the prompt."""
    system = record.get("system")
    found = [{"role": "system", "content": clean(system)}] if isinstance(system, str) and system.strip() else []
    if form.messages is not None:
        return found + _messages(plain(record.get(form.messages)))
    if form.preferred and form.asked is None:
        return found
    for turn in plain(record.get("history")) or ():
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise ValueError(f"history holds {str(turn)[:60]!r}, which is no [question, answer]")
        found += [{"role": role, "content": _text(said, f"a {role} message in history")} for role, said in zip(("user", "assistant"), turn)]
    value = _unpacked(record.get(form.asked or ""))
    if isinstance(value, list | tuple):
        return found + _messages(value)
    asked = _text(value, f"{form.asked!r}")
    more = record.get("input") if form.asked != "input" and form.answered != "input" else None
    if isinstance(more, str) and more.strip():
        asked = f"{asked}\n{clean(more)}"
    return [*found, {"role": "user", "content": asked}]


def _messages(value: Any) -> list[Message]:
    """A list of messages in our roles. Raises: ValueError."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("there are no messages" if not value else f"the messages are a {type(value).__name__}, not a list")
    found = []
    for place, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {place} is a {type(message).__name__}, not an object with a role and a content")
        speaker = message.get("role", message.get("from"))
        if not isinstance(speaker, str) or speaker.casefold() not in ROLES:
            raise ValueError(f"message {place} is of {str(speaker)[:40]!r}, which is no known role; known are {', '.join(ROLES)}")
        role = ROLES[speaker.casefold()]
        content = _content(message, place)
        found.append({"role": role, "content": _text(content, "the answer" if role == "assistant" else f"the {role}'s message", place)})
    return found


def _content(message: Mapping[str, Any], place: int) -> Any:
    """What a message says, as one string; the calls of functions as JSON. Raises: ValueError for a part that is no text."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, str) and not (isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text")):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise ValueError(f"message {place} holds a part of type {str(kind)[:40]!r}; only text is read")
        content = "".join(part if isinstance(part, str) else str(part.get("text", part.get("value", ""))) for part in content)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        made = [one.get("function", one) if isinstance(one, Mapping) else one for one in calls]
        written = json.dumps(made[0] if len(made) == 1 else made, ensure_ascii=False)
        content = f"{content}\n{written}" if isinstance(content, str) and content.strip() else written
    return content


def _ordered(form: _Form, line: int, messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role joined. Raises: ValueError where no question comes first."""
    found = _joined(messages)
    if len(found) < len(messages):
        form.count("Dialogues in which neighbouring messages of one speaker were joined", line)
    first = next((message["role"] for message in found if message["role"] != "system"), None)
    if first is None:
        raise ValueError("there is no question (no message of the user)")
    if first != "user":
        raise ValueError(f"{'an answer' if first == 'assistant' else 'the result of a tool'} stands before the first question")
    return found


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role joined by a line break; the results of tools stay apart."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"] != "tool":
            found[-1] = {**message, "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append(message)
    return found


def _preference(prompt: list[Message], chosen: Any, rejected: Any) -> tuple[list[Message], str]:
    """The dialogue with its chosen answer, and the rejected answer. Raises: ValueError where the two do not answer the same."""
    good, bad = _answers(chosen, "chosen"), _answers(rejected, "rejected")
    if good[:-1] != bad[:-1]:
        raise ValueError("chosen and rejected differ before their last message, so they do not answer the same")
    before = good[:-1] if good[: len(prompt)] == prompt else [*prompt, *good[:-1]]
    return [*before, good[-1]], _joined([*before, bad[-1]])[-1]["content"]


def _answers(value: Any, what: str) -> list[Message]:
    """One answer, with the dialogue before it where that stands in the same field."""
    value = _unpacked(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and _SPEAKERS.match(value):
        _, *parts = _SPEAKERS.split(value)
        value = [{"role": speaker, "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2])]
    found = _messages(value) if isinstance(value, list | tuple) else [{"role": "assistant", "content": _text(value, what)}]
    if found[-1]["role"] != "assistant":
        raise ValueError(f"{what} ends with a message of the {found[-1]['role']}, not with an answer")
    return found


def _unpacked(value: Any) -> Any:
    """Messages that stand as JSON in a string; anything else as it is, for an answer may well be JSON itself."""
    if not isinstance(value, str):
        return plain(value)
    found = _quiet(value) if value.lstrip()[:2] in ("[{", '{"') else None
    one = found[0] if isinstance(found, list) and found else found
    return found if isinstance(one, Mapping) and ("role" in one or "from" in one) else value


def _text(value: Any, what: str, place: int | None = None) -> str:
    """A text with something in it; `what` and `place` name it in a message. Raises: ValueError."""
    what += f" (message {place})" if place is not None else ""
    if not isinstance(value, str):
        raise ValueError(f"{what} is missing" if is_missing(value) else f"{what} is a {type(value).__name__}, not a string")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    damage = re.search("[\x00\ud800-\udfff]", value)
    if damage:
        raise ValueError(f"{what} holds U+{ord(damage[0]):04X} at character {damage.start() + 1:,}: it was damaged on the way")
    return clean(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ == "bool_"


def _quiet(value: Any) -> Any:
    try:
        return plain(value)
    except ValueError:
        return None
