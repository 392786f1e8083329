"""Writes the report of a study: about two pages of text with numbers from its rows, and the figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.report.claims import (
    MEASURES,
    Estimate,
    MatchedForgetting,
    Row,
    against_full,
    against_plain,
    best_tuned,
    cells_of,
    difference,
    estimate,
    in_context,
    main_rows,
    methods_of,
    paired,
    pick,
    rates_at_edge,
    rise,
    verdict,
)
from assay.tuners.report.figures import draw, figure_links, short, targets_of
from assay.tuners.report.frontier import Points
from assay.tuners.report.frontier_text import frontier_claim, frontier_section, mitigations_along, write_frontiers
from assay.tuners.report.heading import heading
from assay.tuners.report.paired import Items, contrast
from assay.tuners.report.paired_text import not_trained, paired_table
from assay.tuners.study.rows import FILE, ITEMS_FILE, POINTS_FILE, read_items, read_points, read_rows
from assay.tuners.study.trial import current_names
from assay.tuners.training.state import write_atomic

MEASURE_LABELS = {"average_drop": "drop on retention tasks (points)", "kl_text": "KL on neutral text (nats per token)"}
MEASURE_LABELS |= {"delta_bits_per_byte": "bits per byte of neutral text"}
CONTROL_METHODS = ("full", "lora")
VERDICTS = ("less", "more", "inconclusive", "no loss", "no gain to match")


def build(folder: Path) -> Path:
    """Write REPORT.md and the figures into a study's folder; returns the report's path. Raises AssayError if the folder has no rows."""
    if not (folder / FILE).is_file():
        raise AssayError(f"no {FILE}", where=str(folder), do="give the folder of a study")
    rows = read_rows(folder / FILE)
    facts: dict[str, Any] = json.loads(current_names((folder / "study.json").read_text())) if (folder / "study.json").is_file() else {}
    points = read_points(folder / POINTS_FILE)
    figures = draw(rows, folder / "figures", points)
    items = read_items(folder / ITEMS_FILE)
    write_frontiers(rows, points, folder)
    parts = (
        *(heading(rows, facts), tables(rows), rise_note(rows), claims_section(rows, items, points), frontier_section(rows, points, items)),
        *(controls(rows), figure_links(figures)),
    )
    text = "\n".join(line for part in parts for line in part)
    write_atomic(folder / "REPORT.md", (text + "\n").encode(), "the rows are unchanged")
    return folder / "REPORT.md"


def interval(found: Estimate | None, factor: float = 1.0, form: str = "+.1f") -> str:
    """`+3.1 [+1.0, +5.2]`; without brackets if the error is zero or unknown."""
    if found is None:
        return "–"
    value = format(factor * found.value, form)
    if found.half_width in (0.0, float("inf")):
        return value
    return f"{value} [{factor * found.low:{form}}, {factor * found.high:{form}}]"


def limits(low: float, high: float, factor: float = 1.0, form: str = "+.1f") -> str:
    return f"[{factor * low:{form}}, {factor * high:{form}}]"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    for target in targets_of(rows):
        base = pick(rows, target=target, role="base")
        yield ""
        yield f"## {short(target)}" + (f" (base {100 * base[0]['target_score']:.1f}%)" if base else "")
        yield ""
        yield (
            "| method | learning rate | gain (points) | average drop (points) | KL on text (nats per token) | bits per byte | trained "
            "parameters | saved | peak memory | train time | break-even (queries) |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        best = in_context(rows, target)
        if best:
            yield f"| {examples(best[0])} | – | {interval(estimate(best[1], 'gain'), 100)} | 0 | 0 | 0 | 0 | 0 | – | – | – |"
        for name in methods_of(rows, target):
            yield table_row(name, main_rows(rows, target, name))
    yield ""
    yield (
        "A higher gain is better; of drop, KL, bits per byte and costs a lower value is better. Peak memory is the GPU's if there was one, "
        "else the resident set of the whole process; a method that trains the model's own weights may keep a copy of the initial ones, "
        "which counts (in the published `cpu-mini` it did). Train times are wall times beside the study's other workers (`cpu-mini`: two)."
    )


def examples(count: int) -> str:
    return f"{count} example{'s' * (count != 1)}"


def table_row(name: str, group: Sequence[Row]) -> str:
    def cell(column: str, factor: float, form: str) -> str:
        found = estimate(group, column)
        return format(factor * found.value, form) if found else "–"

    return (
        f"| {name} | {group[0]['lr']:.1g} | {interval(estimate(group, 'gain'), 100)} | {interval(estimate(group, 'average_drop'), 100)} "
        f"| {cell('kl_text', 1, '.3f')} | {cell('delta_bits_per_byte', 1, '+.3f')} | {cell('trainable_parameters', 1e-6, '.3g')} M "
        f"| {cell('saved_bytes', 1e-6, '.3g')} MB | {cell('peak_memory', 1e-9, '.1f')} GB | {cell('train_seconds', 1, '.0f')} s "
        f"| {cell('break_even', 1, '.0f')} |"
    )


def rise_note(rows: Sequence[Row]) -> Iterator[str]:
    """Retention tasks that rose, compared with their rise on random labels, which is format and not knowledge."""
    risen = []
    for target in targets_of(rows):
        groups = {name: main_rows(rows, target, name) for name in methods_of(rows, target)}
        random = {name: pick(rows, target=target, method=name, role="random_labels") for name in CONTROL_METHODS}
        for task in sorted({task for group in groups.values() for row in group for task in row.get("drops") or {}}):
            found = {name: each for name, group in groups.items() if (each := rise(group, task))}
            if rose := [name for name, each in found.items() if each.low > 0]:
                listed = [name for name in CONTROL_METHODS if name in found] or rose[:1]
                parts = [f"{name} {interval(found[name], 100)}" for name in listed]
                parts += [
                    f"{name} on random labels {interval(each, 100)}" for name in CONTROL_METHODS if (each := rise(random[name], task))
                ]
                title = short(task.partition("@")[0])
                risen.append(f"{title} after {short(target)} with {len(rose)} of {len(found)} methods ({', '.join(parts)})")
    if risen:
        yield ""
        yield (
            f"**Rises.** Retention tasks with a significant rise: {'; '.join(risen)}. A task that rises as much on random labels gained "
            "the answer format, not knowledge. A rise lowers the average drop, so it can hide drops on other tasks."
        )


def claims_section(rows: Sequence[Row], items: Items | None = None, points: Points | None = None) -> Iterator[str]:
    equal_gain = frontier_claim(rows, points, items) if points else (*paired_table(rows, items), *forgetting_claim(rows))

    def mitigated(multi_task: bool) -> Iterator[str]:
        return mitigations_along(rows, points, items or {}, multi_task) if points else mitigation_claim(rows, multi_task)

    yield ""
    yield "## The claims"
    for number, (title, lines, missing) in enumerate(
        (
            ("PEFT saves space", size_claim(rows, items), "runs of full tuning and another method"),
            ("PEFT forgets less than full fine-tuning at the same gain", equal_gain, "two seeds of full tuning and another method"),
            ("Tuning on several tasks at once forgets less", mitigated(True), "`multi_task` among the mitigations, and two targets"),
            ("Mitigations forget less at the same gain", mitigated(False), "mitigations"),
            ("Few-shot examples are not enough for a small model, and cost context", in_context_claim(rows, items), "`shots`"),
        ),
        1,
    ):
        yield ""
        yield f"**{number}. {title}.** " + (" ".join(lines) or f"No rows; they need {missing}.")


def size_claim(rows: Sequence[Row], items: Items | None = None) -> Iterator[str]:
    """Bytes per further task compared with full tuning, and whether the savings cost gain."""
    for target in targets_of(rows):
        full = main_rows(rows, target, "full")
        size = estimate(full, "saved_bytes")
        if not size:
            continue
        by_verdict: dict[str, list[str]] = {}
        larger: list[str] = []
        for name in methods_of(rows, target):
            own = estimate(main_rows(rows, target, name), "saved_bytes")
            if name == "full" or not own:
                continue
            larger += [name] * (own.value >= size.value)
            times = format(size.value / own.value, ",.0f" if size.value > 10 * own.value else ".1f")
            change = contrast(main_rows(rows, target, name), full, "gain", items=items)
            if change is None:
                by_verdict.setdefault("gain is not compared, with one seed", []).append(f"{name} ({times}x)")
                continue
            word = verdict(change.low, change.high, "gain is higher", "gain is lower", "gain is not significantly different")
            by_verdict.setdefault(word, []).append(f"{name} ({times}x, {100 * change.value:+.1f})")
        if not by_verdict:
            continue
        compared = sum(map(len, by_verdict.values()))
        smaller = "yes, all methods store less" if not larger else f"mixed, all methods but {', '.join(larger)} store less"
        smaller = smaller if len(larger) < compared else "no, no method stores less"
        listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_verdict.items())
        yield (
            f"{short(target)}: {smaller} than full tuning, which stores {size.value / 1e6:,.0f} MB per further task. In brackets how many "
            f"times smaller a method is, and its gain minus that of full tuning (points), tested by its paired 95% "
            f"confidence interval: {listed}."
        )
    peak = {
        name: estimate([row for row in rows if row["method"] == name and row.get("loss_tokens")], "peak_memory") for name in CONTROL_METHODS
    }
    if all(peak.values()):
        yield f"Peak memory in training: {', '.join(f'{name} {each.value / 1e9:.1f} GB' for name, each in peak.items() if each)}."


def forgetting_claim(rows: Sequence[Row]) -> Iterator[str]:
    """Forgetting at equal gain by three measures: a table, and the number of comparisons by verdict."""
    lines: list[str] = []
    no_gain: list[str] = []
    every: list[MatchedForgetting] = []
    for target in targets_of(rows):
        found = {measure: against_full(rows, target, measure) for measure in MEASURES}
        every += [each for by_method in found.values() for each in by_method.values()]
        for name in methods_of(rows, target):
            own = [by_method[name] for by_method in found.values() if name in by_method]
            if own and all(each.gained < 0.95 for each in own):
                no_gain.append(f"{short(target)} {name}")
            elif own:
                cells = [matched_cell(by_method.get(name), measure) for measure, by_method in found.items()]
                lines.append(f"| {short(target)} | {name} | {' | '.join(cells)} |")
    if every:
        yield f"Forgetting compared with full tuning, verdicts and number of comparisons: {count_verdicts(every)}."
    if no_gain:
        yield f"Without a significant gain at which to compare: {', '.join(no_gain)}."
    if lines:
        yield (
            "The comparison assumes that forgetting is an increasing, convex function of gain: at the smaller of two gains, the other "
            "method's forgetting lies between that of its last point before and the straight line to its next point; a negative drop "
            "counts as 0. Intervals are full tuning's forgetting minus the method's (positive: the method forgets less) and span both "
            "bounds; verdicts hold at both bounds, after Holm's correction over the methods of a target and measure (the intervals are not "
            "corrected):\n"
        )
        yield f"\n| target | method | {' | '.join(MEASURE_LABELS[measure] for measure in MEASURES)} |\n|---|---|---|---|---|\n" + "\n".join(
            lines
        )


def scale(measure: str) -> tuple[float, str]:
    """Factor and format of a column in the report."""
    return (100, "+.1f") if measure in ("gain", "average_drop") else (1, "+.3f")


def matched_cell(found: MatchedForgetting | None, measure: str) -> str:
    if found is None:
        return "–"
    return found.verdict if found.gained < 0.95 else f"{limits(found.low, found.high, *scale(measure))}: {found.verdict}"


def count_verdicts(found: Iterable[MatchedForgetting]) -> str:
    counts = Counter(each.verdict for each in found)
    return ", ".join(f"{word} {counts[word]}" for word in VERDICTS if counts[word])


def mitigation_claim(rows: Sequence[Row], multi_task: bool) -> Iterator[str]:
    """Each mitigation compared with the same runs without it: mixtures of tasks, or all others."""
    used = sorted({row["mitigation"] for row in rows if row.get("role") == "mitigation"})
    for mitigation in (name for name in used if ("multi_task" in name) == multi_task):
        cells = cells_of(rows, mitigation)
        changes = {name: found for name in ("gain", *MEASURES) if (found := paired(rows, mitigation, name))}
        if not changes:
            continue
        parts = [f"{MEASURE_LABELS.get(name, name)} {interval(found, *scale(name))}" for name, found in changes.items()]
        pairs = sum(len(own) for own, _ in cells.values())
        yield (
            f"`{mitigation}`: {matched_verdict(against_plain(rows, mitigation))}. Difference with minus without it, at unequal gains, "
            f"{pairs} pairs of runs in {len(cells)} cells of target and method: {'; '.join(parts)}."
        )
        if "multi_task" in mitigation and len(targets_of(rows)) > 1:
            runs = {(row["method"], row["seed"], row["lr"]) for own, _ in cells.values() for row in own}
            yield (
                f"The mixture shares one budget among {len(targets_of(rows))} targets, so each has about 1/{len(targets_of(rows))} of the "
                f"tokens; runs with equal method, seed and learning rate are the same training run, {len(runs)} in all."
            )
        if "replay" in mitigation:
            yield "Replay uses training rows of the retention tasks, in addition to the budget."


def matched_verdict(found: dict[tuple[str, str, str], MatchedForgetting]) -> str:
    """One verdict over all comparisons, which are corrected together, the number of comparisons by verdict, and the significant ones."""
    if not found:
        return "inconclusive"
    significant = {word: [name for name, each in found.items() if each.verdict == word] for word in ("less", "more")}
    words = {(True, False): "yes", (False, True): "no", (True, True): "mixed"}
    word = words.get((bool(significant["less"]), bool(significant["more"])), "inconclusive")
    listed = "".join(
        f"; {word}: {', '.join(f'{short(target)} {method} {measure}' for target, method, measure in names)}"
        for word, names in significant.items()
        if names
    )
    return f"{word}, compared at equal gain with the same method without it ({count_verdicts(found.values())}{listed})"


def in_context_claim(rows: Sequence[Row], items: Items | None = None) -> Iterator[str]:
    """The best number of few-shot examples compared with the tuned method that is best on validation, else with full tuning and LoRA."""
    for target in targets_of(rows):
        best, name = in_context(rows, target), best_tuned(rows, target)
        for tuned in [name] if name else [each for each in CONTROL_METHODS if main_rows(rows, target, each)]:
            if best is not None:
                yield from against_prompt(rows, target, tuned, best, items)


def against_prompt(rows: Sequence[Row], target: str, name: str, best: tuple[int, Sequence[Row]], items: Items | None) -> Iterator[str]:
    """One tuned method compared with few-shot examples; by pairs of seeds and items if the scores of items are known."""
    (shots, group), own = best, main_rows(rows, target, name)
    prompt, tuned = estimate(group, "gain"), estimate(own, "gain")
    if prompt is None or tuned is None:
        return
    pairs = contrast(own, group, "gain", items=items) if items else None
    value, low, high = (pairs.value, pairs.low, pairs.high) if pairs and pairs.over_items else difference(tuned, prompt)
    word = verdict(low, high, "yes", "no")
    context = [estimate(part, "context_tokens") for part in (group, own)]
    chosen = len({row["shots"] for row in pick(rows, target=target, role="in_context")}) > 1
    notes = ["this number was chosen on the scored items, which favours prompts"] * chosen
    notes += [f"{context[0].value:.0f} context tokens per query against {context[1].value:.0f}"] if context[0] and context[1] else []
    even = estimate(own, "break_even") if word != "no" else None
    yield (
        f"{short(target)}: {word}. {name}{', the best on validation,' * bool(best_tuned(rows, target))} gains {100 * value:+.1f} "
        f"{limits(low, high, 100)} points over {examples(shots)} ({interval(prompt, 100)}); {'; '.join(notes)}"
        + (f", so tuning is cheaper after {even.value:,.0f} queries." if even else ".")
    )


def controls(rows: Sequence[Row]) -> Iterator[str]:
    """Results that must hold if the measurements are valid."""
    findings = []
    still = pick(rows, role="untrained", method="lora")
    if still:
        worst = max(abs(float(row.get(name) or 0.0)) for row in still for name in ("gain", "average_drop", "kl_text", "kl_target"))
        findings.append(f"LoRA before training: largest of gain, drop and KL {worst:.1g} (must be 0)")
    for name in sorted({row["method"] for row in pick(rows, role="untrained")} - {"lora"}):
        group = pick(rows, role="untrained", method=name)
        text, drop = interval(estimate(group, "kl_text"), 1, ".2f"), interval(estimate(group, "average_drop"), 100)
        findings.append(f"{name} before training: KL on text {text}, drop {drop}")
    for name in sorted({row["method"] for row in pick(rows, role="random_labels")}):
        for row in pick(rows, role="random_labels", method=name):
            gain = f"{100 * row['gain']:+.1f} {limits(row['gain_low'], row['gain_high'], 100)}"
            findings.append(f"{name} on random labels, {short(row['target'])}: gain {gain}")
    findings += not_trained(rows)
    ends = [
        f"{short(target)} {', '.join(names)} ({end})"
        for target in targets_of(rows)
        for end, names in rates_at_edge(rows, target).items()
        if names
    ]
    findings += [f"chosen learning rates at the edge of those tried, so a better one may lie beyond: {', '.join(ends)}"] if ends else []
    broken = [row for row in rows if row.get("status") in ("diverged", "refused")]
    findings += [f"{row['method']} {row['status']} at learning rate {row['lr']:g}" for row in broken]
    parity = [float(row["parity"]) for row in rows if row.get("parity") is not None]
    if parity:
        findings.append(f"largest difference between trained and served log-probabilities {max(parity):.1g} nats over {len(parity)} runs")
    if findings:
        yield ""
        yield f"**Controls.** {'; '.join(findings)}."
