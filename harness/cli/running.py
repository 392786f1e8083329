"""assay run, resume, demo, doctor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from assay.harness.cli.console import duration, out, print_json, show_progress
from assay.harness.cli.explaining import explain_plans
from assay.harness.cli.item_options import ITEMS, AllowFailed, Limit, LimitOrder, Overlong, Shard
from assay.harness.cli.model_options import ENGINE, MODEL, DataParallel, EngineArg, ServedName, TokenizerFolder
from assay.harness.decide.curves import contrasts, points
from assay.harness.engines.cluster import open_cluster
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.prompt.perturb import with_perturbations
from assay.harness.reports.curves import contrasts_table, points_table
from assay.harness.reports.results import notes, results_table, settings_line
from assay.harness.run.doctor import examine
from assay.harness.run.evaluate import evaluate, resume
from assay.harness.run.noise import sentence
from assay.harness.run.proof import sentence as proof_sentence
from assay.harness.run.selection import anchored
from assay.harness.run.sweep import expand_models, plans_of, sweep
from assay.harness.store import Run, find_run, read_run
from assay.harness.store.plan import DATE, Plan

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")]
Results = Annotated[Path | None, typer.Option("--results", help="Folder of stored runs. \\[default: $ASSAY_RESULTS or results]")]

PROMPTS, GENERATION = "Prompts", "Generation"  # the other panels of `assay run --help`


def register(app: typer.Typer) -> None:
    app.command("run")(run_command)
    app.command("resume")(resume_command)
    app.command("demo")(demo_command)
    app.command("doctor")(doctor_command)


def place_of(results: Path | None) -> Surroundings:
    place = surroundings()
    return place if results is None else replace(place, results=results)


def run_command(
    model: Annotated[
        str,
        typer.Option(
            help="Model folder, hub id, builtin:smollm2-135m, or a server (http://localhost:8000/v1). "
            "Comma-separated or a pattern ('runs/step-*') for several."
        ),
    ],
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks: names, files or module:NAME.")],
    shots: Annotated[
        str,
        typer.Option(
            help="Few-shot examples per prompt; 0,1,4 makes one run each. \\[default: set by the task]",
            rich_help_panel=PROMPTS,
        ),
    ] = "",
    protocol: Annotated[str, typer.Option(help="Comma-separated protocols (lm-eval,helm), one run each.", rich_help_panel=PROMPTS)] = "",
    perturb: Annotated[
        str,
        typer.Option(
            help="Also score perturbed copies of each item: robustness, fairness, canonical or single ones (typos,names).",
            rich_help_panel=ITEMS,
        ),
    ] = "",
    limit: Limit = None,
    limit_order: LimitOrder = "sample",
    overlong: Overlong = "error",
    allow_failed: AllowFailed = False,
    seed: Annotated[int, typer.Option(help="Random seed for few-shot examples and sampling.", rich_help_panel=PROMPTS)] = 0,
    split: Annotated[str, typer.Option(help="Split to score. \\[default: set by the task]", rich_help_panel=ITEMS)] = "",
    engine: Annotated[str, typer.Option(help="Inference engine: auto, vllm, hf or an installed plugin.", rich_help_panel=ENGINE)] = "auto",
    dtype: Annotated[str, typer.Option(help="Data type: auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)] = "auto",
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.", rich_help_panel=ENGINE)] = "auto",
    adapter: Annotated[
        str,
        typer.Option(help="PEFT adapter to apply: a folder or hub id. Comma-separated for several.", rich_help_panel=MODEL),
    ] = "",
    served_name: ServedName = "",
    tokenizer: TokenizerFolder = "",
    revision: Annotated[str, typer.Option(help="Hub revision: branch, tag or commit.", rich_help_panel=MODEL)] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template to prompts.", rich_help_panel=PROMPTS)] = False,
    system: Annotated[str, typer.Option(help="System message of every chat, or @FILE. Needs --chat.", rich_help_panel=PROMPTS)] = "",
    chat_template_args: Annotated[
        list[str] | None,
        typer.Option(help="Keyword of the chat template, such as enable_thinking=false. Repeatable.", rich_help_panel=PROMPTS),
    ] = None,
    template_date: Annotated[str, typer.Option(help="Date that the chat template sees.", rich_help_panel=PROMPTS)] = DATE,
    shots_in_one_turn: Annotated[
        bool,
        typer.Option("--shots-in-one-turn", help="Put few-shot examples into the user's message, not into turns.", rich_help_panel=PROMPTS),
    ] = False,
    assistant_prefix: Annotated[
        str, typer.Option(help="Begin every response of the assistant with this text, such as 'Answer:'.", rich_help_panel=PROMPTS)
    ] = "",
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a response. \\[default: set by the task]", rich_help_panel=GENERATION)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy. \\[default: set by the task]", rich_help_panel=GENERATION)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest tokens with this probability together.", rich_help_panel=GENERATION)
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Responses per item; its score is their mean. \\[default: set by the task]", rich_help_panel=GENERATION),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="String that ends a response; replaces the task's. Repeatable.", rich_help_panel=GENERATION)
    ] = None,
    thinking_budget: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of a reasoning model's thinking part; --max-tokens then limits the answer.", rich_help_panel=GENERATION
        ),
    ] = None,
    drop_shots: Annotated[
        bool,
        typer.Option("--drop-shots", help="Drop few-shot examples from prompts that are too long.", rich_help_panel=PROMPTS),
    ] = False,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Accept incomplete data; scores are marked as partial.", rich_help_panel=ITEMS),
    ] = False,
    shard: Shard = "",
    batch: Annotated[int | None, typer.Option(help="Maximum batch size. \\[default: automatic]", rich_help_panel=ENGINE)] = None,
    budget: Annotated[float | None, typer.Option(help="GiB of memory for caches. \\[default: automatic]", rich_help_panel=ENGINE)] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs per model, tensor parallel (vLLM).", rich_help_panel=ENGINE)] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="Pipeline stages per model (vLLM).", rich_help_panel=ENGINE)] = 1,
    data_parallel: DataParallel = 1,
    engine_arg: EngineArg = None,
    repeat_check: Annotated[
        bool,
        typer.Option(
            "--repeat-check", help="Score every item twice with different batching to measure run-to-run noise.", rich_help_panel=ENGINE
        ),
    ] = False,
    repeat_engine: Annotated[
        str, typer.Option(help="Also score every item with this engine to measure noise.", rich_help_panel=ENGINE)
    ] = "",
    ray: Annotated[
        bool, typer.Option("--ray", help="Use every GPU of a running Ray cluster ($RAY_ADDRESS).", rich_help_panel=ENGINE)
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print items, tokens and estimated time without loading a model.")] = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Score a model on tasks.

    [dim]assay run --model builtin:smollm2-135m --tasks glue/rte,mmlu/anatomy[/dim]
    """
    plan = Plan(
        model="",
        tasks=tuple(with_perturbations(anchored(name), comma_list(perturb)) for name in comma_list(tasks)),
        revision=revision,
        limit=limit,
        limit_order=limit_order,
        overlong=overlong,
        allow_failed=allow_failed,
        seed=seed,
        split=split,
        chat=chat,
        system=text_or_file(system),
        template_args=tuple(chat_template_args or ()),
        template_date=template_date,
        one_turn=shots_in_one_turn,
        assistant_prefix=assistant_prefix,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        samples=samples,
        stop=tuple(stop) if stop else None,
        thinking_budget=thinking_budget,
        drop_shots=drop_shots,
        allow_partial=allow_partial,
        shard=shard,
        engine=engine,
        dtype=dtype,
        device=device,
        batch=batch,
        budget=None if budget is None else budget_bytes(budget),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        data_parallel=data_parallel,
        engine_args=tuple(engine_arg or ()),
        served_name=served_name,
        tokenizer=tokenizer,
        repeat_check=repeat_check,
        repeat_engine=repeat_engine,
    )
    place = place_of(results)
    plans = plans_of(plan, expand_models(model), shot_counts(shots), comma_list(protocol), expand_models(adapter))
    if explain:
        explain_plans(plans, place, as_json)
        return
    with show_progress() as progress:
        bundles = sweep(plans, place, progress, open_cluster if ray else open_engine)
    print_runs([read_run(bundle) for bundle in bundles], place, as_json)


