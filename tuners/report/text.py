"""A study's report: two pages of text with numbers from its rows, and the figures."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.report.claims import (
    MEASURES,
    Estimate,
    Matched,
    Row,
    against_full,
    against_plain,
    best_tuned,
    cells_of,
    choosing,
    difference,
    edges,
    estimate,
    in_context,
    main_rows,
    methods_of,
    paired,
    pick,
    rise,
    verdict,
)
from assay.tuners.report.figures import draw, short, targets_of
from assay.tuners.study.rows import FILE, read_rows
from assay.tuners.training.state import write_whole

WORDS = {"average_drop": "drop on retained tasks (points)", "kl_text": "KL on neutral text (nats per token)"}
WORDS |= {"delta_bits_per_byte": "bits per byte of neutral text"}
LARGE = ("full", "lora")
SAID = ("less", "more", "cannot tell", "nothing lost", "no gain to match")
CAPTIONS = {
    "pareto.svg": "Gain against forgetting, 95% intervals over items and seeds",
    "learning-rates.svg": "Validation score and KL by learning rate",
    "in-context.svg": "Examples in the prompt against tuning; on the right the tokens of context per query",
    "retention.svg": "Drop by retained task, mean over seeds",
    "costs.svg": "Gain against the bytes of one more task",
}


def build(folder: Path) -> Path:
    """Write REPORT.md and its figures beside a study's rows; gives the report. Raises AssayError where there are no rows."""
    if not (folder / FILE).is_file():
        raise AssayError(f"no {FILE}", where=str(folder), do="name the folder of a study")
    rows = read_rows(folder / FILE)
    facts: dict[str, Any] = json.loads((folder / "study.json").read_text()) if (folder / "study.json").is_file() else {}
    figures = draw(rows, folder / "figures")
    text = "\n".join([*heading(rows, facts), *tables(rows), *rises(rows), *answers(rows), *controls(rows), *shown(figures)])
    write_whole(folder / "REPORT.md", (text + "\n").encode(), "the rows stay")
    return folder / "REPORT.md"


def interval(found: Estimate | None, factor: float = 1.0, form: str = "+.1f") -> str:
    """`+3.1 [1.0, 5.2]`; without brackets where nothing is known of its error."""
    if found is None:
        return "–"
    value = format(factor * found.value, form)
    if found.half in (0.0, float("inf")):
        return value
    return f"{value} [{factor * found.low:{form}}, {factor * found.high:{form}}]"


def limits(low: float, high: float, factor: float = 1.0, form: str = "+.1f") -> str:
    return f"[{factor * low:{form}}, {factor * high:{form}}]"


def heading(rows: Sequence[Row], facts: dict[str, Any]) -> Iterator[str]:
    trained = [row for row in rows if row.get("loss_tokens")]
    main = [row for row in rows if row.get("role") == "grid" and row.get("gain") is not None]
    seeds = sorted({int(row["seed"]) for row in main})
    yield f"# What tuning gains and forgets: study `{facts.get('name', rows[0].get('study', ''))}`"
    yield ""
    methods = len({row["method"] for row in main})
    apart = ", by runs of another seed" if pick(rows, role="rate") else ""
    tried = [len({row["lr"] for row in choosing(rows, row["target"], row["method"])}) for row in main]
    yield (
        f"{len(trained)} training runs of {facts.get('loss_tokens', '?')} loss tokens each, {methods} methods, "
        f"targets {', '.join(map(short, targets_of(rows)))}; main comparison with seeds {', '.join(map(str, seeds)) or 'none yet'}. "
        f"The rate of each method is the best of {max(tried, default='?')} on validation rows of the target{apart}; no retained task "
        "chose anything. Gains and drops are points of accuracy on the same items before and after; a negative drop is a rise. "
        "Brackets are 95% intervals over items and seeds."
    )
    base = next((row for row in pick(rows, role="base") if row.get("retention_scores")), None)
    if base:
        scores = ", ".join(f"{short(name.partition('@')[0])} {100 * value:.0f}%" for name, value in base["retention_scores"].items())
        near = ", ".join(short(name.partition("@")[0]) for name in base.get("not_measurable") or [])
        yield ""
        yield f"Retained tasks and the base's score: {scores}." + (
            f" Too near chance to measure a loss, so left out: {near}." if near else ""
        )
    missing = facts.get("methods") and [
        f"{short(target)}: {', '.join(left)}"
        for target in facts.get("targets", [])
        if (left := [name for name in facts["methods"] if len(main_rows(rows, target, name)) < len(facts.get("seeds", (0, 1, 2)))])
    ]
    if missing:
        yield ""
        yield f"**Not finished yet**: seeds are missing for {'; '.join(missing)}. Verdicts below are from what is there."


