"""The pytest fixture `assay_gate(candidate, baseline)`: fails the test unless the gate passes.

pytest loads this module in every session (entry-point group `pytest11`), so it imports nothing that loads a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assay.harness.decide.decision import Decision
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import gate_stored
from assay.harness.files.places import surroundings
from assay.harness.reports.formatting import aggregate_line, headline

GateFixture = Callable[..., Decision]


@pytest.fixture
def assay_gate() -> GateFixture:
    """Gate a stored run against a baseline. Returns the decision if it passes, else fails the test.

    Arguments: candidate and baseline as for `assay gate`; optional `policy` (a Policy or the path of a gate.toml) and `results`
    (the store; default $ASSAY_RESULTS or results). An inconclusive gate fails, unless the policy sets on_inconclusive = "pass".
    Raises AssayError for runs that are incomplete or not comparable.
    """

    def run(candidate: str, baseline: str, policy: Policy | Path | str | None = None, results: Path | str | None = None) -> Decision:
        place = surroundings()
        chosen = policy if isinstance(policy, Policy) else read_policy(Path(policy)) if policy is not None else Policy()
        root = Path(results) if results is not None else place.results
        found = gate_stored(root, candidate, baseline, chosen, place.access(allow_partial=True))
        if found.exit_code:
            lines = [headline(found.decision, found.comparison), aggregate_line(found.decision), *found.decision.reasons]
            pytest.fail("\n".join(lines), pytrace=False)
        return found.decision

    return run
