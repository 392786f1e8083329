"""Peak memory since a reset: of the GPU if there is one, else of this process."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from assay.harness.run.stages import return_freed

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Reset the peak. Only Linux can reset a process's peak; elsewhere it remains that of the whole process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    return_freed()  # or it would count towards the next peak
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def peak_memory() -> int:
    """Peak memory in bytes since `reset_peak`."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
