"""Settings from environment variables: the results folder, the cache, benchmark data, and whether the network may be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Access:
    """Where data may be read from. `data`: the folder $ASSAY_DATA, a mirror of the hub. `cache`: assay's cache folder."""

    data: Path | None = None
    allow_partial: bool = False
    offline: bool = False
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Folders and network access, from $ASSAY_RESULTS, $ASSAY_CACHE, $ASSAY_DATA and $HF_HUB_OFFLINE."""

    results: Path
    cache: Path
    data: Path | None
    offline: bool

    def access(self, allow_partial: bool = False) -> Access:
        return Access(self.data, allow_partial, self.offline, self.cache)


def surroundings(environment: Mapping[str, str] | None = None) -> Surroundings:
    """Read the settings from `environment`, or from the environment of this process."""
    env = os.environ if environment is None else environment
    data = env.get("ASSAY_DATA")
    return Surroundings(
        results=Path(env.get("ASSAY_RESULTS") or "results"),
        cache=Path(env.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay"),
        data=Path(data).expanduser().resolve() if data else None,
        offline=env.get("HF_HUB_OFFLINE", "") not in ("", "0"),
    )
