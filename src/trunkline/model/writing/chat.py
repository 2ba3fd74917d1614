"""Messages to token ids by the model's own chat template, in a sandbox, with nothing that a user writes able to act as a control token.

The template is code of whoever made the model. So it runs in a process of its own (template_child.py: jinja2's immutable sandbox, no
loader, no filters but jinja2's; limits on its size, output, time and memory), and it never sees what anybody wrote: every message holds a
mark, and the texts take the marks' places afterwards. What it makes depends on the roles alone, so one run serves all dialogues of a shape.

Where the template strips white space from a message (it is found by trying), so do we. What else it does with the text of a message, such
as leaving out earlier thoughts, cannot happen here. Between template and texts, control tokens count only where the template wrote them.

Models without a template get this form, with the token for the end of a text behind each answer, where there is one:
    System: ...
    User: ...
    Assistant: ...
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from trunkline.errors import DataError, ModelError, OptionError
from trunkline.model.tokenizer import Tokenizer
from trunkline.model.writing.template_child import PAD

ROLES = ("system", "user", "assistant", "tool")
MAX_TEMPLATE = 100_000  # characters
MAX_OUTPUT = 1_000_000  # characters, texts of messages not counted
MAX_SECONDS = 2  # of processor time; of the clock five times that
MAX_MEMORY = 512 << 20  # bytes
_MARK = re.compile("\ue000x(\\d+)X\ue001")  # letters of both cases, so that a change of case is seen
_CHILD = Path(__file__).with_name("template_child.py")


@dataclass(frozen=True)
class Span:
    """Which tokens are of which message: ids[start:end]. Of the assistant's messages, the token that ends them is among them."""

    message: int
    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """ids: (T,) int32; spans: of each message that the template shows, in order. What is in no span the template wrote."""

    ids: np.ndarray
    spans: tuple[Span, ...]

    def of(self, *messages: int) -> np.ndarray:
        """(T,) bool: the tokens of these messages (counted from 0)."""
        mask = np.zeros(len(self.ids), dtype=bool)
        for span in self.spans:
            mask[span.start : span.end] |= span.message in messages
        return mask


@dataclass(frozen=True)
class _Part:
    """A piece of what is encoded: the template's own text, or (message: its number) a message, stripped on which sides."""

    text: str = ""
    message: int | None = None
    strip: tuple[bool, bool] = (False, False)


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_answer_prompt: bool) -> Rendered:
    """The ids of a dialogue as the model was taught to read one. `messages`: each {"role", "content"}, roles as in ROLES.

    add_answer_prompt: end with what stands before an answer, for the model to go on from
    Raises: OptionError for a message of another form; DataError where the template says that it cannot take these messages (two users in
    a row, a system message); ModelError for a template that is too large, does not end, or does what is not allowed.
    """
    if not messages:
        raise OptionError("messages=[]: give at least one message, such as {'role': 'user', 'content': 'Hello'}.")
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise OptionError(
                f"message {place + 1} is {str(message)[:80]!r}: use a role ({', '.join(ROLES)}) and a content that is a text."
            )
    roles = tuple(message["role"] for message in messages)
    parts = _parts(_template(tokenizer), tuple(sorted(tokenizer.special_tokens.items())), roles, add_answer_prompt)
    texts = [part.text if part.message is None else _stripped(messages[part.message]["content"], part.strip) for part in parts]
    ids, owners = _joined(tokenizer, parts, texts)
    return Rendered(np.array(ids, dtype=np.int32), tuple(_spans(tokenizer, parts, ids, owners, roles)))


def template_id(tokenizer: Tokenizer) -> str:
    """SHA-256 of the chat template, or "plain" where there is none: a branch tuned with one must be asked with the same."""
    template = _template(tokenizer)
    return "plain" if template is None else hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()


def _template(tokenizer: Tokenizer) -> str | None:
    found = tokenizer.chat_template
    if isinstance(found, Mapping):
        if "default" not in found:
            raise ModelError(f"the model's chat templates are {', '.join(map(str, found))}, and none is 'default'. Name one so.")
        found = found["default"]
    return found


@functools.lru_cache(maxsize=4096)
def _parts(template: str | None, tokens: tuple[tuple[str, str], ...], roles: tuple[str, ...], add_answer_prompt: bool) -> tuple[_Part, ...]:
    """What the template makes of messages with these roles. Raises: ModelError, DataError."""
    if template is None:
        return _plain(dict(tokens), roles, add_answer_prompt)
    if len(template) > MAX_TEMPLATE or "\ue000" in template:
        raise ModelError(f"the model's chat template is refused: it has {len(template):,} characters or odd ones. {_ADVICE}")
    marks = [f"\ue000x{number}X\ue001" for number in range(len(roles))]
    job = {
        "template": template,
        "roles": roles,
        "marks": marks,
        "tokens": {k: v for k, v in tokens if k != "start"},
        "add_answer_prompt": add_answer_prompt,
    }
    made = _run(job)
    return _pieces(made["rendered"], made["padded"])


_ADVICE = "Look at it (chat_template.jinja, or tokenizer_config.json), and replace it by one that you trust."