def comma_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list; empty entries are dropped."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def text_or_file(text: str) -> str:
    """The text, or the content of the file after @. Raises AssayError where it cannot be read."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"cannot be read as text: {error}", where=f"--system {text}", do="give a UTF-8 text file") from None


def budget_bytes(gib: float) -> int:
    """GiB as bytes. Raises AssayError unless the number is finite and above 0."""
    if not (gib > 0 and math.isfinite(gib * 2**30)):
        raise AssayError(f"--budget {gib} is not an amount of memory", do="give GiB above 0, for example --budget 4")
    return int(gib * 2**30)


def shot_counts(text: str) -> list[int | None]:
    """Parse `4` or `0,1,4`; [None] (set by the task) if empty."""
    if not text:
        return [None]
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise AssayError(f"--shots {text!r} is not a number of few-shot examples", do="give a number or several: --shots 0,1,4")
    return [int(part) for part in text.split(",")]


def resume_command(
    run: Annotated[str, typer.Argument(help="Run: id, unique prefix or folder.")],
    ray: Annotated[bool, typer.Option("--ray", help="Use every GPU of a running Ray cluster ($RAY_ADDRESS).")] = False,
    allow_failed: AllowFailed = False,
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
        console.print(
            f"Thinking parts: {thinking['responses']:,} responses, {thinking['tokens']:,} tokens, not part of the scored text.", style="dim"
        )
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
