"""Renders one chat template for `chat`, as a program of its own: within limits of time and memory, and with nothing of ours loaded.

It is given no text of anybody: each message holds a mark in place of what it says. Reads one JSON object from its input (template, roles,
tokens, add_answer_prompt, limits, where jinja2 lies) and writes one: {"rendered", "padded"}, or {"refused"} or {"raised"} with the reason.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PAD = " \n"
"""What stands on both sides of every mark in "padded": where it is gone, the template strips that side."""


def main() -> None:
    """Read a template and its values from standard input, and write what it makes of them to standard output."""
    job = json.load(sys.stdin)
    _limit(job["seconds"], job["bytes"])
    sys.path += job["paths"]
    try:
        answer = _render(job)
    except RecursionError:
        answer = {"refused": "it is nested too deeply"}
    except MemoryError:
        answer = {"refused": f"it takes more than {job['bytes'] >> 20} MB of memory"}
    json.dump(answer, sys.stdout)


def _limit(seconds: int, size: int) -> None:
    """Limits that the process cannot lift again; what a system does not know (macOS: memory) is passed over."""
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {"RLIMIT_CPU": seconds, "RLIMIT_AS": size, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    for name, value in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            continue


def _given(job: dict[str, Any], pad: str) -> dict[str, Any]:
    """What the template sees: messages that hold a mark each, with `pad` on both sides of it."""
    messages = [{"role": role, "content": pad + mark + pad[::-1]} for role, mark in zip(job["roles"], job["marks"])]
    return {**job["tokens"], "messages": messages, "add_generation_prompt": job["add_answer_prompt"], "tools": None, "documents": None}


def _render(job: dict[str, Any]) -> dict[str, str]:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Raised(Exception):
        """The template itself says that it cannot take these messages."""

    class Generation(Extension):
        """`{% generation %}`, with which some templates mark the answers: here its inside counts as if it stood there alone."""

        tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: object) -> None:
        raise Raised(str(message)[:500])

    class Environment(ImmutableSandboxedEnvironment):
        """Says at once what the library would leave undefined, and so be printed as nothing."""

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"{attribute[:40]!r} of a {type(obj).__name__} is unsafe")

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    try:
        found = _forbidden(environment.parse(job["template"]), nodes)
        if found:
            return {"refused": found}
        template = environment.from_string(job["template"], globals={"raise_exception": raise_exception})
        texts: dict[str, str] = {}
        for name, pad in (("rendered", ""), ("padded", PAD)):
            text = _within(template.generate(_given(job, pad)), job["characters"])
            if text is None:
                return {"refused": f"it writes more than {job['characters']:,} characters"}
            texts[name] = text
        return texts
    except Raised as error:
        return {"raised": str(error)}
    except SecurityError as error:
        return {"refused": f"it does what is not allowed: {error}"}
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        return {"refused": f"{type(error).__name__}: {str(error)[:300]}"}


def _forbidden(tree: Any, nodes: Any) -> str | None:
    """What in a template could reach beyond its messages. (The sandbox forbids it too; here it is found before anything runs.)"""
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        return f"line {node.lineno}: it loads another template"
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        if isinstance(name, str) and name.startswith("_"):
            return f"line {node.lineno}: it asks for {name[:40]!r}, which belongs to Python and not to a message"
    return None


def _within(pieces: Any, most: int) -> str | None:
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            return None
        found.append(piece)
    return "".join(found)


if __name__ == "__main__":
    main()
