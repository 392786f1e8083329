"""Renders chat templates of strangers in a process that can do nothing else. Run as a file: one JSON request on stdin, a line per text.

The process has no environment, 1 GiB of memory, so many seconds of CPU, and after its imports it may open no file and no socket.
The template runs in jinja's immutable sandbox, set up as transformers 5 does (utils/chat_template_utils.py).
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


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says; nothing to do for it here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def compiled(template: str) -> Callable[..., str]:
    place = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    place.filters["tojson"] = to_json
    place.globals["raise_exception"] = refuse
    place.globals["strftime_now"] = now
    return place.from_string(template).render


def limit(seconds: int) -> None:
    """From here on: little memory, little time, no new files or sockets, nothing written to disk."""
    time.tzset()
    compiled("{{ '\\n' | tojson }}{{ strftime_now('%c') }}")()  # whatever is imported late is imported now
    limits = ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_FSIZE, 0))
    for kind, most in limits:
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(kind, (most, most))


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    limit(int(request["seconds"]))
    try:
        render = compiled(request["template"])
        for messages in request["chats"]:
            text = render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **request["tokens"])
            most = 65536 + 4 * sum(len(message["content"]) for message in messages)
            if len(text) > most:
                refuse(f"{len(text):,} characters, at most {most:,} fit these messages")
            print(json.dumps({"text": text}), flush=True)
    except MemoryError:
        print(json.dumps({"error": "it takes more than 1 GiB of memory"}), flush=True)
    except Exception as error:  # a template may raise anything
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), flush=True)


if __name__ == "__main__":
    main()
