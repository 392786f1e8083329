"""What the measurements say: one row per cell and engine, each bar with what was found, as CSV and as a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from assay.harness.engines.request import ScoreGroup
from assay.harness.engines.trie import of_groups
from tests.bench.cells import Cell

PER_TOKEN = 1e-4
"""Largest difference of a log-probability per token that counts as equal; choices nearer than that are tied."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Agreement:
    """Items in which both sides choose alike, or differ between choices that are tied; the largest difference per token."""

    items: int
    flips: int
    ties: int
    worst: float


def agreement(theirs: Sequence[Sequence[float]], ours: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> Agreement:
    """Compare summed log-probabilities of every choice of every item. Raises ValueError where the items are not the same."""
    flips = ties = 0
    worst = 0.0
    for left, right, sizes in zip(theirs, ours, tokens, strict=True):
        worst = max(worst, *(abs(a - b) / size for a, b, size in zip(left, right, sizes, strict=True)))
        one, other = left.index(max(left)), right.index(max(right))
        if one != other:
            near = abs(left[one] - left[other]) <= PER_TOKEN * max(sizes)
            flips, ties = flips + (not near), ties + near
    return Agreement(len(ours), flips, ties, worst)


def ideal(requests: Sequence[Sequence[Sequence[int]]]) -> int:
    """Distinct prefixes of lm-eval's own requests: what must be computed at least."""
    return len(of_groups([ScoreGroup(tuple(context), (tuple(continuation),)) for context, continuation in requests]))


@dataclass(frozen=True, slots=True)
class Row:
    """One cell and engine. Tokens are sums over slices; ratios are lm-eval's over ours; seconds are without the engine's start."""

    cell: str
    engine: str
    items: int
    accuracy: float
    accuracy_lm_eval: float
    flips: int
    ties: int
    worst_per_token: float
    tokens_lm_eval_vllm: int
    tokens_lm_eval_hf: int
    tokens_ideal: int
    tokens_computed: int
    computed_per_ideal: float
    tokens_ratio_vllm: float
    tokens_ratio_hf: float
    seconds: float
    seconds_lm_eval_hf: float
    wall_ratio_hf: float
    cpu_ratio_hf: float
    cpu_ratio_vllm_scaled: float
    """Against lm-eval's vLLM requests, a sample of which was sent; NaN where none was."""
    peak_gib: float
    peak_gib_lm_eval_hf: float
    batch_lm_eval_hf: int


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row_of(cell: Cell, engine: str, work: Path) -> Row | None:
    """What is there of a cell: its slices that both sides have finished."""
    stems = [work / cell.name / part.theirs for part in cell.slices]
    both = [
        (load(s.with_suffix(".peer.json")), load(s.with_suffix(f".{engine}.json")))
        for s in stems
        if s.with_suffix(f".{engine}.json").is_file()
    ]
    if not both:
        return None
    found = [agreement(peer["items"], ours["items"], ours["tokens"]) for peer, ours in both]
    items = sum(each.items for each in found)
    totals = {name: sum(peer[name] for peer, _ in both) for name in ("computed", "padded")}
    computed, least = sum(ours["computed"] for _, ours in both), sum(ideal(peer["requests"]) for peer, _ in both)
    logical = sum(len(context) + len(continuation) for peer, _ in both for context, continuation in peer["requests"])
    wall, cpu = ([sum(side["score"][kind] for side in sides) for sides in zip(*both, strict=True)] for kind in ("wall", "cpu"))
    sample = stems[0].with_suffix(".peer_vllm.json")
    sent = load(sample) if sample.is_file() else None
    if sent is not None and sent["cached"]:
        raise ValueError(f"{cell.name}: vLLM answered {sent['cached']} tokens of lm-eval's requests from its cache")
    scaled = sent["score"]["cpu"] / sent["sent"] * logical / cpu[1] if sent is not None else float("nan")
    return Row(
        cell=cell.name,
        engine=engine,
        items=items,
        accuracy=sum(ours["accuracy"] * each.items for (_, ours), each in zip(both, found, strict=True)) / items,
        accuracy_lm_eval=sum(peer["accuracy"] * each.items for (peer, _), each in zip(both, found, strict=True)) / items,
        flips=sum(each.flips for each in found),
        ties=sum(each.ties for each in found),
        worst_per_token=max(each.worst for each in found),
        tokens_lm_eval_vllm=logical,
        tokens_lm_eval_hf=totals["computed"],
        tokens_ideal=least,
        tokens_computed=computed,
        computed_per_ideal=computed / least,
        tokens_ratio_vllm=logical / computed,
        tokens_ratio_hf=totals["computed"] / computed,
        seconds=wall[1],
        seconds_lm_eval_hf=wall[0],
        wall_ratio_hf=wall[0] / wall[1],
        cpu_ratio_hf=cpu[0] / cpu[1],
        cpu_ratio_vllm_scaled=scaled,
        peak_gib=max(ours["peak"] for _, ours in both) / GIB,
        peak_gib_lm_eval_hf=max(peer["peak"] for peer, _ in both) / GIB,
        batch_lm_eval_hf=both[0][0]["batch"],
    )


def verdicts(cell: Cell, row: Row) -> list[tuple[str, str, str, bool]]:
    """Every bar of a cell: what, the bar, what was found, whether it holds."""
    bars, most = cell.bars, cell.bars.ideal_hf if row.engine == "hf" else cell.bars.ideal_vllm
    whole = f"{cell.name}, {row.engine}"
    found = [
        (f"{whole}: same predictions outside ties", "0 differ", f"{row.flips} of {row.items} ({row.ties} tied)", row.flips == 0),
        (f"{whole}: log-probability per token", f"<= {PER_TOKEN:g}", f"{row.worst_per_token:.1e}", row.worst_per_token <= PER_TOKEN),
        (
            f"{whole}: tokens, lm-eval hf / ours",
            f">= {bars.tokens_hf:g}x",
            f"{row.tokens_ratio_hf:.2f}x",
            row.tokens_ratio_hf >= bars.tokens_hf,
        ),
        (
            f"{whole}: tokens, lm-eval vllm / ours",
            f">= {bars.tokens_vllm:g}x",
            f"{row.tokens_ratio_vllm:.2f}x",
            row.tokens_ratio_vllm >= bars.tokens_vllm,
        ),
        (f"{whole}: computed / ideal tokens", f"<= {most:.2f}", f"{row.computed_per_ideal:.3f}", row.computed_per_ideal <= most),
        (f"{whole}: seconds, lm-eval hf / ours", f">= {bars.wall_hf:g}x", f"{row.wall_ratio_hf:.2f}x", row.wall_ratio_hf >= bars.wall_hf),
    ]
    return found


def starts(kept: Path) -> list[tuple[str, str, str, bool]]:
    """The two bars of starting vLLM, from rounds measured in turn."""
    rounds = [(load(path), load(path.with_name(path.name.replace("default", "assay")))) for path in pairs(kept / "start")]
    if not rounds:
        return []
    ready = [theirs["ready"] / ours["ready"] for theirs, ours in rounds]
    swap = [max(each["wall"] for each in ours["swaps"]) / ours["ready"] for _, ours in rounds]
    times = ", ".join(
        f"{ours['ready']:.0f} s of {theirs['ready']:.0f} s, CPU {work(ours):.0f} s of {work(theirs):.0f} s" for theirs, ours in rounds
    )
    swaps = ", ".join(f"{max(each['wall'] for each in ours['swaps']):.1f} s" for _, ours in rounds)
    return [
        ("vLLM from nothing to the first score / its default", "<= 1/3", f"1/{min(ready):.1f} ({times})", min(ready) >= 3),
        ("the next checkpoint, first score included / a start", "<= 1/10", f"1/{1 / max(swap):.1f} ({swaps})", max(swap) <= 0.1),
    ]


def work(side: dict[str, Any]) -> float:
    """CPU seconds of opening and the first request."""
    return float(side["open"]["cpu"] + side["first"]["cpu"])


def pairs(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.default.json")) if path.with_name(path.name.replace("default", "assay")).is_file()]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def write_results(cells: Sequence[Cell], work: Path, out: Path) -> None:
    """table.csv and the tables of README.md, whose own words stay (between the two marks everything is written anew)."""
    made = [(cell, row) for cell in cells for engine in ("hf", "vllm") if (row := row_of(cell, engine, work))]
    if not made:
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: round(v, 4 if v > 1e-3 else 8) if isinstance(v, float) else v for name, v in asdict(row).items()} for _, row in made
        )
    bars = [bar for cell, row in made for bar in verdicts(cell, row)] + starts(work)
    text = "\n\n".join((figures([row for _, row in made]), "Bars:", bar_table(bars)))
    page = out / "README.md"
    before, after = (page.read_text() if page.is_file() else "<!-- tables -->\n<!-- end -->\n").split("<!-- tables -->")
    page.write_text(f"{before}<!-- tables -->\n{text}\n<!-- end -->{after.partition('<!-- end -->')[2]}")


