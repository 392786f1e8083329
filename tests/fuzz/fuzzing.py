"""Runs one fuzzer for so many seconds, pauses aside, and tells what is no AssayError: `python tests/fuzz/fuzzing.py NAME SECONDS`"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from assay.harness.errors import AssayError

ROOT = str(Path(__file__).parents[2])
ROUND = 200
LONGEST = 30
"""Seconds of processor time that one input may take."""
PAUSE = 20
"""A longer time between two inputs is one in which the process was stopped: it does not count."""


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """`inputs` makes material; `read` writes it into an empty folder and lets the house read it."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], None]


@dataclass(slots=True)
class Report:
    """What one fuzzer did: inputs tried, those read without complaint, those refused, and findings by place with an input."""

    executions: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    """Errors that do not say what to do."""


def place_of(error: BaseException) -> str:
    """Kind of error, and the innermost line of ours."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(ROOT)]
    ours = [frame for frame in ours if "/tests/" not in frame.filename] or ours
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else type(error).__name__


def fuzz(fuzzer: Fuzzer, seconds: float, examples: int = 60) -> Report:
    """Rounds of fresh inputs until the time is over; one round of `examples` where `seconds` is 0."""
    deadline, seen = time.monotonic() + seconds, time.monotonic()
    report, home = Report(), Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one input took more than {LONGEST} s of processor time")

    def once(value: Any) -> None:
        nonlocal deadline, seen
        now = time.monotonic()
        deadline, seen = deadline + (now - seen if now - seen > PAUSE else 0.0), now
        if seconds and now > deadline:
            return
        folder = home / "x"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        report.executions += 1
        (home / "input").write_text(repr(value))  # for what no signal can end
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        try:
            fuzzer.read(folder, value)
            report.accepted += 1
        except AssayError as error:
            report.refused[place_of(error).rpartition(" ")[2]] += 1
            if not error.do:
                report.unclear.setdefault(place_of(error), str(error)[:200])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            shown = "".join(traceback.format_exception(error))[-1500:]
            report.findings.setdefault(place_of(error), f"{value!r:.1500}\n{shown}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    before = signal.signal(signal.SIGPROF, late)
    quiet = settings(
        max_examples=ROUND if seconds else examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    number = 0
    try:
        while number == 0 or time.monotonic() < deadline:
            seed(number + 1)(quiet(given(fuzzer.inputs)(once)))()
            number += 1
    finally:
        signal.signal(signal.SIGPROF, before)
        with suppress(OSError):
            shutil.rmtree(home)
    return report


def main() -> None:
    from targets import FUZZERS, warm

    name, seconds = sys.argv[1], float(sys.argv[2])
    warnings.simplefilter("ignore")
    warm(name)
    started = time.monotonic()
    report = fuzz(FUZZERS[name], seconds)
    found = {
        "fuzzer": name,
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(time.process_time()),
        "executions": report.executions,
        "accepted": report.accepted,
        "refused": sum(report.refused.values()),
        "places": len(report.refused),
        "unclear": report.unclear,
        "findings": report.findings,
    }
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(bool(report.findings))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
