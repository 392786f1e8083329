"""Render untrusted chat templates in a restricted process. Run as a file: one JSON request on stdin, one JSON line per text on stdout.

The process has no environment variables, 1 GiB of memory and limited CPU time; after its imports it cannot open files or sockets.
The template runs in jinja's immutable sandbox, set up as in transformers 5 (utils/chat_template_utils.py).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jinja2.debug
import jinja2.ext
import jinja2.sandbox

MEMORY = 1 << 30
PROBE = "a probe of the template"


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the text of the assistant; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def refuse(message: object) -> None:
    """Raise an error, as `raise_exception` in a template does."""
    raise jinja2.TemplateError(str(message))


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(template: str, date: str) -> Callable[..., str]:
    """A template's render function. `strftime_now` is noon of `date`, so that a prompt is the same tomorrow."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime.datetime.fromisoformat(f"{date}T12:00").strftime
    return environment.from_string(template).render


def as_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text as a list of one content part."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def needs_parts(render: Callable[..., str], options: dict[str, Any]) -> bool:
    """Whether the template shows a message's text only as a content part: those of some multimodal models loop over parts, and over
    nothing, or over letters, if the content is a string. Their processors are called with parts."""
    message = {"role": "user", "content": PROBE}

    def shows(each: dict[str, Any]) -> bool:
        try:
            return PROBE in render(**{**options, "messages": [each]})
        except Exception:  # a template may reject one of the two forms in any way
            return False

    return not shows(message) and shows(as_parts(message))


def set_limits(seconds: int) -> None:
    """Limit memory and CPU time, and forbid new files, sockets and writing to disk."""
    time.tzset()
    compile_template("{{ '\\n' | tojson }}{{ strftime_now('%c') }}", "2026-01-01")()  # imports what jinja would import later
    limits = ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_FSIZE, 0))
    for kind, most in limits:
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(kind, (most, most))


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    set_limits(int(request["seconds"]))
    try:
        render = compile_template(request["template"], request["date"])
        options = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": request["prompt"],
            **request["tokens"],
            **request["arguments"],
        }
        in_parts = needs_parts(render, options)
        for messages in request["chats"]:
            text = render(**{**options, "messages": [*map(as_parts, messages)] if in_parts else messages})
            most = 65536 + 4 * sum(len(message["content"]) for message in messages)
            if len(text) > most:
                refuse(f"it returned {len(text):,} characters, the maximum for these messages is {most:,}")
            print(json.dumps({"text": text}), flush=True)
    except MemoryError:
        print(json.dumps({"error": "it takes more than 1 GiB of memory"}), flush=True)
    except Exception as error:  # a template may raise anything
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), flush=True)


if __name__ == "__main__":
    main()
