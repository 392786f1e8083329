"""Seconds, CPU seconds and peak memory of this process and its children. Nothing is installed for it: lm-eval's interpreter runs it too."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Spent:
    """`wall` and `cpu` in seconds; CPU of all threads, of live children too."""

    wall: float = 0.0
    cpu: float = 0.0

    def as_json(self) -> dict[str, float]:
        return {"wall": round(self.wall, 3), "cpu": round(self.cpu, 3)}


def family() -> list[int]:
    """This process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def cpu_seconds() -> float:
    """User and system time of the family, with children that have ended."""
    total = 0
    for process in family():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:13])) + (sum(map(int, fields[13:15])) if process == os.getpid() else 0)
    return total / TICKS


def peak_bytes() -> int:
    """Sum of the peaks of the family's resident memory; on a GPU, of what this process took of it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    total = 0
    for process in family():
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return total


@contextmanager
def measured() -> Iterator[Spent]:
    spent = Spent()
    wall, cpu = time.monotonic(), cpu_seconds()
    try:
        yield spent
    finally:
        spent.wall, spent.cpu = time.monotonic() - wall, cpu_seconds() - cpu


def write(path: Path, found: dict[str, Any]) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(found))
    half.replace(path)
