"""Where things are on this machine, from the environment: the store, the cache, benchmark data, and whether the network may be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Access:
    """How data may be reached. `data`: the folder of $ASSAY_DATA, which mirrors the hub. `cache`: where assay keeps what it remembers."""

    data: Path | None = None
    allow_partial: bool = False
    offline: bool = False
    cache: Path | None = None


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
