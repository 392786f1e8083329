"""How many items decide an inconclusive gate, with 80 % power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from assay.harness.decide.verdict import GatedTask, Rule, aggregate, aggregate_held, least_units, with_signal
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.rule import n_min

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Needed:
    """Numbers of items of all tasks, in today's proportions: `unchanged` to pass if nothing was lost, `as_seen` to decide if the change
    is the one seen, shrunk by its error. `tasks`: items of each required task that prevents a pass. None: not needed, or never."""

    unchanged: int | None = None
    as_seen: int | None = None
    tasks: tuple[tuple[str, int], ...] = ()


def items_needed(gated: Sequence[GatedTask], rule: Rule) -> Needed:
    """How many items decide with 80 % power, if the share of changed items stays the same."""
    kept = with_signal(gated)
    whole = aggregate(kept, rule, strict=True)
    required = [each for each in gated if (each.critical or whole is None) and not each.shown and not each.advisory and each.signal]
    tasks = tuple((each.row.task, task_needs(each, rule)) for each in required if each.margin is not None)
    if whole is None or aggregate_held(gated, rule):
        return Needed(tasks=tasks)
    items = sum(each.row.difference.n for each in kept if each.weight > 0)
    least = max(needed / units for units, needed in least_units(kept, rule))
    delta, se, margin = float(whole.delta), float(whole.se), rule.policy.margin / 100
    # The estimated change is mostly error where it is smaller than its standard error.
    loss = max(0.0, -delta) * delta**2 / (delta**2 + se**2) if se > 0 else max(0.0, -delta)
    ways = [excluding(se, margin - loss, rule.pass_level, least)] if loss < margin else []
    if loss > 0:
        ways.append(excluding(se, loss, rule.loss_level, 0.0))
    return Needed(ceil(items * excluding(se, margin, rule.pass_level, least)), ceil(items * min(ways)), tasks)


def excluding(se: float, distance: float, level: float, least: float) -> float:
    """The factor on the items with which a test at `level` shows a change of `distance` with 80 % power; at least `least` and 1."""
    return max(((z_quantile(1 - level) + z_quantile(POWER)) * se / distance) ** 2, least, 1.0)


def task_needs(each: GatedTask, rule: Rule) -> int:
    """The items with which a task excludes a loss of its margin with 80 % power if nothing was lost."""
    found, margin = each.row.judged, (each.margin or 0.0) / each.row.points
    least = n_min(margin, rule.pass_level) / found.units if found.bounded else 0.0
    return ceil(found.n * excluding(found.se, margin, rule.pass_level, least))
