"""Turn Ctrl-C and SIGTERM during a run into Incomplete, with the command that resumes the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay.harness.errors import Incomplete


def resume_command(bundle: Path) -> str:
    return f"assay resume {bundle.name}" + ("" if bundle.parent.parent == Path("results") else f" --results {bundle.parent.parent}")


@contextmanager
def resumable(bundle: Path) -> Iterator[None]:
    """Within this block an interruption raises Incomplete, with the command that resumes the run in `bundle`."""
    caught: list[str] = []
    try:
        with interruptible(caught):
            yield
    except Incomplete:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if not caught and not isinstance(error, KeyboardInterrupt):
            raise  # after a signal any error is an interruption: DuckDB raises an error of its own
        what = caught[0] if caught else "interrupted"
        raise Incomplete(what, where=bundle.name, do=f"continue with: {resume_command(bundle)}") from None


@contextmanager
def interruptible(caught: list[str]) -> Iterator[None]:
    """Within this block SIGTERM raises KeyboardInterrupt as Ctrl-C does. Names of the signals are added to `caught`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        caught.append("terminated" if number == signal.SIGTERM else "interrupted")
        raise KeyboardInterrupt(caught[-1])

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
