"""`read_options`: a YAML or JSON file of options as a dict, for `trunkline tune --config FILE`.

Safe by construction: events are counted before anything is built, so an alias bomb never grows; `yaml.safe_load` alone does not
protect against one (Source: js-yaml issue 742, pyyaml issue 235). Allowed are mappings with string keys, lists, strings, numbers,
true, false and null. No aliases, anchors, tags, merge keys, duplicate keys, NaN or infinity. Whether a key is known is for the
caller to say.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from trunkline.errors import DataError
from trunkline.storage import from_json

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 10_000
_MAX_DIGITS = 1000
_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+$")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same parser in C where it was built


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What a plain scalar is: PyYAML's own table (YAML 1.1), without dates, `<<` and `=`, and with 1e-3 as a number (YAML 1.2)."""
    dropped = {f"{_TAG}{name}" for name in ("timestamp", "merge", "value")}
    table = {
        first: [(tag, pattern) for tag, pattern in found if tag not in dropped]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "+-.0123456789":
        table.setdefault(first, []).append((f"{_TAG}float", _FLOAT))
    return table


class _Loader(_Base):
    """PyYAML's loader with our table of plain scalars."""

    yaml_implicit_resolvers = _resolvers()


def read_options(path: str | Path) -> dict[str, Any]:
    """The options in a .yaml, .yml or .json file.

    Raises: DataError with path:line for a file that is too large or deep, not well formed, or holds what is not allowed.
    """
    path = Path(path)
    form = {".yaml": _yaml, ".yml": _yaml, ".json": _json}.get(path.suffix.lower())
    if form is None:
        raise DataError(f"{path}: the ending {path.suffix!r} is not known. Option files end in .yaml, .yml or .json.")
    if not path.is_file():
        raise DataError(f"{path}: no such file. Look at the path.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: over {MAX_BYTES:,} bytes, the most that an option file may have.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    options = form(path, text)
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise DataError(f"{path}:1: the file holds a {type(options).__name__}. Write one option per line, as in `depth: 2`.")
    return options


def lines_of(path: str | Path) -> dict[tuple[str, ...], int]:
    """The line of each key of a YAML file that `read_options` takes, by the keys that lead to it; those of a JSON file are not known."""
    path, found = Path(path), dict[tuple[str, ...], int]()
    if path.suffix.lower() == ".json":
        return found
    node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    waiting: list[tuple[tuple[str, ...], Any]] = [((), node)]
    while waiting:
        before, outer = waiting.pop()
        for key, inner in outer.value if isinstance(outer, yaml.MappingNode) else ():
            found[(*before, key.value)] = key.start_mark.line + 1
            waiting.append(((*before, key.value), inner))
    return found


def _json(path: Path, text: str) -> Any:
    try:
        value = from_json(text.encode(), str(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON: {error.msg} (column {error.colno}).") from error
    except ValueError as error:
        raise DataError(f"{path}:{_line_of(text, str(error))}: {str(error).removeprefix(f'{path}: ')}. Take it out.") from error
    _bounded(path, value)
    return value


def _line_of(text: str, reason: str) -> int:
    """The line of what `from_json` refused: it names a key or a constant, not the place; of a key the second mention counts."""
    name = re.search(r"duplicate key '(.*)'$|^(-?\w+) is not JSON$", reason)
    if name is None:
        return 1
    sought = json.dumps(name[1], ensure_ascii=False) + r"\s*:" if name[1] is not None else name[2]
    places = [found.start() for found in re.finditer(sought, text)]
    return text.count("\n", 0, places[min(1 if name[1] is not None else 0, len(places) - 1)]) + 1 if places else 1


def _bounded(path: Path, value: Any) -> None:
    level, depth, nodes = [value], 0, 0
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise DataError(f"{path}:1: over {MAX_NODES:,} values, or nested deeper than {MAX_DEPTH}. Option files are small.")
        level = [
            inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
        if any(isinstance(inner, float) and not math.isfinite(inner) for inner in level):
            raise DataError(f"{path}:1: a number is too large for a float. Write a smaller one.")


def _yaml(path: Path, text: str) -> Any:
    try:
        _check_events(path, text)
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(path, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DataError(f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}:1: is not YAML: {' '.join(str(error).split())[:200]}.") from error


def _check_events(path: Path, text: str) -> None:
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if event.anchor is not None:
                raise DataError(f"{where}: the anchor or alias {event.anchor!r}. They are not read: write the value out.")
            if getattr(event, "tag", None) is not None:
                raise DataError(f"{where}: a tag ({event.tag}). Tags are not read: write a plain value.")  # type: ignore[attr-defined]
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES or documents > 1:
            raise DataError(
                f"{where}: over {MAX_NODES:,} values, nested deeper than {MAX_DEPTH}, or a second document. Write a small file."
            )


def _value(path: Path, node: yaml.Node) -> Any:
    """The Python value of a node. The depth was checked, so this cannot run away."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(path, inner) for inner in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, inner in node.value:
            key, line = _value(path, key_node), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise DataError(f"{path}:{line}: the key {key!r} is not a string. Put it in quotes, if it is one.")
            if key in found:
                raise DataError(f"{path}:{line}: the key {key!r} stands there twice. Keep one.")
            found[key] = _value(path, inner)
        return found
    return _scalar(path, node)


def _scalar(path: Path, node: Any) -> Any:
    line, kind = node.start_mark.line + 1, node.tag.removeprefix(_TAG)
    if kind in ("int", "float") and len(node.value) > _MAX_DIGITS:
        raise DataError(f"{path}:{line}: a number of {len(node.value):,} characters. Write a shorter one.")
    make = yaml.constructor.SafeConstructor()
    readers = {
        "null": make.construct_yaml_null,
        "bool": make.construct_yaml_bool,
        "int": make.construct_yaml_int,
        "float": make.construct_yaml_float,
    }
    try:
        value = readers.get(kind, make.construct_scalar)(node)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}:{line}: {node.value[:80]!r} is no {kind}.") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{path}:{line}: {node.value[:80]!r}: infinity and NaN are not allowed here.")
    return value
