"""The size table of the gate over one task: python -m tests.sim.gate_size [trials] writes results/gate/size.csv and size.md.

False "regressed" where nothing changed, false "pass" where the loss equals the margin, power at the smallest detectable
loss; for our rule, for known mistakes, and for the rules of other gates. At 10,000 trials a rate at 5 % is at most .0565.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from assay.harness.stats.rule import mde80
from tests.sim.cells import CHURNS, KINDS, MARGINS, SIZES, in_chunks, true_error
from tests.sim.rules import ALPHA, MISTAKES, OTHERS, SLOW, Rule, loss_p, our_test, ours

OUT = Path("results/gate")
OURS: dict[str, Rule] = {"ours: gate": ours, "ours: the two tests alone": our_test}


@dataclass(frozen=True, slots=True)
class Row:
    """One measured error rate. `error`: "regressed" (no change), "pass" (the loss equals the margin) or "power" (at the MDE80)."""

    rule: str
    error: str
    kind: str
    n: int
    churn: float
    margin: float
    trials: int
    rate: float


def limit(trials: int, alpha: float = ALPHA) -> float:
    """The largest rate that is consistent with a true `alpha`: three standard errors above it."""
    return float(alpha + 3 * np.sqrt(alpha * (1 - alpha) / trials))


def measure(rules: dict[str, Rule], kind: str, n: int, churn: float, trials: int, seed: int = 11) -> Iterator[Row]:
    """Both errors of each rule in one cell."""
    draw = KINDS[kind]
    for margin in (0.0, *MARGINS):
        pieces = in_chunks(draw, np.random.default_rng([seed, n, round(1000 * churn), round(1000 * margin)]), trials, n, churn, -margin)
        for name, rule in rules.items() if pieces else ():
            found = [rule(piece, margin or 0.01) for piece in pieces]
            flags = np.concatenate([passed if margin else regressed for regressed, passed in found])
            yield Row(name, "pass" if margin else "regressed", kind, n, churn, margin, len(flags), float(flags.mean()))


def power(kind: str, n: int, churn: float, trials: int, seed: int = 12) -> Row | None:
    """Power of our 5 % test at the loss that the report prints as MDE80; None where that loss is nearly as large as the churn."""
    least = float(mde80(true_error(kind, n, churn)))
    if least > 0.8 * churn * (0.5 if kind == "graded" else 1.0):
        return None
    pieces = in_chunks(KINDS[kind], np.random.default_rng(seed), trials, n, churn, -least)
    if not pieces:
        return None
    found = np.concatenate([loss_p(piece) <= ALPHA for piece in pieces])
    return Row("ours: the two tests alone", "power", kind, n, churn, least, len(found), float(found.mean()))


def cells() -> list[tuple[str, int, float]]:
    return [(kind, n, churn) for kind in KINDS for n in SIZES for churn in CHURNS]


def simulate(trials: int, slow_trials: int = 2000) -> Iterator[Row]:
    """All cells: our rules in every cell, the others where they apply; bootstraps with fewer trials, on binary items."""
    quick = {name: rule for name, rule in {**OURS, **MISTAKES, **OTHERS}.items() if name not in SLOW}
    resampling = {name: rule for name, rule in {**MISTAKES, **OTHERS}.items() if name in SLOW}
    for kind, n, churn in cells():
        binary_only = ("Newcombe", "unpaired", "independent")
        rules = {name: rule for name, rule in quick.items() if kind != "graded" or not any(word in name for word in binary_only)}
        yield from measure(rules, kind, n, churn, trials)
        if kind == "binary" and n <= 1000:
            yield from measure(resampling, kind, n, churn, slow_trials)
        if row := power(kind, n, churn, trials):
            yield row


def markdown(rows: list[Row]) -> str:
    """Per rule: the cell with the highest rate of each error, and the number of cells above the limit; then our own cells."""
    lines = ["| rule | worst false regressed | cell | worst false pass | cell | cells above the limit |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row.rule for row in rows):
        mine = [row for row in rows if row.rule == name and row.error != "power"]
        worst = [max((row for row in mine if row.error == error), key=lambda row: row.rate) for error in ("regressed", "pass")]
        above = sum(row.rate > limit(row.trials) for row in mine)
        shown = [
            f"{row.rate:.4f} | {row.kind} n={row.n} churn={row.churn:g}{f' margin={row.margin:g}' * (row.margin > 0)}" for row in worst
        ]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {above} of {len(mine)} |")
    lines += [
        "",
        "## Our gate, cell by cell",
        "",
        "| items | n | churn | regressed, no change | pass at -1 pt | at -2 pt | at -5 pt | power at MDE80 |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kind, n, churn in cells():
        found = {
            (row.rule, row.error, row.margin if row.error == "pass" else 0.0): row.rate
            for row in rows
            if (row.kind, row.n, row.churn) == (kind, n, churn)
        }
        gate = [found.get(("ours: gate", "regressed", 0.0))] + [found.get(("ours: gate", "pass", margin)) for margin in MARGINS]
        gate.append(found.get(("ours: the two tests alone", "power", 0.0)))
        lines.append(f"| {kind} | {n} | {churn:g} | " + " | ".join("-" if rate is None else f"{rate:.4f}" for rate in gate) + " |")
    return "\n".join(lines) + "\n"


def main(trials: int = 10_000) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for row in simulate(trials):
        rows.append(row)
        if row.rule.startswith("ours") and row.error != "power" and row.rate > limit(row.trials):
            print(f"above the limit: {row}", flush=True)
    with (OUT / "size.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "rate": f"{row.rate:.4f}", "margin": f"{row.margin:.4f}"} for row in rows)
    command = f"`python -m tests.sim.gate_size {trials}`; a true 5 % shows at most {limit(trials):.4f}."
    head = f"# Error rates of the gate, one task\n\n{command}\n\n"
    (OUT / "size.md").write_text(head + markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
