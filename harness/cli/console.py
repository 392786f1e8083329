"""Output: data on stdout, progress on stderr. Progress is a bar on a terminal and plain lines elsewhere."""

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
from assay.harness.reports.results import show_number
from assay.harness.run.dispatch import NoProgress, RunProgress
from assay.harness.stats.interval import wilson
from assay.harness.store.provenance import clock

PLAIN_SECONDS = 10.0
Z95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""
TELLING = 5
"""Items after which a time left is shown: the first of a batch are ready long after it began."""


def err() -> Console:
    """The console for stderr."""
    return with_escaping(Console(stderr=True, highlight=False, emoji=False))


def out() -> Console:
    """The console for stdout. When piped it is 160 columns wide, so that tables do not wrap."""
    return with_escaping(Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160))


def with_escaping(console: Console) -> Console:
    """Escape everything the console prints: untrusted text sends no control sequence to a terminal and no command to a build server."""
    console.push_render_hook(Escape())
    return console


class Escape(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Escaped(each) for each in renderables]


@dataclass(frozen=True, slots=True)
class Escaped:
    """A renderable with control, bidirectional and other invisible characters replaced, and no line that starts with `::`."""

    inner: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        at_line_start = True
        for segment in console.render(self.inner, options):
            if segment.control:
                yield segment
                continue
            text = printable(segment.text)
            lines = [without_command(line) if number or at_line_start else line for number, line in enumerate(text.split("\n"))]
            at_line_start = not lines[-1].strip() if len(lines) > 1 else at_line_start and not text.strip()
            yield Segment("\n".join(lines), segment.style)


def without_command(line: str) -> str:
    """Break a leading `::`, which GitHub Actions reads as a workflow command."""
    return line.replace("::", ":\u2060:", 1) if line.lstrip().startswith("::") else line


def printable(text: str) -> str:
    """Replace unprintable characters with spaces or U+FFFD; keep line breaks and tabs."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else " " if unicodedata.category(sign) == "Zs" else "\ufffd" for sign in text
    )


def warn_of_broken(plugins: Sequence[AssayError]) -> None:
    """Print a warning on stderr for each plugin that cannot be loaded."""
    for error in plugins:
        err().print("warning: skipped plugin " + " ".join(str(error).split()), style="yellow", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print exactly one JSON object to stdout. Raises ValueError for NaN."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class RunningScore:
    """The mean of a task's item scores so far with its 95 % interval, as the start of a progress line; empty for the first items."""

    task: str
    total: float = 0.0
    items: int = 0

    def after(self, correct: float | None) -> RunningScore:
        return self if correct is None else RunningScore(self.task, self.total + correct, self.items + 1)

    def __str__(self) -> str:
        if self.items < TELLING:
            return ""
        share = self.total / self.items
        low, high = wilson(share, self.items, Z95)
        return f"{self.task.split('@')[0]} {show_number(share)} ({show_number(low)} – {show_number(high)}), "


class RunningScores:
    """The running score of each task; `text` is that of the task scored last."""

    def __init__(self) -> None:
        self.by_task: dict[str, RunningScore] = {}
        self.text = ""

    def add(self, task: str, correct: float | None) -> None:
        self.by_task[task] = self.by_task.get(task, RunningScore(task)).after(correct)
        self.text = str(self.by_task[task])


class Bars:
    """One progress bar per task: items done, items/s, tokens/s and time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.current: TaskID | None = None
        self.head = progress.add_task("", total=None, rate="")
        self.tokens, self.items, self.started = 0, 0, clock()
        self.scores = RunningScores()

    def stage(self, text: str) -> None:
        self.progress.update(self.head, description=escape(printable(text)), visible=True)

    def begin(self, task: str, items: int, done: int) -> None:
        self.progress.update(self.head, visible=False)
        self.current = self.progress.add_task(escape(printable(task)), total=items, completed=done, rate="")
        self.tokens, self.items, self.started = 0, 0, clock()
        self.scores = RunningScores()

    def advance(self, items: int, tokens: int, task: str = "", correct: float | None = None) -> None:
        self.tokens += tokens
        self.items += items
        self.scores.add(task, correct)
        elapsed = max(clock() - self.started, 1e-6)
        if self.current is not None:
            rate = f"{escape(printable(self.scores.text))}{self.items / elapsed:.1f} items/s  {self.tokens / elapsed:,.0f} tokens/s"
            self.progress.update(self.current, advance=items, rate=rate)


class Lines:
    """Plain lines for logs: one when a task starts, then one every ten seconds."""

    def __init__(self) -> None:
        self.task, self.total, self.done, self.done_now, self.tokens = "", 0, 0, 0, 0
        self.started = self.printed = self.counted = clock()
        self.scores = RunningScores()

    def stage(self, text: str) -> None:
        if clock() - self.printed > 2:
            self.print_line(text)

    def begin(self, task: str, items: int, done: int) -> None:
        self.task, self.total, self.done, self.done_now, self.tokens = task, items, done, 0, 0
        self.started = self.counted = clock()
        self.scores = RunningScores()
        self.print_line(f"{task}: {items} items" + (f", {done} already done" if done else ""))

    def advance(self, items: int, tokens: int, task: str = "", correct: float | None = None) -> None:
        # The rate up to the previous item: this one may be the first of a batch, whose time is that of all its items.
        before, elapsed = self.done_now, self.counted - self.started
        self.done += items
        self.done_now += items
        self.tokens += tokens
        self.counted = clock()
        self.scores.add(task, correct)
        if self.counted - self.printed >= PLAIN_SECONDS:
            rate = before / elapsed if before >= TELLING and elapsed > 0 else 0.0
            speed = f"{rate:.1f} items/s, {duration((self.total - self.done) / rate)} left" if rate else "measuring speed"
            self.print_line(f"{self.task}: {self.done}/{self.total}, {self.scores.text}{speed}")

    def print_line(self, text: str) -> None:
        self.printed = clock()
        print(printable(text), file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """1 item, 2 items."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds up to 90 s, then minutes, then hours from 90 minutes on."""
    return f"{seconds:.0f} s" if seconds <= 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[RunProgress]:
    """Report progress on stderr: bars on a terminal, else plain lines, or nothing if `quiet`."""
    if quiet:
        yield NoProgress()
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
