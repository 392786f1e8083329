"""stdout is data, stderr is progress. On a terminal a bar with rate and time left; elsewhere plain lines."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from assay.harness.errors import AssayError
from assay.harness.run.evaluate import Unwatched, Watch
from assay.harness.store.provenance import clock

PLAIN_SECONDS = 10.0


def err() -> Console:
    return cleaned(Console(stderr=True, highlight=False, emoji=False))


def out() -> Console:
    """Tables never wrap into ruin when piped: a pipe is as wide as the data."""
    return cleaned(Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160))


def cleaned(console: Console) -> Console:
    """The console, showing text of strangers as text: no escape sequence of theirs reaches a terminal, no command a build server."""
    console.push_render_hook(Cleaning())
    return console


class Cleaning(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Clean(each) for each in renderables]


@dataclass(frozen=True, slots=True)
class Clean:
    """What it wraps, with control, bidirectional and other invisible characters replaced, and no line that begins with `::`."""

    inner: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fresh = True
        for segment in console.render(self.inner, options):
            if segment.control:
                yield segment
                continue
            text = plain(segment.text)
            lines = [broken(line) if at or fresh else line for at, line in enumerate(text.split("\n"))]
            fresh = not lines[-1].strip() if len(lines) > 1 else fresh and not text.strip()
            yield Segment("\n".join(lines), segment.style)


def broken(line: str) -> str:
    """A line that build servers take for no command of theirs."""
    return line.replace("::", ":\u2060:", 1) if line.lstrip().startswith("::") else line


def plain(text: str) -> str:
    """Characters that are no print become spaces or a replacement character; lines stay."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else " " if unicodedata.category(sign) == "Zs" else "\ufffd" for sign in text
    )


def tell_broken(plugins: Sequence[AssayError]) -> None:
    """A note on stderr for each plugin that is left out because it does not load."""
    for error in plugins:
        err().print("left out: " + " ".join(str(error).split()), style="yellow", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Exactly one JSON object on stdout; NaN is refused."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


class Bars:
    """A progress bar per task: items done, rate in items and tokens, time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.current: TaskID | None = None
        self.head = progress.add_task("", total=None, rate="")
        self.tokens, self.items, self.started = 0, 0, clock()

    def stage(self, text: str) -> None:
        self.progress.update(self.head, description=escape(plain(text)), visible=True)

    def begin(self, task: str, items: int, done: int) -> None:
        self.progress.update(self.head, visible=False)
        self.current = self.progress.add_task(escape(plain(task)), total=items, completed=done, rate="")
        self.tokens, self.items, self.started = 0, 0, clock()

    def advance(self, items: int, tokens: int) -> None:
        self.tokens += tokens
        self.items += items
        elapsed = max(clock() - self.started, 1e-6)
        if self.current is not None:
            rate = f"{self.items / elapsed:.1f} items/s  {self.tokens / elapsed:,.0f} tokens/s"
            self.progress.update(self.current, advance=items, rate=rate)


class Lines:
    """Plain lines for logs: one when a task begins, one every ten seconds."""

    def __init__(self) -> None:
        self.task, self.total, self.done, self.fresh, self.tokens = "", 0, 0, 0, 0
        self.started = self.said = clock()

    def stage(self, text: str) -> None:
        if clock() - self.said > 2:
            self.say(text)

    def begin(self, task: str, items: int, done: int) -> None:
        self.task, self.total, self.done, self.fresh, self.tokens = task, items, done, 0, 0
        self.started = clock()
        self.say(f"{task}: {items} items" + (f", {done} already done" if done else ""))

    def advance(self, items: int, tokens: int) -> None:
        self.done += items
        self.fresh += items
        self.tokens += tokens
        if clock() - self.said >= PLAIN_SECONDS:
            rate = self.fresh / max(clock() - self.started, 1e-6)
            left = (self.total - self.done) / max(rate, 1e-9)
            self.say(f"{self.task}: {self.done}/{self.total}, {rate:.1f} items/s, {left:.0f} s left")

    def say(self, text: str) -> None:
        self.said = clock()
        print(plain(text), file=sys.stderr, flush=True)


@contextmanager
def watching(quiet: bool = False) -> Iterator[Watch]:
    """The watch that suits stderr."""
    if quiet:
        yield Unwatched()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err(), transient=False) as progress:
            yield Bars(progress)