def tables(rows: Sequence[Row]) -> Iterator[str]:
    for target in targets_of(rows):
        base = pick(rows, target=target, role="base")
        yield ""
        yield f"## {short(target)}" + (f" (base {100 * base[0]['target_score']:.1f}%)" if base else "")
        yield ""
        yield "| method | rate | gain | average drop | KL text | bits per byte | trained | saved | peak memory | train time | break-even |"
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        best = in_context(rows, target)
        if best:
            yield f"| {examples(best[0])} | – | {interval(estimate(best[1], 'gain'), 100)} | 0 | 0 | 0 | 0 | 0 | – | – | – |"
        for name in methods_of(rows, target):
            yield table_row(name, main_rows(rows, target, name))
    yield ""
    yield (
        "Peak memory is the GPU's where there was one, else the resident set of the whole process; a method that trains the model's own "
        "weights may hold a copy of them for reference, which counts (the published `cpu-mini` did). Train times are wall times beside the "
        "study's other workers (`cpu-mini`: two side by side)."
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


def rises(rows: Sequence[Row]) -> Iterator[str]:
    """Retained tasks that rose, beside what random labels do to them: that much is format, not knowledge."""
    said = []
    for target in targets_of(rows):
        groups = {name: main_rows(rows, target, name) for name in methods_of(rows, target)}
        blind = {name: pick(rows, target=target, method=name, role="random_labels") for name in LARGE}
        for task in sorted({task for group in groups.values() for row in group for task in row.get("drops") or {}}):
            found = {name: each for name, group in groups.items() if (each := rise(group, task))}
            if rose := [name for name, each in found.items() if each.low > 0]:
                shown = [name for name in LARGE if name in found] or rose[:1]
                parts = [f"{name} {interval(found[name], 100)}" for name in shown]
                parts += [f"{name} on random labels {interval(each, 100)}" for name in LARGE if (each := rise(blind[name], task))]
                title = short(task.partition("@")[0])
                said.append(f"{title} after {short(target)} with {len(rose)} of {len(found)} methods ({', '.join(parts)})")
    if said:
        yield ""
        yield (
            f"**Not forgetting.** Retained tasks that clearly rose: {'; '.join(said)}. A task that rises as much on random labels gained "
            "the format of its answers, not knowledge. A rise lowers the average drop, so it can hide losses on other tasks."
        )


def answers(rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield "## The claims"
    for number, (title, lines) in enumerate(
        (
            ("PEFT saves space", space(rows)),
            ("PEFT forgets less than full fine-tuning, at the same gain", forgetting(rows)),
            ("Tuning on several tasks at once forgets less", several(rows)),
            ("Examples in the prompt are not enough for a small model, and cost context", prompting(rows)),
        ),
        1,
    ):
        yield ""
        yield f"**{number}. {title}.** " + (" ".join(lines) or "No rows yet: cannot tell.")


def space(rows: Sequence[Row]) -> Iterator[str]:
    """Bytes of one more task against full tuning, and whether that costs gain."""
    for target in targets_of(rows):
        full = main_rows(rows, target, "full")
        size, gain = estimate(full, "saved_bytes"), estimate(full, "gain")
        if not size or not gain:
            continue
        said: dict[str, list[str]] = {}
        larger: list[str] = []
        for name in methods_of(rows, target):
            own, other = estimate(main_rows(rows, target, name), "saved_bytes"), estimate(main_rows(rows, target, name), "gain")
            if name != "full" and own and other:
                value, low, high = difference(other, gain)
                word = verdict(low, high, "gains more", "gains less", "gain too near to tell")
                times = format(size.value / own.value, ",.0f" if size.value > 10 * own.value else ".1f")
                said.setdefault(word, []).append(f"{name} ({times}x, {100 * value:+.1f})")
                larger += [name] * (own.value >= size.value)
        if not said:
            continue
        compared = sum(map(len, said.values()))
        saves = "yes" if not larger else f"no for {', '.join(larger)}" + (", yes for the others" if len(larger) < compared else "")
        listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in said.items())
        yield (
            f"{short(target)}: in bytes {saves}; full tuning saves {size.value / 1e6:,.0f} MB for every further task. "
            f"Times smaller, and points of gain over full, each told by its own 95% interval: {listed}."
        )
    peak = {name: estimate([row for row in rows if row["method"] == name and row.get("loss_tokens")], "peak_memory") for name in LARGE}
    if all(peak.values()):
        yield f"Peak memory in training: {', '.join(f'{name} {each.value / 1e9:.1f} GB' for name, each in peak.items() if each)}."


def forgetting(rows: Sequence[Row]) -> Iterator[str]:
    """Forgetting at matched gain, by three measures: a table and its count of verdicts."""
    lines: list[str] = []
    useless: list[str] = []
    every: list[Matched] = []
    for target in targets_of(rows):
        found = {measure: against_full(rows, target, measure) for measure in MEASURES}
        every += [each for by_method in found.values() for each in by_method.values()]
        for name in methods_of(rows, target):
            own = [by_method[name] for by_method in found.values() if name in by_method]
            if own and all(each.gained < 0.95 for each in own):
                useless.append(f"{short(target)} {name}")
            elif own:
                cells = [matched_cell(by_method.get(name), measure) for measure, by_method in found.items()]
                lines.append(f"| {short(target)} | {name} | {' | '.join(cells)} |")
    if every:
        yield f"Less forgotten than by full tuning, by comparisons: {counted(every)}."
    if useless:
        yield f"Without a clear gain to match: {', '.join(useless)}."
    if lines:
        yield (
            "Assumed: forgetting rises with gain, ever faster, so at the smaller of two gains the other method's lies between that of its "
            "last point before and the straight line to its next; a drop below zero counts as none. Each interval of full tuning's loss "
            "minus the method's spans both ends; a verdict holds at both, after Holm's correction over the methods of a target and measure "
            "(the intervals are not corrected):\n"
        )
        yield f"\n| target | method | {' | '.join(WORDS[measure] for measure in MEASURES)} |\n|---|---|---|---|---|\n" + "\n".join(lines)


def scale(measure: str) -> tuple[float, str]:
    """Factor and format of a column in the report."""
    return (100, "+.1f") if measure in ("gain", "average_drop") else (1, "+.3f")


def matched_cell(found: Matched | None, measure: str) -> str:
    if found is None:
        return "–"
    return found.says if found.gained < 0.95 else f"{limits(found.low, found.high, *scale(measure))}: {found.says}"


def counted(found: Iterable[Matched]) -> str:
    counts = Counter(each.says for each in found)
    return ", ".join(f"{word} {counts[word]}" for word in SAID if counts[word])


def several(rows: Sequence[Row]) -> Iterator[str]:
    """Each mitigation against the same runs without it; mixing tasks is one of them."""
    used = sorted(
        {row["mitigation"] for row in rows if row.get("role") == "mitigation"}, key=lambda name: (not name.startswith("multi"), name)
    )
    for mitigation in used:
        cells = cells_of(rows, mitigation)
        changes = {name: found for name in ("gain", *MEASURES) if (found := paired(rows, mitigation, name))}
        if not changes:
            continue
        parts = [f"{WORDS.get(name, name)} {interval(found, *scale(name))}" for name, found in changes.items()]
        pairs = sum(len(own) for own, _ in cells.values())
        yield (
            f"`{mitigation}`: {at_the_same_gain(against_plain(rows, mitigation))}. Minus without, gain not matched, {pairs} pairs in "
            f"{len(cells)} cells of target and method: {'; '.join(parts)}."
        )
        if "multi_task" in mitigation and len(targets_of(rows)) > 1:
            runs = {(row["method"], row["seed"], row["lr"]) for own, _ in cells.values() for row in own}
            yield (
                f"The mixture shares one budget among {len(targets_of(rows))} targets, so a target has about 1/{len(targets_of(rows))} of "
                f"the tokens; with equal method, seed and rate the runs of all are one training, {len(runs)} in all."
            )
        if "replay" in mitigation:
            yield "Replayed are training rows of the retained tasks themselves, on top of the budget."


def at_the_same_gain(found: dict[tuple[str, str, str], Matched]) -> str:
    """One verdict over all comparisons, which are corrected together, their count, and which of them have one."""
    if not found:
        return "cannot tell"
    told = {word: [name for name, each in found.items() if each.says == word] for word in ("less", "more")}
    word = {(True, False): "yes", (False, True): "no", (True, True): "mixed"}.get((bool(told["less"]), bool(told["more"])), "cannot tell")
    listed = "".join(
        f"; {word}: {', '.join(f'{short(target)} {method} {measure}' for target, method, measure in names)}"
        for word, names in told.items()
        if names
    )
    return f"{word}, at the gain of the same method without it ({counted(found.values())}{listed})"


def prompting(rows: Sequence[Row]) -> Iterator[str]:
    """The best number of examples in the prompt against the tuned method that is best on validation."""
    for target in targets_of(rows):
        best, name = in_context(rows, target), best_tuned(rows, target)
        if best is None or name is None:
            continue
        shots, group = best
        own = main_rows(rows, target, name)
        prompt, tuned = estimate(group, "gain"), estimate(own, "gain")
        if prompt is None or tuned is None:
            continue
        value, low, high = difference(tuned, prompt)
        word = verdict(low, high, "yes, not enough", "no")
        context = [estimate(part, "context_tokens") for part in (group, own)]
        tokens = f"; {context[0].value:.0f} tokens a query against {context[1].value:.0f}" if context[0] and context[1] else ""
        even = estimate(own, "break_even") if word != "no" else None
        yield (
            f"{short(target)}: {word}: {name}, the best on validation, gains {100 * value:+.1f} {limits(low, high, 100)} over "
            f"{examples(shots)} ({interval(prompt, 100)}), a number chosen on the scored items, which favours prompts{tokens}"
            + (f", so that tuning pays after {even.value:,.0f} queries." if even else ".")
        )


def controls(rows: Sequence[Row]) -> Iterator[str]:
    """What must hold if the measures are right."""
    said = []
    still = pick(rows, role="untrained", method="lora")
    if still:
        worst = max(abs(float(row.get(name) or 0.0)) for row in still for name in ("gain", "average_drop", "kl_text", "kl_target"))
        said.append(f"LoRA before training: largest of gain, drop and KL {worst:.1g} (must be 0)")
    for name in sorted({row["method"] for row in pick(rows, role="untrained")} - {"lora"}):
        group = pick(rows, role="untrained", method=name)
        text, drop = interval(estimate(group, "kl_text"), 1, ".2f"), interval(estimate(group, "average_drop"), 100)
        said.append(f"{name} before training: KL on text {text}, drop {drop}")
    for name in sorted({row["method"] for row in pick(rows, role="random_labels")}):
        for row in pick(rows, role="random_labels", method=name):
            gain = f"{100 * row['gain']:+.1f} {limits(row['gain_low'], row['gain_high'], 100)}"
            said.append(f"{name} on random labels, {short(row['target'])}: gain {gain}")
    ends = [
        f"{short(target)} {', '.join(names)} ({end})" for target in targets_of(rows) for end, names in edges(rows, target).items() if names
    ]
    said += [f"chosen rates at the edge of those tried, so that better ones may lie beyond: {', '.join(ends)}"] if ends else []
    broken = [row for row in rows if row.get("status") in ("diverged", "refused")]
    said += [f"{row['method']} {row['status']} at rate {row['lr']:g}" for row in broken]
    parity = [float(row["parity"]) for row in rows if row.get("parity") is not None]
    if parity:
        said.append(f"largest difference between trained and served log-probabilities {max(parity):.1g} nats over {len(parity)} runs")
    if said:
        yield ""
        yield f"**Controls.** {'; '.join(said)}."


def shown(figures: Sequence[str]) -> Iterator[str]:
    """The first figure, and links to the others."""
    for name in figures[:1]:
        yield ""
        yield f"![{CAPTIONS[name]}](figures/{name})"
    if figures[1:]:
        yield ""
        yield f"Further figures: {'; '.join(f'[{CAPTIONS[name]}](figures/{name})' for name in figures[1:])}."


def main(arguments: Sequence[str]) -> int:
    """One folder of a study; prints the path of its report."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m assay.tuners.report.text FOLDER\n")
        return 2
    try:
        sys.stdout.write(f"{build(Path(arguments[0]))}\n")
    except AssayError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