def _run(job: dict[str, Any]) -> dict[str, str]:
    """One run of template_child.py. Raises: ModelError, DataError."""
    paths = list(dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in (jinja2, markupsafe)))
    job |= {"paths": paths, "seconds": MAX_SECONDS, "bytes": MAX_MEMORY, "characters": MAX_OUTPUT}
    command = [sys.executable, "-I", "-S", str(_CHILD)]
    try:
        done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, timeout=5 * MAX_SECONDS, env={}, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"the model's chat template is refused: it did not end within {5 * MAX_SECONDS} seconds. {_ADVICE}") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        why = f"it takes more than {MAX_SECONDS} seconds or {MAX_MEMORY >> 20} MB" if done.returncode < 0 else last[0][:300]
        raise ModelError(f"the model's chat template is refused: {why}. {_ADVICE}")
    answer: dict[str, str] = json.loads(done.stdout)
    if "refused" in answer:
        raise ModelError(f"the model's chat template is refused: {answer['refused']}. {_ADVICE}")
    if "raised" in answer:
        raise DataError(f"the model's chat template does not take messages of {', '.join(job['roles'])}: {answer['raised']}")
    return answer


def _pieces(rendered: str, padded: str) -> tuple[_Part, ...]:
    """A rendered template cut at its marks. Raises: ModelError where a mark did not come through whole."""
    if "\ue000" in (left := _MARK.sub("", rendered)) or "\ue001" in left or "ue000" in left:
        raise ModelError(f"the model's chat template is refused: it changes the texts of messages, and how cannot be followed. {_ADVICE}")
    strips = []
    for found in _MARK.finditer(padded):
        strips.append((not padded.endswith(PAD, 0, found.start()), not padded.startswith(PAD[::-1], found.end())))
    parts, at = [], 0
    for found, strip in zip(_MARK.finditer(rendered), strips, strict=True):
        parts += [_Part(rendered[at : found.start()]), _Part(message=int(found[1]), strip=strip)]
        at = found.end()
    return (*parts, _Part(rendered[at:]))


def _plain(tokens: Mapping[str, str], roles: Sequence[str], add_answer_prompt: bool) -> tuple[_Part, ...]:
    """The form of models without a template."""
    parts, before = [], tokens.get("start", "")
    for number, role in enumerate(roles):
        parts += [_Part(f"{before}{role.capitalize()}: "), _Part(message=number)]
        before = (tokens.get("eos_token", "") if role == "assistant" else "") + "\n"
    return (*parts, _Part(before + ("Assistant:" if add_answer_prompt else "")))


def _stripped(text: str, sides: tuple[bool, bool]) -> str:
    text = text.lstrip() if sides[0] else text
    return text.rstrip() if sides[1] else text


def _joined(tokenizer: Tokenizer, parts: Sequence[_Part], texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Ids, and for each the number of its part. In one piece, as the model's makers do it, where no message makes a control token of its own;
    else part by part, the messages as plain text.
    """
    whole = "".join(texts)
    encoding = tokenizer.controlled.encode(whole, add_special_tokens=False)
    owners = _owners(encoding.offsets, parts, texts)
    made = zip(encoding.ids, encoding.offsets, owners)
    if not any(parts[owner].message is not None and tokenizer.acts(one, whole[start:end]) for one, (start, end), owner in made):
        return encoding.ids, owners
    ids: list[int] = []
    owners = []
    for number, (part, text) in enumerate(zip(parts, texts)):
        one = tokenizer.written(text) if part.message is not None else tokenizer.controlled.encode(text, add_special_tokens=False).ids
        ids += one
        owners += [number] * len(one)
    return ids, owners


def _owners(offsets: Sequence[tuple[int, int]], parts: Sequence[_Part], texts: Sequence[str]) -> list[int]:
    """The part of each token: of several that it reaches into, a message before the template."""
    ends = np.cumsum([len(text) for text in texts])
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(ends, places[:, 0], side="right").clip(max=len(parts) - 1)
    last = np.searchsorted(ends, np.maximum(places[:, 0], places[:, 1] - 1), side="right").clip(max=len(parts) - 1)
    owners: list[int] = first.tolist()
    for at in np.flatnonzero(last > first).tolist():
        reached = range(owners[at], int(last[at]) + 1)
        owners[at] = next((part for part in reached if parts[part].message is not None and texts[part]), reached[0])
    return owners


def _spans(tokenizer: Tokenizer, parts: Sequence[_Part], ids: Sequence[int], owners: Sequence[int], roles: Sequence[str]) -> list[Span]:
    found, places = [], np.array(owners)
    for number, part in enumerate(parts):
        if part.message is None:
            continue
        own = np.flatnonzero(places == number)
        if len(own):
            start, end = int(own[0]), int(own[-1]) + 1
            found.append(Span(part.message, start, _closed(tokenizer, ids, end) if roles[part.message] == "assistant" else end))
    return found


def _closed(tokenizer: Tokenizer, ids: Sequence[int], end: int) -> int:
    """Behind the control token that ends an answer, where nothing but white space stands before it; else `end` itself."""
    for at in range(end, min(end + 3, len(ids))):
        if ids[at] in tokenizer.never_written:
            return at + 1
        if tokenizer.text([ids[at]]).strip():
            break
    return end
