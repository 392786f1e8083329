"""The report's table of methods compared by pairs with full tuning: gain, KL and a verdict each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from assay.tuners.report.claims import Row, difference, estimate, main_rows, methods_of, pick
from assay.tuners.report.figures import short, targets_of
from assay.tuners.report.paired import FACTOR, POINTS, Items, PairedMethods, compare_methods, corrected

REFERENCE = "full"


def against_full(rows: Sequence[Row], target: str, items: Items | None = None) -> dict[str, PairedMethods]:
    """Every other method with at least two seeds compared with full tuning, corrected over the methods."""
    full = main_rows(rows, target, REFERENCE)
    pairs = {name: compare_methods(main_rows(rows, target, name), full, items) for name in methods_of(rows, target) if name != REFERENCE}
    return corrected({name: found for name, found in pairs.items() if found})


def paired_table(rows: Sequence[Row], items: Items | None = None) -> Iterator[str]:
    """The verdicts counted, and a table; nothing if no method shares two seeds with full tuning."""
    found = {target: against_full(rows, target, items) for target in targets_of(rows)}
    every = [each for by_method in found.values() for each in by_method.values()]
    if not every:
        return
    counts = Counter(each.verdict for each in every)
    listed = ", ".join(f"{word} {count}" for word, count in counts.most_common())
    yield (
        f"**Each method against full tuning, by pairs** of runs with equal seeds, batches and items. Verdicts: {listed}. A method "
        "dominates "
        f"if its KL is lower and its gain not lower by {100 * POINTS:g} points; it is dominated in the reverse case; no difference: less "
        f"than {100 * POINTS:g} points of gain and a factor of {FACTOR:g} in KL. Brackets are 95% confidence intervals; verdicts are "
        "corrected by Holm's method over the methods of a target." + items_note(every)
    )
    lines = [f"| {short(target)} | {name} | {cells(each)} |" for target, methods in found.items() for name, each in methods.items()]
    head = "| target | method | gain minus full (points) | KL over full | verdict |\n|---|---|---|---|---|"
    yield "\n".join(("\n", head, *lines, "\n"))


def not_trained(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence that lists methods whose gain is not significantly above that of the same method untrained."""
    listed = []
    for target in targets_of(rows):
        for name in methods_of(rows, target):
            gain = estimate(main_rows(rows, target, name), "gain")
            control = estimate(pick(rows, target=target, method=name, role="untrained"), "gain")
            if gain and (difference(gain, control)[1] if control and control.items else gain.low) <= 0:
                listed.append(f"{short(target)} {name} ({100 * gain.value:+.1f} against {100 * (control.value if control else 0.0):+.1f})")
    if listed:
        yield f"gain not significantly above that of the same method untrained, so listed as failed: {', '.join(listed)}"


def items_note(every: Sequence[PairedMethods]) -> str:
    if all(each.gain.over_items for each in every):
        return " Gains are for items like these (errors over seeds and items)."
    return " The scores of single items are not stored with these rows, so gains are for these items (errors over seeds)."


def cells(found: PairedMethods) -> str:
    gain, (factor, low, high) = found.gain, found.factor
    points: Any = tuple(100 * value for value in (gain.value, gain.low, gain.high))
    return f"{points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}] | {factor:.3g}x [{low:.3g}, {high:.3g}] | {found.verdict}"
