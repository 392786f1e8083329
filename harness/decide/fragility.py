"""How many items decide a verdict: the smallest number of items of one task whose flip changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from assay.harness.decide.verdict import GatedTask, Rule, corrected, shift_difference, task_excludes_loss, verdict_of
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.paired import mid_p, tango_bound
from assay.harness.stats.rule import Verdict


def with_lost_items(each: GatedTask, items: int, rule: Rule) -> GatedTask:
    """The task as if `items` more items were lost (fewer if negative): ties become losses, losses become ties."""
    found = each.row.judged
    wins, losses = found.wins, found.losses
    if items >= 0:
        ties = max(0, found.n - wins - losses)
        losses, wins = losses + items, wins - max(0, items - ties)
    else:
        losses, wins = max(0, losses + items), wins + max(0, -items - losses)
    if found.exact and found.n == found.units and wins >= 0 and wins + losses <= found.n:
        quantiles = [z_quantile(1 - level) for level in (rule.policy.alpha, rule.pass_level)]
        low, strict = tango_bound(wins, losses, found.n, quantiles).tolist()
        delta = (wins - losses) / found.n
        se = float(np.sqrt(((wins + losses) / found.n - delta**2) / found.n + 1 / found.n**2))
        p_loss = float(mid_p(wins, losses))
        moved = replace(found, delta=delta, low=low, strict=strict, se=se, p_loss=p_loss, wins=wins, losses=losses)
    else:
        moved = shift_difference(found, -items / found.n * found.worst)
    held = task_excludes_loss(moved, each.margin, rule.pass_level)
    row = replace(each.row, difference=moved) if each.row.smoothed is None else replace(each.row, smoothed=moved)
    return replace(each, row=row, p=min(1.0, rule.tried * moved.p_loss), held=held)


def fewest_flips(gated: Sequence[GatedTask], rule: Rule, verdict: Verdict) -> tuple[int | None, str]:
    """The smallest number of items of one task whose flip changes the verdict, and that task."""
    best: int | None = None
    task = ""

    def verdict_at(index: int, items: int) -> Verdict:
        moved = list(gated)
        moved[index] = with_lost_items(gated[index], items, rule)
        return verdict_of(corrected(moved), rule)

    for index, each in enumerate(gated):
        if each.advisory or each.row.total or not each.row.difference.bounded:
            continue
        for side in (1, -1) if verdict == "inconclusive" else (1,) if verdict == "pass" else (-1,):
            high = min(best - 1 if best is not None else each.row.difference.n, each.row.difference.n)
            if high < 1 or verdict_at(index, side * high) == verdict:
                continue
            low = 0
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if verdict_at(index, side * middle) == verdict else (low, middle)
            best, task = high, each.row.task
    return best, task
