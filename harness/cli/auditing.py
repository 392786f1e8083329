"""assay audit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from harness.audit import SHARE, audit
from harness.cli.console import out, print_json, watching
from harness.cli.running import Json, Results, place_of
from harness.errors import Invalid
from harness.store import find_run, read_run


def audit_command(
    run: Annotated[str, typer.Argument(help="A run's id, a unique prefix of it, or its folder.")],
    share: Annotated[float, typer.Option(help="Part of the items to ask again, at least 20 of them.")] = SHARE,
    seed: Annotated[int, typer.Option(help="Another seed draws other items.")] = 0,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Ask a seeded 2 % of a run's items again, one plain fp32 forward each, and compare with what is stored.

    Exit code 0: as stored; 14: not as stored; 12: the model or the data are other ones now.

    [dim]assay audit 20261123-2015[/dim]
    """
    place = place_of(results)
    with watching() as watch:
        found = audit(read_run(find_run(place.results, run)), place, watch, share, seed)
    if as_json:
        print_json({**asdict(found), "passed": found.passed})
    else:
        verdict = "as stored" if found.passed else f"NOT as stored: {len(found.differences)} differ"
        skipped = f", {found.skipped} sampled texts left out" if found.skipped else ""
        out().print(f"{found.items} of {found.of} items of run {found.run}{skipped}: {verdict}", markup=False)
        out().print(f"largest difference of a token's log-probability {found.drift:.1e} nats, allowed {found.tolerance:g}")
        for each in found.differences[:20]:
            out().print(f"  {each.task}  {each.item}  {each.what}", markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(Invalid.exit_code)
