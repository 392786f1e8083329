"""Options of `assay run` about which items are scored."""

from __future__ import annotations

from typing import Annotated

import typer

ITEMS = "Items"
Limit = Annotated[
    int | None,
    typer.Option(help="Score a sample of N items of each task, such as --limit 100. Such scores are not ranked.", rich_help_panel=ITEMS),
]
LimitOrder = Annotated[
    str, typer.Option(help="Items of --limit: sample (by --seed, stratified by label) or first (as lm-eval).", rich_help_panel=ITEMS)
]
Overlong = Annotated[
    str,
    typer.Option(help="Items that do not fit the context: error, skip or truncate-left (cut the prompt).", rich_help_panel=ITEMS),
]
AllowFailed = Annotated[
    bool,
    typer.Option("--allow-failed", help="Finish a run whose items failed; its scores leave them out, are marked and not ranked."),
]
Shard = Annotated[str, typer.Option(help="Score only part i/n of each task. `assay store merge` merges the parts.", rich_help_panel=ITEMS)]
