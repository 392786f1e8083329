"""The head of a study's report: what was run, the retention tasks, and what the study plans and does not have yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from assay.tuners.report.claims import Row, main_rows, pick, rate_trials
from assay.tuners.report.figures import short, targets_of


def heading(rows: Sequence[Row], facts: dict[str, Any]) -> Iterator[str]:
    trained = [row for row in rows if row.get("loss_tokens")]
    main = [row for row in rows if row.get("role") == "grid" and row.get("gain") is not None]
    seeds = sorted({int(row["seed"]) for row in main})
    yield f"# Gain and forgetting: study `{facts.get('name', rows[0].get('study', ''))}`"
    yield ""
    methods = len({row["method"] for row in main})
    other_seed = ", by runs with another seed" if pick(rows, role="rate") else ""
    tried = [len({row["lr"] for row in rate_trials(rows, row["target"], row["method"])}) for row in main]
    yield (
        f"{len(trained)} training runs of {budget(facts)} each, {methods} methods, "
        f"targets {', '.join(map(short, targets_of(rows)))}; main comparison with seeds {', '.join(map(str, seeds)) or 'none yet'}. "
        f"{rates_note(max(tried, default=1), other_seed)} "
        "Gains and drops are in points, on the same items before and after tuning; a negative "
        "drop is a rise. Brackets are 95% confidence intervals over items and seeds."
    )
    base = next((row for row in pick(rows, role="base") if row.get("retention_scores")), None)
    if base:
        scores = ", ".join(f"{short(name.partition('@')[0])} {100 * value:.0f}%" for name, value in base["retention_scores"].items())
        near = ", ".join(short(name.partition("@")[0]) for name in base.get("not_measurable") or [])
        yield ""
        yield f"Retention tasks with the base's score: {scores}." + (
            f" Excluded, because the base is too near chance to measure a drop: {near}." if near else ""
        )
    missing = missing_runs(rows, facts)
    if missing:
        yield ""
        yield f"**Unfinished study**, without {'; '.join(missing)}. The verdicts below use the finished runs."


def missing_runs(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """What a study plans and its rows do not hold: by target the methods with the number of missing seeds, then the mitigations."""
    seeds, found = len(facts.get("seeds", (0, 1, 2))), []
    mitigated = [name for name in facts.get("methods", ()) if name in facts.get("mitigated", ("full", "lora"))]
    for target in facts.get("targets", ()):
        counts = {name: seeds - len(main_rows(rows, target, name)) for name in facts.get("methods", ())}
        if any(counts.values()):
            found.append(f"{short(target)}: {counted(counts, seeds, 'method')}")
        of_cells = {
            f"{mitigation} on {method}": seeds - len(pick(rows, target=target, method=method, role="mitigation", mitigation=mitigation))
            for mitigation in facts.get("mitigations", ())
            for method in mitigated
        }
        if any(count > 0 for count in of_cells.values()):
            found.append(f"{short(target)} with mitigations: {counted(of_cells, seeds, 'mitigation')}")
    return found


def counted(missing: Mapping[str, int], seeds: int, kind: str) -> str:
    """`2 of 8 seeds of lora, ia3`, for every number of missing seeds."""
    numbers = sorted({count for count in missing.values() if count > 0})
    names = {number: [name for name, count in missing.items() if count == number] for number in numbers}
    listed = {number: f"every {kind}" if len(own) == len(missing) > 1 else ", ".join(own) for number, own in names.items()}
    return "; ".join(f"{number} of {seeds} seeds of {text}" for number, text in listed.items())


def rates_note(tried: int, other_seed: str) -> str:
    if tried < 2:
        return "Each method has one learning rate, which was set before."
    text = f"The learning rate of each method is the best of {tried} on validation rows of the target{other_seed}"
    return f"{text}; retention tasks are not used to choose it."


def budget(facts: dict[str, Any]) -> str:
    return f"{facts['steps']} steps" if facts.get("steps") else f"{facts.get('loss_tokens', '?')} loss tokens"
