"""assay forget."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from assay import Missing
from assay.harness.decide.stored_gate import Gate
from assay.harness.reports.formatting import aggregate_line, details, headline
from assay.harness.reports.json_values import gate_json
from assay.harness.reports.tables import gate_cells, table
from assay.harness.run.stages import Surroundings, find_model, open_tokenizer, surroundings
from assay.tuners.commands.options import Json, names
from assay.tuners.commands.output import check_installed, tell
from assay.tuners.study.checkpoint_gate import RETENTION, Pair, gate_plans, policy_of
from assay.tuners.study.prepare import first_tokens, read_neutral
from assay.tuners.study.text_change import TextChange, text_change
from assay.tuners.training.data import text_examples

TEXT = "helm/language_modelling/sentences"
TEXT_TOKENS = 1024


def forget(
    base: Annotated[str, typer.Argument(help="Model before fine-tuning: folder, hub id or builtin:smollm2-135m.")],
    tuned: Annotated[str, typer.Argument(help="Model after it: a model folder or hub id, or the folder of an adapter of the base.")],
    retain: Annotated[
        str, typer.Option(help="Comma-separated list of tasks that should not get worse. \\[default: ARC-Easy, PIQA and BLiMP]")
    ] = ",".join(RETENTION),
    text: Annotated[
        str, typer.Option(help="Neutral text for KL(base || tuned): a file, or a perplexity task; none to leave it out.")
    ] = TEXT,
    limit: Annotated[int | None, typer.Option(help="Score a sample of N items per task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template.")] = False,
    margin: Annotated[float, typer.Option(help="Allowed loss of the aggregate, in points.")] = 1.0,
    task_margin: Annotated[float, typer.Option(help="Allowed loss of a single task, in points.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure what a fine-tuned model forgot: paired changes on tasks and text, decided as by `assay gate` (exit codes 0, 10, 11).

    [dim]assay forget builtin:smollm2-135m results/tuned/.../result --retain glue/sst2,mmlu[/dim]
    """
    check_installed()
    place = surroundings()
    pair, policy = Pair(base, tuned), policy_of(margin, task_margin)
    change = change_on_text(pair, text, place)
    found = gate_plans(pair.plans(names(retain), limit, chat), policy, place, tell)
    if as_json:
        shown = gate_json(found.decision, found.comparison, found.exit_code)
        sys.stdout.write(json.dumps({**shown, "text": asdict(change) if change else None}) + "\n")
    else:
        show(found, change)
    raise typer.Exit(found.exit_code)


def change_on_text(pair: Pair, text: str, place: Surroundings) -> TextChange | None:
    """KL and bits per byte on the text; None without one, or if the default text is not on this machine."""
    if text in ("", "none"):
        return None
    try:
        texts = read_neutral(text, place.access())
    except Missing as error:
        if text != TEXT:
            raise
        tell(f"no text to measure KL on: {error}")
        return None
    one, two = (find_model(name, cache=place.cache, offline=place.offline) for name in (pair.base, pair.model))
    examples = first_tokens(text_examples(texts, open_tokenizer(one.path), one.positions), TEXT_TOKENS)
    return text_change(one.path, (two.path, Path(pair.adapter) if pair.adapter else None), examples)


def show(found: Gate, change: TextChange | None) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    lines = [headline(found.decision, found.comparison), aggregate_line(found.decision), *(f"  {each}" for each in found.decision.reasons)]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(table(*gate_cells(found.decision), console.width))
    for line in (*((change.sentence(),) if change else ()), *details(found.decision, found.comparison)):
        console.print(line, markup=False, soft_wrap=True)
