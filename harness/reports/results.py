"""The table of results on a terminal, and the notes below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assay.harness.model.served import UNVERIFIED, is_served

if TYPE_CHECKING:
    from rich.table import Table

Result = Mapping[str, Any]
MARKS = {
    "partial": ("◐", "part of the split only"),
    "limited": ("◔", "some of the items only (--limit)"),
    "overlong": ("◒", "items skipped or cut (--overlong)"),
    "failed": ("◓", "items failed (--allow-failed)"),
}


def show_number(value: float | None) -> str:
    """Three decimals, two for values of 10 or more; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def show_interval(result: Result) -> str:
    if result["value"] is None:
        return "undefined"
    if result["low"] is None or result["high"] is None:
        return "too few items"
    return f"{show_number(result['low'])} – {show_number(result['high'])}"


def marked_name(result: Result) -> str:
    mark, _ = MARKS.get(result.get("evidence", ""), ("", ""))
    return f"{result['task']} {mark}".rstrip()


def results_table(results: Sequence[Result]) -> Table:
    """One row per task and metric, with the 95 % interval, chance and number of items."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column("score", justify="right", style="bold")
    table.add_column("95 % interval", justify="right")
    table.add_column("chance", justify="right", style="dim")
    table.add_column("n", justify="right")
    table.add_column("shots", justify="right")
    names = ["", *map(marked_name, results)]
    for result, before, name in zip(results, names, names[1:], strict=False):
        table.add_row(
            Text("" if name == before else name),
            Text(result["metric"]),
            show_number(result["value"]),
            show_interval(result),
            show_number(result["chance"]) if result.get("chance") is not None else "",
            str(result["n"]),
            "" if result["shots"] is None else str(result["shots"]),
            style="" if result["main"] else "dim",
        )
    return table


def settings_line(manifest: Mapping[str, Any]) -> str:
    """The settings other than the defaults that a run's numbers depend on, such as "chat template 3f2a91c0"; empty if there are none."""
    tasks = manifest["tasks"]
    settings = dict(tasks[0].get("settings", {})) if tasks else {}
    if settings.get("seed") == "0":
        del settings["seed"]
    if manifest.get("chat") and "chat" not in settings:  # a run of an earlier version
        settings = {"chat": "", **settings}
    names = {"chat": "chat template", "system": "system prompt", "seed": "random seed"}
    first = sorted(settings, key=lambda name: list(names).index(name) if name in names else len(names))
    return ", ".join(f"{names.get(name, name.replace('_', ' '))} {settings[name]}".rstrip() for name in first)


def tie_note(task: Mapping[str, Any], count: int) -> str:
    """How many items of a task have equally good choices, and how they count."""
    rule = "each of k counts 1/k" if task.get("ties") == "share" else "the first counts, as the protocol has it"
    return f"{task['name']}: {count:,} {'item has' if count == 1 else 'items have'} equally good choices ({rule})."


def side_by_side(runs: Sequence[tuple[str, Sequence[Result]]]) -> Table:
    """The main scores of several models (name, results), one row per task and metric; a dash where a model has none."""
    from rich.table import Table
    from rich.text import Text

    rows: dict[tuple[str, str], dict[int, float]] = {}
    for place, (_, results) in enumerate(runs):
        for result in results:
            if result.get("main") and result["value"] is not None:
                rows.setdefault((result["task"], result["metric"]), {})[place] = float(result["value"])
    made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in ("task", "metric"):
        made.add_column(name, overflow="fold")
    for name, _ in runs:
        made.add_column(Text(name[-32:]), justify="right", overflow="fold")
    for (task, metric), values in rows.items():
        made.add_row(Text(task), Text(metric), *(show_number(values[place]) if place in values else "–" for place in range(len(runs))))
    return made


def notes(manifest: Mapping[str, Any], results: Sequence[Result], ties: Mapping[str, int] | None = None) -> list[str]:
    """Notes below a table of results: purpose, evidence, and everything that was left out or changed."""
    found = []
    if manifest["purpose"] == "smoke":
        found.append("Smoke tasks only test that the software works. Their scores are not benchmark results.")
    if is_served(manifest["model"]["digest"]):
        served = manifest["model"].get("served", {})
        sent = {"ids": "token ids of a local tokenizer", "text": "text; the server tokenises", "chat": "messages; the server's template"}
        how = sent.get(served.get("prompts"), "prompts")
        found.append(f"{UNVERIFIED.capitalize()}: {served.get('name', '')} at {served.get('address', '')}. It is sent {how}.")
    found += [f"{note[0].upper()}{note[1:]}." for note in manifest["model"].get("notes", ())]
    for word, (mark, meaning) in MARKS.items():
        if any(result.get("evidence") == word for result in results):
            found.append(f"{mark} {meaning}: not the standard benchmark, never ranked.")
    hidden = [task["name"] for task in manifest["tasks"] if not task["labelled"]]
    if hidden:
        found.append(f"No public labels, predictions stored without scores: {', '.join(hidden)}.")
    for task in manifest["tasks"]:
        if task.get("variants"):
            counts = ", ".join(f"{name} {count}" for name, count in task["variants"].items())
            found.append(f"{task['name']}: items changed by each perturbation (the others are scored unchanged): {counts}.")
    for task in manifest["tasks"]:
        if replaced := task.get("shots_replaced", 0):
            what = f"{replaced} {'item has' if replaced == 1 else 'items have'} other few-shot examples than the protocol's"
            found.append(f"{task['name']}: {what}, which show the item's own question.")
        found += [f"{task['name']}: {note}." for note in task.get("notes", ())]
    for task in manifest["tasks"]:
        if long := task.get("overlong"):
            done = "skipped" if long["rule"] == "skip" else "cut on the left"
            found.append(f"{task['name']}: {long['items']:,} of {task['items']:,} items do not fit the model's context: {done}.")
    found += [tie_note(task, count) for task in manifest["tasks"] if (count := (ties or {}).get(task["name"], 0))]
    for result in results:
        if result["value"] is None:
            found.append(f"{result['task']}: {result['metric']} is undefined: {result.get('reason') or 'no value was stored'}.")
    for left in manifest.get("left_out", ()):
        found.append(f"Skipped, data missing: {left['reason']}")
    for total in manifest.get("unformed", ()):
        found.append(f"Total {total['total']} not computed, tasks missing: {', '.join(total['lacks'])}.")
    moved = sum(task["boundary_moved"] for task in manifest["tasks"])
    if moved:
        found.append(f"{moved} items have a continuation that changes the prompt's last token (scored with lm-eval's rule).")
    dropped = sum(task["shots_dropped"] for task in manifest["tasks"])
    if dropped:
        found.append(f"{dropped} items have fewer few-shot examples, to fit the model's context length.")
    return found
