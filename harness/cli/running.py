"""assay run, resume, demo, doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import typer
from rich.markup import escape

from assay.harness.cli import options
from assay.harness.cli.console import duration, err, out, print_json, show_progress
from assay.harness.cli.explaining import explain_plans
from assay.harness.cli.options import Json, Results, budget_bytes, comma_list, place_of, shot_counts, text_or_file
from assay.harness.decide.curves import contrasts, points
from assay.harness.engines import DTYPES
from assay.harness.engines.cluster import open_cluster
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.prompt.perturb import with_perturbations
from assay.harness.reports.curves import contrasts_table, points_table
from assay.harness.reports.results import notes, results_table, settings_line, side_by_side
from assay.harness.run.doctor import examine, has_gpu
from assay.harness.run.evaluate import evaluate, resume
from assay.harness.run.noise import sentence
from assay.harness.run.proof import sentence as proof_sentence
from assay.harness.run.selection import anchored, defined_in
from assay.harness.run.sweep import expand_models, plans_of, sweep
from assay.harness.store import Run, find_run, read_run
from assay.harness.store.plan import DATE, Plan


def register(app: typer.Typer) -> None:
    app.command("run")(run_command)
    app.command("resume")(resume_command)
    app.command("demo")(demo_command)
    app.command("doctor")(doctor_command)


GIVE_SEVERAL = ("model", "shots", "adapter")
"""Fields of a plan of which `assay run` takes several values, one run for each."""


def run_command(
    context: typer.Context,
    model: options.Models,
    tasks: options.Tasks,
    include_path: options.IncludePath = None,
    shots: options.ShotCounts = "",
    protocol: options.Protocols = "",
    perturb: options.Perturb = "",
    limit: options.Limit = None,
    limit_order: options.LimitOrder = "sample",
    overlong: options.Overlong = "error",
    allow_failed: options.AllowFailed = False,
    seed: options.Seed = 0,
    split: options.Split = "",
    engine: options.EngineName = "auto",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    adapter: options.Adapters = "",
    served_name: options.ServedName = "",
    tokenizer: options.TokenizerFolder = "",
    revision: options.Revision = "",
    chat: options.Chat = False,
    system: options.SystemMessage = "",
    template_args: options.TemplateArgs = None,
    template_date: options.TemplateDate = DATE,
    one_turn: options.OneTurn = False,
    assistant_prefix: options.AssistantPrefix = "",
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    samples: options.Samples = None,
    stop: options.Stop = None,
    thinking_budget: options.ThinkingBudget = None,
    drop_shots: options.DropShots = False,
    allow_partial: options.AllowPartial = False,
    shard: options.Shard = "",
    batch: options.Batch = None,
    budget: options.CacheMemory = None,
    tensor_parallel: options.TensorParallel = 1,
    pipeline_parallel: options.PipelineParallel = 1,
    data_parallel: options.DataParallel = 1,
    engine_args: options.EngineArgs = None,
    repeat_check: options.RepeatCheck = False,
    repeat_engine: options.RepeatEngine = "",
    ray: options.Ray = False,
    explain: options.Explain = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Score a model on tasks.

    [dim]assay run --model builtin:smollm2-135m --tasks glue/rte,mmlu/anatomy[/dim]
    """
    place = place_of(results)
    plan = Plan(model="", **plan_fields(context.params, comma_list(tasks)))
    plans = plans_of(plan, expand_models(model), shot_counts(shots), comma_list(protocol), expand_models(adapter))
    if explain:
        explain_plans(plans, place, as_json)
        return
    warn_of_float16(dtype, device)
    with show_progress() as progress:
        bundles = sweep(plans, place, progress, open_cluster if ray else open_engine)
    print_runs([read_run(bundle) for bundle in bundles], place, as_json)


