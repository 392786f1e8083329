"""Peak memory of a piece of work: of the GPU where there is one, else of this process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Start counting anew. Where the system cannot (not Linux), the peak stays that of the whole process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    give_back()
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def give_back() -> None:
    """Return to the system what earlier work freed (glibc): the heap keeps it, and it would count as the next work's."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_memory() -> int:
    """Bytes since `forget_peak`."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
