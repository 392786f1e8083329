"""A study's report: two pages of text with numbers from its rows, and the figures. `python -m tuners.report results/studies/cpu-mini`"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import AssayError
from tuners.claims import (
    MEASURES,
    Estimate,
    Row,
    difference,
    estimate,
    in_context,
    main_rows,
    matched,
    methods_of,
    paired,
    pick,
    verdict,
)
from tuners.figures import draw, short, targets_of
from tuners.rows import FILE, read_rows
from tuners.state import write_whole

WORDS = {"average_drop": "accuracy on retained tasks (points)", "kl_text": "KL on neutral text (nats per token)"}
WORDS |= {"delta_bits_per_byte": "bits per byte of neutral text"}
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
    text = "\n".join([*heading(rows, facts), *tables(rows), *answers(rows), *controls(rows), *shown(figures)])
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
    apart = ", by runs of another seed" if facts.get("rate_seeds") else ""
    yield (
        f"{len(trained)} training runs of {facts.get('loss_tokens', '?')} loss tokens each, {methods} methods, "
        f"targets {', '.join(map(short, targets_of(rows)))}; main comparison with seeds {', '.join(map(str, seeds)) or 'none yet'}. "
        f"The rate of each method is the best of {len(facts.get('rates', []))} on validation rows of the target{apart}; no retained task "
        "chose anything. Gains and drops are points of accuracy on the same items before and after. "
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
            yield f"| {best[0]} examples | – | {interval(estimate(best[1], 'gain'), 100)} | 0 | 0 | 0 | 0 | 0 | – | – | – |"
        for name in methods_of(rows, target):
            yield table_row(name, main_rows(rows, target, name))


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
        for name in methods_of(rows, target):
            own, other = estimate(main_rows(rows, target, name), "saved_bytes"), estimate(main_rows(rows, target, name), "gain")
            if name != "full" and own and other:
                value, low, high = difference(other, gain)
                word = verdict(low, high, "gains more", "gains less", "gain too near to tell")
                said.setdefault(word, []).append(f"{name} ({size.value / own.value:,.0f}x, {100 * value:+.1f} {limits(low, high, 100)})")
        listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in said.items())
        yield (
            f"{short(target)}: in bytes yes, full tuning saves {size.value / 1e6:,.0f} MB for every further task. "
            f"Times smaller, and gain against full in points: {listed}."
        )
    peak = {name: estimate([row for row in rows if row["method"] == name and row.get("loss_tokens")], "peak_memory") for name in LARGE}
    if all(peak.values()):
        yield f"Peak memory in training: {', '.join(f'{name} {each.value / 1e9:.1f} GB' for name, each in peak.items() if each)}."


LARGE = ("full", "lora")


def forgetting(rows: Sequence[Row]) -> Iterator[str]:
    """Forgetting at matched gain, by three measures: a table and its count of verdicts."""
    lines, counts = [], dict.fromkeys(("less", "more", "cannot tell", "no gain to match"), 0)
    for target in targets_of(rows):
        for name in methods_of(rows, target):
            cells = []
            for measure in MEASURES:
                found = matched(rows, target, name, measure) if name != "full" else None
                factor, form = (100, "+.1f") if measure == "average_drop" else (1, "+.3f")
                if found is not None:
                    counts[found.says] += 1
                    number = (
                        f"{factor * found.value:{form}} {limits(found.low, found.high, factor, form)}: " if found.gained >= 0.95 else ""
                    )
                    cells.append(number + found.says)
                else:
                    cells.append("–")
            if any(cell != "–" for cell in cells):
                lines.append(f"| {short(target)} | {name} | {' | '.join(cells)} |")
    if lines:
        listed = ", ".join(f"{word} {count}" for word, count in counts.items() if count)
        yield f"Forgets less than full tuning, by comparisons: {listed}. Full tuning's loss minus the method's, at the smaller gain:\n"
        yield f"\n| target | method | {' | '.join(WORDS[measure] for measure in MEASURES)} |\n|---|---|---|---|---|\n" + "\n".join(lines)


def several(rows: Sequence[Row]) -> Iterator[str]:
    """Each mitigation against the same run without it; mixing tasks is one of them."""
    used = sorted(
        {row["mitigation"] for row in rows if row.get("role") == "mitigation"}, key=lambda name: (not name.startswith("multi"), name)
    )
    for mitigation in used:
        parts = []
        for name in ("gain", *MEASURES):
            found = paired(rows, mitigation, name)
            if found:
                factor, form = (100, "+.1f") if name in ("gain", "average_drop") else (1, "+.3f")
                low, high = (found.low, found.high) if found.count > 1 else (float("-inf"), float("inf"))
                word = verdict(-high, -low, "less forgotten", "more forgotten") if name != "gain" else verdict(low, high, "more", "less")
                parts.append(f"{WORDS.get(name, name)} {interval(found, factor, form)} ({word})")
        pairs = paired(rows, mitigation, "gain")
        if parts and pairs:
            yield f"`{mitigation}` minus without, {pairs.count} pairs: {'; '.join(parts)}."


def prompting(rows: Sequence[Row]) -> Iterator[str]:
    """The best number of examples in the prompt against the best tuned method."""
    for target in targets_of(rows):
        best, names = in_context(rows, target), methods_of(rows, target)
        if best is None or not names:
            continue
        shots, group = best
        prompt, tuned = estimate(group, "gain"), estimate(main_rows(rows, target, names[0]), "gain")
        if prompt is None or tuned is None:
            continue
        value, low, high = difference(tuned, prompt)
        context = [estimate(part, "context_tokens") for part in (group, main_rows(rows, target, names[0]))]
        tokens = f"{context[0].value:.0f} tokens a query against {context[1].value:.0f}" if context[0] and context[1] else ""
        even = estimate(main_rows(rows, target, names[0]), "break_even")
        more = f"{100 * value:+.1f} {limits(low, high, 100)}"
        yield (
            f"{short(target)}: {verdict(low, high, 'yes, not enough', 'no')}: {names[0]} gains {more} over "
            f"the best of the prompts ({shots} examples, {interval(prompt, 100)}); {tokens}"
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
    broken = [row for row in rows if row.get("status") in ("diverged", "refused")]
    said += [f"{row['method']} {row['status']} at rate {row['lr']:g}" for row in broken]
    parity = [float(row["parity"]) for row in rows if row.get("parity") is not None]
    if parity:
        said.append(f"largest difference between trained and served log-probabilities {max(parity):.1g} nats over {len(parity)} runs")
    if said:
        yield ""
        yield f"**Controls.** {'; '.join(said)}."


def shown(figures: Sequence[str]) -> Iterator[str]:
    yield ""
    for name in figures:
        yield f"![{CAPTIONS[name]}](figures/{name})"


def main(arguments: Sequence[str]) -> int:
    """One folder of a study; prints the path of its report."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tuners.report FOLDER\n")
        return 2
    try:
        sys.stdout.write(f"{build(Path(arguments[0]))}\n")
    except AssayError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