def warn_of_float16(dtype: str, device: str) -> None:
    if DTYPES.get(dtype, dtype) == "float16" and not (device.startswith("cuda") or has_gpu()):
        err().print("warning: float16 on a CPU is slow and less exact: --dtype float32 is its default", style="yellow", markup=False)


def plan_fields(given: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The fields of a plan of these tasks, but those in GIVE_SEVERAL, from the options of `assay run`, which have the fields' names."""
    perturb, access = comma_list(given["perturb"]), surroundings().access()
    names = [defined_in(given["include_path"], anchored(name), access) for name in tasks]
    known = {field.name for field in fields(Plan)} - {*GIVE_SEVERAL}
    return {name: value for name, value in given.items() if name in known} | {
        "tasks": tuple(with_perturbations(name, perturb) for name in names),
        "system": text_or_file(given["system"]),
        "template_args": tuple(given["template_args"] or ()),
        "stop": tuple(given["stop"] or ()) or None,
        "budget": budget_bytes(given["budget"]),
        "engine_args": tuple(given["engine_args"] or ()),
    }


def resume_command(
    run: options.StoredRun,
    ray: options.Ray = False,
    allow_failed: options.AllowFailed = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Resume an interrupted run. Finished items are not scored again.

    [dim]assay resume 20261123-2015[/dim]
    """
    place = place_of(results)
    with show_progress() as progress:
        bundle = resume(find_run(place.results, run), place, progress, open_cluster if ray else open_engine, allow_failed)
    print_run(read_run(bundle), place, as_json)


def demo_command(results: Results = None, as_json: Json = False) -> None:
    """Score the built-in model on the smoke tasks (about one minute).

    [dim]assay demo[/dim]
    """
    place = place_of(results)
    with show_progress() as progress:
        bundle = evaluate(Plan(model="builtin:smollm2-135m", tasks=("smoke",), engine="hf"), place, progress)
    print_run(read_run(bundle), place, as_json)
    if not as_json:
        out().print("Next: [bold]assay tasks[/] lists all benchmarks. With data from the hub or in $ASSAY_DATA, try")
        out().print("  [bold]assay run --model builtin:smollm2-135m --tasks glue/rte,superglue/copa,mmlu/anatomy --limit 100[/]")


def run_json(run: Run) -> dict[str, Any]:
    """The JSON object of a finished run."""
    summary, manifest = run.summary(), run.manifest
    return {
        "run": manifest["run"],
        "model": manifest["model"],
        "engine": manifest["engine"]["name"],
        "engine_facts": {**manifest["engine"], **summary["engine"]},
        "purpose": manifest["purpose"],
        "evidence": manifest["evidence"],
        "left_out": manifest.get("left_out", []),
        "unformed": manifest.get("unformed", []),
        "results": summary["results"],
        "tokens": summary["tokens"],
        "seconds": summary["seconds"],
        "noise": summary.get("noise", {}),
        "proof": summary.get("proof", {}),
        "statuses": summary.get("statuses", {}),
        "ties": summary.get("ties", {}),
        "thinking": summary.get("thinking", {}),
        "bundle": str(run.path),
    }


def print_runs(runs: Sequence[Run], place: Surroundings, as_json: bool) -> None:
    """Print runs. Several runs of one model are printed as a curve; with --json, several runs are one object."""
    one_model = len(runs) > 1 and len({run.manifest["model"]["digest"] for run in runs}) == 1
    curve = points(runs) if one_model else []
    pairs = contrasts(runs, place.access(allow_partial=True)) if one_model else []
    if as_json and len(runs) > 1:
        extra = {"points": [asdict(point) for point in curve], "contrasts": [asdict(pair) for pair in pairs]} if one_model else {}
        print_json({"runs": [run_json(run) for run in runs], **extra})
        return
    if one_model:
        out().print(points_table(curve))
        if pairs:
            out().print(contrasts_table(pairs))
        proofs = [proof_sentence(proof) for run in runs if (proof := run.summary().get("proof")) and proof["way"] == "plain"]
        for note in dict.fromkeys([*proofs, *(note for run in runs for note in notes(run.manifest, run.summary()["results"]))]):
            out().print(note, style="yellow", markup=False)
        return
    for run in runs:
        print_run(run, place, as_json)
        if len(runs) > 1:
            out().print()
    if len(runs) > 1:
        out().print(side_by_side([(run.manifest["model"]["name"], run.summary()["results"]) for run in runs]))


def print_run(run: Run, place: Surroundings, as_json: bool) -> None:
    if as_json:
        print_json(run_json(run))
        return
    summary, manifest, console = run.summary(), run.manifest, out()
    model = manifest["model"]
    size = model["parameters"]  # unknown for imported runs
    known = f"{size / 1e6:,.0f}M parameters" if isinstance(size, int | float) else "size unknown"
    console.print(f"[bold]{escape(model['name'])}[/]  {known}  digest {model['digest'][:12]}")
    console.print(f"engine: {manifest['engine']['name']} ({manifest['engine']['reason']})\n", style="dim", markup=False)
    if settings := settings_line(manifest):
        console.print(f"with {settings}", markup=False, style="bold", soft_wrap=True)
    console.print(results_table(summary["results"]))
    console.print()
    for note in notes(manifest, summary["results"], summary.get("ties")):
        console.print(note, style="yellow", markup=False)
    if thinking := summary.get("thinking"):
        spent = f"{thinking['tokens']:,} tokens" + (f", {seconds:.1f} s" if (seconds := thinking.get("seconds")) else "")
        console.print(f"Thinking parts: {thinking['responses']:,} responses, {spent}, not part of the scored text.", style="dim")
        if thinking["cut"]:
            console.print(
                f"{thinking['cut']:,} of them ran into the limit, their items are marked as truncated. "
                "Raise --max-tokens, or set --thinking-budget.",
                style="yellow",
            )
    if proof := summary.get("proof"):
        console.print(proof_sentence(proof), markup=False, style="yellow" if proof["way"] == "plain" else "dim", soft_wrap=True)
    for kind, noise in summary.get("noise", {}).items():
        console.print(f"noise floor: {sentence(kind, noise)}", markup=False, soft_wrap=not console.is_terminal)
    if summary["tokens"]:  # empty for imported runs
        console.print(tokens_line(manifest, summary), style="dim")
    console.print(
        f"run: {manifest['run']} in {run.path}, index: {place.results / 'assay.duckdb'}", style="dim", soft_wrap=True, markup=False
    )


def tokens_line(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Tokens and time of a run on one line."""
    tokens, seconds = summary["tokens"], duration(summary["seconds"]["engine"])
    if "served" in manifest["model"]:
        whole = tokens["computed"] + tokens["cached"]
        return f"{whole:,} tokens sent and generated, {tokens['cached']:,} of them cached by the server, {seconds}"
    shared = tokens["logical"] / max(tokens["computed"], 1)
    return f"{tokens['computed']:,} tokens computed, {tokens['logical']:,} without prefix sharing ({shared:.1f}x), {seconds}"


def doctor_command(as_json: Json = False) -> None:
    """Check this environment and suggest fixes.

    [dim]assay doctor[/dim]
    """
    findings = examine()
    broken = [finding for finding in findings if finding.level == "broken"]
    if as_json:
        print_json({"findings": [{"level": f.level, "what": f.what, "remedy": f.remedy} for f in findings], "broken": len(broken)})
    else:
        console = out()
        signs = {"ok": "[green]ok    [/]", "warn": "[yellow]warn  [/]", "broken": "[red]broken[/]"}
        for finding in findings:
            console.print(f"{signs[finding.level]} {escape(finding.what)}", soft_wrap=True)
            if finding.remedy:
                console.print(f"       → {escape(finding.remedy)}", soft_wrap=True)
    if broken:
        raise AssayError(f"{len(broken)} of {len(findings)} checks failed", do="apply the fixes above")
