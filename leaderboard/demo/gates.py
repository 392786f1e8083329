"""Gate decisions of the generated store, made by the same statistics as `assay gate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import Gate, append_gate, entry_of
from assay.leaderboard.data.paired import pairing

PAIRS = (
    ("2026-11-24", "finch-2b/step-1000", "finch-2b/step-2000"),
    ("2026-11-26", "finch-2b/step-2000", "finch-2b/step-3000"),
    ("2026-11-27", "beta/heron-3b", "beta/heron-3b+tuned/lora-0/result"),
    ("2026-11-30", "acme/otter-13b", "beta/heron-8b"),
)


def write_gates(root: Path, bundles: Mapping[str, Path]) -> None:
    """Gates the pairs on the tasks that both have; `bundles` is the run of each model."""
    for day, baseline, candidate in PAIRS:
        found = pairing(root, *({"": str(bundles[name].relative_to(root))} for name in (baseline, candidate)))
        assert found.comparison is not None and found.decision is not None
        entry = entry_of(Gate(found.comparison, found.decision, Policy()))
        append_gate(root, {**entry, "at": f"{day}T09:30:00+00:00"})
