"""assay gate --plan and --explain-policy: what a gate can decide, before its candidate exists."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from assay.harness.cli.console import out, print_json
from assay.harness.decide.planning.explain import explain_policy, explained_cells, explained_json, read_explained
from assay.harness.decide.planning.plan import plan_gate, plan_lines, suite_facts
from assay.harness.decide.policy import Policy
from assay.harness.reports.tables import table
from assay.harness.store import Run


def show_plan(run: Run, policy: Policy, kind: str, as_json: bool) -> None:
    """Print the plan of a gate against a stored baseline."""
    samples, tokens = run.table("samples.parquet"), Counter[str]()
    for task, count in zip(samples["task"].to_pylist(), samples["logical"].to_pylist(), strict=True):
        tokens[task] += count
    results = [each for each in run.summary()["results"] if not policy.tasks or each["task"] in policy.tasks]
    found = plan_gate(suite_facts(results, tokens), policy, kind)
    if as_json:
        items, needed = found.needed
        print_json({"baseline": run.id, **asdict(found), "needed_items": items, "needed_tokens": needed})
        return
    for line in plan_lines(found):
        out().print(line, markup=False, soft_wrap=True)


def show_explained(path: Path, as_json: bool) -> None:
    """Print the error rates of a policy, or of another tool's check beside those of the gate."""
    policy, check = read_explained(path)
    rates = explain_policy(policy, check)
    if as_json:
        print_json(explained_json(policy, check, rates))
        return
    console = out()
    console.print(table(*explained_cells(rates), console.width))
    console.print(
        f"gate: margin {policy.margin:g}, alpha {policy.alpha:g}, one task, paired with the baseline on the same items", markup=False
    )
    if check is not None and check.source:
        console.print(f"check: {check.source}", markup=False, soft_wrap=True)
