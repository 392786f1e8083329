"""CPU threads on a machine that others use too: idle threads sleep instead of spinning, and only free cores are taken."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# A spinning OpenMP thread keeps its core from the thread that it waits for; on a busy machine that costs a factor of five.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def wait_quietly() -> str:
    """Ask OpenMP not to spin. Only works before torch is loaded; says what became of it."""
    if "torch" in sys.modules:
        return "torch was already loaded: wait policy left as it was"
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    return f"wait policy {os.environ['OMP_WAIT_POLICY'].lower()}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment of the machine: seconds on the clock, busy core-seconds of everybody, core-seconds of this process."""

    clock: float
    busy: float
    own: float


def cores() -> int:
    """Cores that this process may use; OMP_NUM_THREADS limits them as everywhere."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(asked)) if asked.isdigit() and int(asked) else allowed


def sample() -> Sample:
    """Read /proc/stat over the cores that this process may use; elsewhere nobody else is seen."""
    own = time.process_time()
    try:
        allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu")]
        # user, nice, system, irq, softirq, steal: everything but idle and iowait.
        ticks = sum(sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line[0] in allowed)
        busy = ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        busy = own
    return Sample(time.monotonic(), busy, own)


def free_cores(before: Sample, after: Sample, total: int) -> int:
    """Cores that others left free between two samples, at least one; all of them where too little time passed to tell."""
    elapsed = after.clock - before.clock
    if elapsed < 0.2:
        return total
    others = max(0.0, (after.busy - before.busy) - (after.own - before.own)) / elapsed
    return max(1, min(total, round(total - others)))
