"""The gate on a base model and a fine-tuned one: both are scored on the same tasks, and the paired changes decide as in `assay gate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import Gate, gate_stored
from assay.harness.run.stages import Surroundings, find_model, list_runs

RETENTION = tuple(f"assay.tuners.retention:{name}" for name in ("ARC_EASY", "PIQA", "BLIMP"))
"""Tasks that small models can do; their data are found as those of any task."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A base model, and a tuned model or the folder of an adapter of the base."""

    base: str
    tuned: str

    @property
    def adapter(self) -> str:
        """The folder of the adapter; empty for a whole model."""
        folder = Path(self.tuned)
        return self.tuned if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")) else ""

    @property
    def model(self) -> str:
        return self.base if self.adapter else self.tuned

    def plans(self, tasks: tuple[str, ...], limit: int | None = None, chat: bool = False) -> tuple[Plan, Plan]:
        """How the base and the tuned model are scored."""
        before = Plan(model=self.base, tasks=tasks, limit=limit, chat=chat)
        return before, Plan(model=self.model, tasks=tasks, limit=limit, chat=chat, adapter=self.adapter)


def gate_plans(plans: tuple[Plan, Plan], policy: Policy, place: Surroundings, tell: Callable[[str], None] = lambda line: None) -> Gate:
    """Score the two models and gate the second. A complete run of the same plan and weights is used again.

    Raises Incomplete (resumable) where a run was interrupted, AssayError for models that cannot be scored.
    """
    before, after = (find_or_score(plan, place, tell) for plan in plans)
    return gate_stored(place.results, str(after), str(before), policy, place.access(allow_partial=True))


def policy_of(margin: float, task_margin: float) -> Policy:
    """Raises AssayError for margins out of range."""
    try:
        return Policy(margin=margin, task_margin=task_margin)
    except ValueError:
        raise AssayError(
            f"margins of {margin:g} and {task_margin:g} points", where="--margin, --task-margin", do="use numbers from 0 to 100"
        ) from None


def find_or_score(plan: Plan, place: Surroundings, tell: Callable[[str], None]) -> Path:
    ref = find_model(plan.model, adapter=plan.adapter or None, cache=place.cache, offline=place.offline)
    wanted = json.loads(json.dumps(plan.as_json()))
    for run in reversed(list_runs(place.results)):
        if run.status == "complete" and run.model_digest == ref.digest and read_run(run.path).manifest["plan"] == wanted:
            tell(f"{ref.name}: scored before, in run {run.id}")
            return run.path
    tell(f"{ref.name}: scoring {', '.join(plan.tasks)}")
    return evaluate(plan, place)
