"""The report's section on frontiers: every method at matched gain against full tuning and against each other, and the literature."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from assay.tuners.report.claims import Row, cells_of, estimate, main_rows
from assay.tuners.report.figures import short, targets_of
from assay.tuners.report.frontier import MEASURES, MatchedMethods, Points, along_table, frontier_json, mitigated_table, paths_of
from assay.tuners.report.paired import FACTOR, SHARE, Contrast, Items, RunPath, contrast
from assay.tuners.report.paired_text import against_full
from assay.tuners.training.state import write_atomic

FULL = "full"
FRONTIERS = "frontiers.json"
OPPOSITE = {"dominates": "dominated", "dominated": "dominates"}

LITERATURE = (
    (
        "LoRA learns less and forgets less (Biderman et al. 2024, arXiv 2405.09673)",
        "drop of the mean of HellaSwag, ARC-Challenge and WinoGrande, against the target's score, at every checkpoint; Llama-2-7B",
        "our KL on neutral text, along the run at equal gain; they compare methods at unequal gains, with one seed",
    ),
    (
        "peft `method_comparison` (peft 0.21)",
        "increase of cross-entropy on 100 Wikipedia texts at the end of one run; one task, one seed, one learning rate for most methods",
        "our change in bits per byte (`delta_bits_per_byte`) is the same up to the unit; KL cannot fall below 0, cross-entropy can",
    ),
    (
        "PEFT-Arena (2026, arXiv 2605.28819)",
        "drop of the mean of BBH, IFEval and NQ; weights rewound towards the base give further points",
        "our `average_drop` with intervals, and `wise_ft` for the rewinding; theirs has no seeds or intervals",
    ),
    (
        "RL's Razor (Shenfeld et al. 2025, arXiv 2509.04259)",
        "drop of the mean of earlier tasks, which KL between base and tuned model on the target's prompts predicts",
        "our `kl_target`; along the run we measure KL on neutral text, and the report tells how it goes with `average_drop`",
    ),
    (
        "Scaling laws for forgetting (Kalajdzievski 2024, arXiv 2401.05605)",
        "cross-entropy of the tuned model on text that the base generates, less the base's",
        "a KL on the base's own text; ours is on text by people",
    ),
)
"""Name, definition of forgetting, and how it relates to ours."""


def write_frontiers(rows: Sequence[Row], points: Points, folder: Path) -> None:
    """Write `frontiers.json`, which pages read: by target every run's path, each method's frontier with its band, and the verdicts."""
    if points:
        found = [frontier_json(rows, points, target) for target in targets_of(rows)]
        write_atomic(folder / FRONTIERS, json.dumps(found).encode(), "the rows are unchanged")


def frontier_section(rows: Sequence[Row], points: Points, items: Items | None = None) -> Iterator[str]:
    """Nothing for a study whose runs were not scored along their way."""
    if not points:
        return
    yield ""
    yield "## Along the runs: KL at equal gain"
    yield ""
    yield (
        "Every run was scored after several steps, so it is a path of gain and KL. Methods are compared at "
        f"{100 * SHARE:.0f}% of the smaller of the two final gains of a seed, by the ratio of their KL there: *dominates* if it is lower, "
        f"*dominated* if it is higher, *no difference* if it is within a factor of {FACTOR:g}, else *cannot tell*. Brackets are 95% "
        "confidence intervals over seeds; verdicts are corrected by Holm's method over all pairs of a target. *Over the range* is the same "
        "from a simultaneous band over all gains that both reach. Gain and KL are of these items and texts."
    )
    for target in targets_of(rows):
        found = along_table(rows, points, target)
        if found:
            yield from target_lines(rows, points, target, found, items or {})
    yield from agreement(rows, points)
    yield from literature()


def frontier_claim(rows: Sequence[Row], points: Points, items: Items | None = None) -> Iterator[str]:
    """By target a verdict, and the methods by their verdict against full tuning at equal gain; then by gain and KL where the runs end."""
    for target in targets_of(rows):
        found = along_table(rows, points, target)
        others = sorted({name for pair in found for name in pair} - {FULL})
        words = {name: verdict_between(name, FULL, found)[0] for name in others} if any(FULL in pair for pair in found) else {}
        if words:
            yield f"{short(target)}: {claim_word(words.values())}, at equal gain along the runs against full tuning ({listed(words)})."
        ends = {name: each.verdict for name, each in against_full(rows, target, items).items()}
        if ends:
            yield f"Where the runs end, by gain and KL together: {listed(ends)}."


def claim_word(verdicts: Iterable[str]) -> str:
    """Whether "forgets less" holds: yes or no if some comparisons say so and none the opposite."""
    counts = Counter(verdicts)
    if counts["dominates"]:
        return "mixed" if counts["dominated"] else "yes"
    return "no" if counts["dominated"] or counts["no difference"] > counts["cannot tell"] else "inconclusive"


def listed(words: Mapping[str, str]) -> str:
    """The names by their verdict."""
    return "; ".join(
        f"{phrase}: {', '.join(found)}" for word, phrase in CLAIMED.items() if (found := [n for n in words if words[n] == word])
    )


def mitigations_along(rows: Sequence[Row], points: Points, items: Items, multi_task: bool) -> Iterator[str]:
    """A verdict by target, and a table: each mitigation against the same runs without it; mixtures of targets, or all others."""
    lines = []
    for target in targets_of(rows):
        found = {key: each for key, each in mitigated_table(rows, points, target).items() if ("multi_task" in key[1]) == multi_task}
        words = {f"{mitigation} on {method}": each.verdict for (method, mitigation), each in found.items()}
        if words:
            yield f"{short(target)}: {claim_word(words.values())}, at equal gain against the same runs without it ({listed(words)})."
        for (method, mitigation), each in found.items():
            own, plain = cells_of(rows, mitigation)[target, method]
            gain, final = contrast(own, plain, "gain", items=items), contrast(own, plain, "kl_text", of=math.log)
            kl = f"{math.exp(final.value):.3g}x [{math.exp(final.low):.3g}, {math.exp(final.high):.3g}]" if final else "–"
            cells = (method, mitigation, len(own), points_cell(gain), kl, factor_cell(each.factor), each.verdict)
            lines.append(f"| {short(target)} | {' | '.join(map(str, cells))} |")
    if lines:
        head = (
            "| target | method | mitigation | seeds | final gain minus plain (points) | final KL over plain | KL at equal gain | verdict |"
        )
        yield "\n".join(("\n", head, "|---" * 8 + "|", *lines, "\n"))
        used = " ".join(lines)
        yield " ".join(note for name, note in MITIGATION_NOTES.items() if name in used)


MITIGATION_NOTES = {
    "multi_task": "A mixture shares the budget among the study's targets, so each has a part of the examples.",
    "replay": "Replay uses training rows of the retention tasks, in addition to the budget.",
    "wise_ft": "An interpolated run is scored at its end alone; before it KL is that of the straight line to the base, an upper bound.",
}


def agreement(rows: Sequence[Row], points: Points) -> Iterator[str]:
    """How KL goes with the drop on the retention tasks, over the runs that were scored along their way."""
    from scipy.stats import spearmanr

    pairs = [
        (float(own[-1][name]), float(row["average_drop"]))
        for row in rows
        if row.get("average_drop") is not None and (own := points.get(str(row.get("trial"))))
        for name in MEASURES
        if own[-1].get(name) is not None
    ]
    if len(pairs) > 3:
        found = spearmanr(*zip(*pairs, strict=True))
        yield ""
        yield (
            f"KL and accuracy: over {len(pairs)} runs the rank correlation of final KL with the average drop on the retention tasks is "
            f"{found.statistic:+.2f} (p {found.pvalue:.2g})"
            + (
                ". Without a clear correlation the items are too few, or the tasks measure something that KL on text does not."
                if not found.pvalue < 0.05
                else "."
            )
        )


def target_lines(
    rows: Sequence[Row], points: Points, target: str, found: Mapping[tuple[str, str], MatchedMethods], items: Items
) -> Iterator[str]:
    names = list(dict.fromkeys(name for pair in found for name in pair))
    counts = Counter(each.verdict for each in found.values())
    decided = sum(counts.values()) - counts["cannot tell"]
    yield ""
    yield f"### {short(target)}"
    yield ""
    yield (
        f"{decided} of {len(found)} pairs of {len(names)} methods are decided: "
        + ", ".join(f"{word} {count}" for word, count in counts.most_common())
        + "."
    )
    yield ""
    yield "| method | seeds | final gain (points) | minus full | final KL (nats) | KL at equal gain over full | verdict | over the range |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in sorted(names, key=lambda name: final_kl(paths_of(rows, points, target, name))):
        yield method_line(rows, points, target, name, found, items)
    failed = [name for name in names if not_trained(rows, points, target, name)]
    if failed:
        yield ""
        yield f"Not above the same method before its first step in every seed, so listed as failed: {', '.join(failed)}."
    yield ""
    yield f"By pair (row against column, {', '.join(f'`{mark}` {word}' for word, mark in MARKS.items())}):"
    yield ""
    yield from matrix(names, found)


CLAIMED = {
    "dominates": "forgets less (KL is lower)",
    "dominated": "forgets more",
    "no difference": f"no difference above a factor of {FACTOR:g}",
    "cannot tell": "cannot tell",
}
MARKS = {"dominates": "+", "dominated": "-", "no difference": "=", "cannot tell": "?"}


def matrix(names: Sequence[str], found: Mapping[tuple[str, str], MatchedMethods]) -> Iterator[str]:
    yield f"| | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for one in names:
        yield f"| {one} | {' | '.join('' if one == other else MARKS[verdict_between(one, other, found)[0]] for other in names)} |"


def method_line(
    rows: Sequence[Row], points: Points, target: str, name: str, found: Mapping[tuple[str, str], MatchedMethods], items: Items
) -> str:
    paths, own = paths_of(rows, points, target, name), main_rows(rows, target, name)
    gain, change = estimate(own, "gain"), contrast(own, main_rows(rows, target, FULL), "gain", items=items) if name != FULL else None
    start = f"| {name} | {len(paths)} | {f'{100 * gain.value:+.1f}' if gain else '–'} | {points_cell(change)} | {final_kl(paths):.3g} "
    if name == FULL:
        return start + "| 1 | | |"
    verdict, over, factor = verdict_between(name, FULL, found)
    return start + f"| {factor_cell(factor)} | {verdict} | {over} |"


def points_cell(found: Contrast | None) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" if found else "–"


def factor_cell(factor: tuple[float, float, float] | None) -> str:
    return f"{factor[0]:.3g}x [{factor[1]:.3g}, {factor[2]:.3g}]" if factor else "too few runs with a common gain"


def verdict_between(
    one: str, other: str, found: Mapping[tuple[str, str], MatchedMethods]
) -> tuple[str, str, tuple[float, float, float] | None]:
    """The verdict, the verdict over the range, and the factor of KL of one method against another, in either order of the pair."""
    if (one, other) in found:
        each = found[one, other]
        return each.verdict, each.verdict_over_range, each.factor
    each = found.get((other, one), MatchedMethods(None, None))
    turned = (1 / each.factor[0], 1 / each.factor[2], 1 / each.factor[1]) if each.factor else None
    return OPPOSITE.get(each.verdict, each.verdict), OPPOSITE.get(each.verdict_over_range, each.verdict_over_range), turned


def final_kl(paths: Mapping[int, RunPath]) -> float:
    """Geometric mean over seeds of KL at the end of the runs."""
    logs = [math.log(path[-1][1]) if path[-1][1] > 0 else -math.inf for path in paths.values()]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def not_trained(rows: Sequence[Row], points: Points, target: str, name: str) -> bool:
    """Whether a seed's run ended with no more gain than 0, or than before its first step, for methods that change the model untrained."""
    runs = [points.get(str(row.get("trial")), ()) for row in main_rows(rows, target, name)]
    starts = [max(0.0, float(run[0]["gain"]) if run[0]["step"] == 0 else 0.0) for run in runs if run]
    return any(float(run[-1]["gain"]) <= start for run, start in zip([run for run in runs if run], starts, strict=True))


def literature() -> Iterator[str]:
    yield ""
    yield "### Beside the literature"
    yield ""
    yield "| source | what it calls forgetting | beside ours |"
    yield "|---|---|---|"
    for row in LITERATURE:
        yield f"| {' | '.join(row)} |"
