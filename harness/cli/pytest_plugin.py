"""A pytest fixture that fails a test whose candidate may not be released: `assay_gate(candidate, baseline)`.

Loaded by pytest through its entry-point group `pytest11`, in every session: so it imports nothing that loads a model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assay.harness.decide.decision import Decision
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import gate_stored
from assay.harness.files.places import surroundings
from assay.harness.reports.words import aggregate_line, headline

GateFixture = Callable[..., Decision]


@pytest.fixture
def assay_gate() -> GateFixture:
    """Gate a stored run against another; gives the decision where it passes, fails the test where it does not.

    Call it with candidate and baseline (as `assay gate` takes them), and if wanted `policy` (a Policy or the path of a
    gate.toml) and `results` (the store; default $ASSAY_RESULTS or results). An inconclusive gate fails too, unless the policy
    says on_inconclusive = "pass". Runs that do not compare, or are not complete, are errors.
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
