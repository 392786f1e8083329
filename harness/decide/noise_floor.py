"""The measured run-to-run noise of two stored runs."""

from __future__ import annotations

from assay.harness.run.noise import Noise, floors, sentence
from assay.harness.store import Run
from assay.harness.store.bundle import SUMMARY
from assay.harness.store.read import content_errors


def noise_of(run: Run) -> Noise:
    """The run's measured noise. Raises AssayError if an untrusted summary has another form."""
    noise = run.summary().get("noise", {})
    with content_errors(run.path / SUMMARY):
        floors(noise)
        for kind, facts in noise.items():
            sentence(kind, facts)
    return noise  # type: ignore[no-any-return]


def floor_of(baseline: Noise, candidate: Noise) -> dict[tuple[str, str], float]:
    """The noise floor of every (task, metric) that either run measured; the larger if both did."""
    one, two = floors(baseline), floors(candidate)
    return {key: max(one.get(key, 0.0), two.get(key, 0.0)) for key in one | two}
