"""assay run --explain: the cost of a run, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from assay.harness.cli.console import duration, out, print_json, show_progress
from assay.harness.files.places import Surroundings
from assay.harness.run.explain import Explanation, TaskCost, explain
from assay.harness.store.plan import Plan


def explain_plans(plans: Sequence[Plan], place: Surroundings, as_json: bool) -> None:
    """Print items, tokens and time of each plan. With --json: one object, or all of them under "plans"."""
    with show_progress() as progress:
        found = [explain(plan, place, progress) for plan in plans]
    if as_json:
        print_json(found[0].as_json() if len(found) == 1 else {"plans": [each.as_json() for each in found]})
        return
    for each in found:
        print_explanation(each)


def print_explanation(found: Explanation) -> None:
    from rich.markup import escape
    from rich.table import Table

    console, total = out(), found.total
    console.print(f"[bold]{escape(found.model)}[/]  {found.parameters / 1e6:,.0f}M parameters  digest {found.digest[:12]}")
    console.print(f"engine {found.engine} ({found.reason}); no model was loaded\n", style="dim", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("task", overflow="fold")
    for name in ("items", "shots", "requests", "tokens unshared", "tokens to compute", "shared", "max generated"):
        table.add_column(name, justify="right")
    for cost in found.tasks:
        table.add_row(*cells(cost, str(cost.shots)))
    if len(found.tasks) > 1:
        table.add_row(*cells(total, ""), style="bold")
    console.print(table)
    console.print()
    for reason in found.left_out:
        console.print(f"Skipped, data missing: {reason}", style="yellow", markup=False)
    console.print(time_text(found), style="dim", markup=False)


def cells(cost: TaskCost, shots: str) -> tuple[str, ...]:
    numbers = (cost.requests, cost.logical, cost.ideal)
    generated = f"{cost.generated:,}" if cost.generated else ""
    return cost.task, f"{cost.items:,}", shots, *(f"{number:,}" for number in numbers), f"{cost.shared:.1f}x", generated


def time_text(found: Explanation) -> str:
    """The expected time and the measurement it is based on."""
    if found.speed is None or found.seconds is None:
        return "time unknown: no stored run of this model, or of a model of its size, to estimate from"
    return f"about {duration(found.seconds)} plus engine start, at {found.speed.tokens_per_second:,.0f} tokens/s ({found.speed.source})"