def figures(rows: Sequence[Row]) -> str:
    head = (
        "cell",
        "engine",
        "items",
        "accuracy, theirs",
        "tokens: lm-eval vllm",
        "lm-eval hf",
        "ideal",
        "ours",
        "seconds, theirs",
        "GiB, theirs",
    )
    lines = [
        (
            row.cell,
            row.engine,
            str(row.items),
            f"{row.accuracy:.4f}, {row.accuracy_lm_eval:.4f}",
            f"{row.tokens_lm_eval_vllm:,}",
            f"{row.tokens_lm_eval_hf:,}",
            f"{row.tokens_ideal:,}",
            f"{row.tokens_computed:,}",
            f"{row.seconds:.0f}, {row.seconds_lm_eval_hf:.0f} ({row.wall_ratio_hf:.1f}x; CPU {row.cpu_ratio_hf:.1f}x)",
            f"{row.peak_gib:.1f}, {row.peak_gib_lm_eval_hf:.1f}",
        )
        for row in rows
    ]
    return markdown(head, lines)


def bar_table(bars: Sequence[tuple[str, str, str, bool]]) -> str:
    return markdown(
        ("what", "bar", "found", "holds"), [(what, bar, found, "yes" if holds else "**no**") for what, bar, found, holds in bars]
    )
