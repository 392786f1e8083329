"""Options and arguments that commands declare, by the panels of `assay run --help`, and how their texts are read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings, surroundings

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")]
Results = Annotated[Path | None, typer.Option("--results", help="Folder of stored runs. \\[default: $ASSAY_RESULTS or results]")]
StoredRun = Annotated[str, typer.Argument(help="Run: id, unique prefix or folder.")]
PolicyFile = Annotated[Path | None, typer.Option(help="Policy file (gate.toml): required tasks, margins, critical tasks, guards.")]
AllowFailed = Annotated[
    bool, typer.Option("--allow-failed", help="Finish a run whose items failed; its scores leave them out, are marked and not ranked.")
]
Models = Annotated[
    str,
    typer.Option(
        help="Model folder, hub id, builtin:smollm2-135m, or a server (http://localhost:8000/v1). "
        "Comma-separated or a pattern ('runs/step-*') for several."
    ),
]
Tasks = Annotated[str, typer.Option(help="Comma-separated tasks: names, files or module:NAME.")]
IncludePath = Annotated[Path | None, typer.Option(help="Folder of lm-eval YAML files that define names of lm-eval:NAME.")]
Explain = Annotated[bool, typer.Option("--explain", help="Print items, tokens and estimated time without loading a model.")]

ITEMS = "Items"
Perturb = Annotated[
    str,
    typer.Option(
        help="Also score perturbed copies of each item: robustness_short, fairness, single ones (typos,names), or HELM's robustness and "
        "canonical (need crfm-helm).",
        rich_help_panel=ITEMS,
    ),
]
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
Split = Annotated[str, typer.Option(help="Split to score. \\[default: set by the task]", rich_help_panel=ITEMS)]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Accept incomplete data; scores are marked as partial.", rich_help_panel=ITEMS)
]
Shard = Annotated[str, typer.Option(help="Score only part i/n of each task. `assay store merge` merges the parts.", rich_help_panel=ITEMS)]

PROMPTS = "Prompts"
ShotCounts = Annotated[
    str,
    typer.Option(
        help="Few-shot examples per prompt; 0,1,4 makes one run each. \\[default: set by the task]",
        rich_help_panel=PROMPTS,
    ),
]
Protocols = Annotated[str, typer.Option(help="Comma-separated protocols (lm-eval,helm), one run each.", rich_help_panel=PROMPTS)]
Seed = Annotated[int, typer.Option(help="Random seed for few-shot examples and sampling.", rich_help_panel=PROMPTS)]
Chat = Annotated[bool, typer.Option("--chat", help="Apply the model's chat template to prompts.", rich_help_panel=PROMPTS)]
SystemMessage = Annotated[str, typer.Option(help="System message of every chat, or @FILE. Needs --chat.", rich_help_panel=PROMPTS)]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-template-args", help="Keyword of the chat template, such as enable_thinking=false. Repeatable.", rich_help_panel=PROMPTS
    ),
]
TemplateDate = Annotated[str, typer.Option(help="Date that the chat template sees.", rich_help_panel=PROMPTS)]
OneTurn = Annotated[
    bool,
    typer.Option("--shots-in-one-turn", help="Put few-shot examples into the user's message, not into turns.", rich_help_panel=PROMPTS),
]
AssistantPrefix = Annotated[
    str, typer.Option(help="Begin every response of the assistant with this text, such as 'Answer:'.", rich_help_panel=PROMPTS)
]
DropShots = Annotated[
    bool, typer.Option("--drop-shots", help="Drop few-shot examples from prompts that are too long.", rich_help_panel=PROMPTS)
]

GENERATION = "Generation"
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens of a response. \\[default: set by the task]", rich_help_panel=GENERATION)]
Temperature = Annotated[
    float | None, typer.Option(help="Sampling temperature; 0 is greedy. \\[default: set by the task]", rich_help_panel=GENERATION)
]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the likeliest tokens with this probability together.", rich_help_panel=GENERATION)
]
Samples = Annotated[
    int | None,
    typer.Option(help="Responses per item; its score is their mean. \\[default: set by the task]", rich_help_panel=GENERATION),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="String that ends a response; replaces the task's. Repeatable.", rich_help_panel=GENERATION)
]
ThinkingBudget = Annotated[
    int | None,
    typer.Option(help="Most tokens of a reasoning model's thinking part; --max-tokens then limits the answer.", rich_help_panel=GENERATION),
]

MODEL = "Model"
Dtype = Annotated[str, typer.Option(help="Data type: auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)]
Adapters = Annotated[
    str, typer.Option(help="PEFT adapter to apply: a folder or hub id. Comma-separated for several.", rich_help_panel=MODEL)
]
ServedName = Annotated[str, typer.Option(help="The server's name of the model, such as --served-name my-model.", rich_help_panel=MODEL)]
TokenizerFolder = Annotated[
    str,
    typer.Option(
        help="Tokenizer folder of a served model, such as --tokenizer ckpt/: token ids are sent. \\[default: text is sent]",
        rich_help_panel=MODEL,
    ),
]
Revision = Annotated[str, typer.Option(help="Hub revision: branch, tag or commit.", rich_help_panel=MODEL)]

ENGINE = "Engine"
EngineName = Annotated[str, typer.Option(help="Inference engine: auto, vllm, hf or an installed plugin.", rich_help_panel=ENGINE)]
Device = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.", rich_help_panel=ENGINE)]
Batch = Annotated[int | None, typer.Option(help="Maximum batch size. \\[default: automatic]", rich_help_panel=ENGINE)]
CacheMemory = Annotated[float | None, typer.Option(help="GiB of memory for caches. \\[default: automatic]", rich_help_panel=ENGINE)]
TensorParallel = Annotated[int, typer.Option(help="GPUs per model, tensor parallel (vLLM).", rich_help_panel=ENGINE)]
PipelineParallel = Annotated[int, typer.Option(help="Pipeline stages per model (vLLM).", rich_help_panel=ENGINE)]
DataParallel = Annotated[
    int, typer.Option(help="Processes with a copy of the model, one per GPU: --data-parallel 8 on 8 GPUs.", rich_help_panel=ENGINE)
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-arg",
        help="Argument for precision, memory, lengths or kernels of vLLM's engine or transformers, such as kv_cache_dtype=fp8. Repeatable.",
        rich_help_panel=ENGINE,
    ),
]
RepeatCheck = Annotated[
    bool,
    typer.Option(
        "--repeat-check", help="Score every item twice with different batching to measure run-to-run noise.", rich_help_panel=ENGINE
    ),
]
RepeatEngine = Annotated[str, typer.Option(help="Also score every item with this engine to measure noise.", rich_help_panel=ENGINE)]
Ray = Annotated[bool, typer.Option("--ray", help="Use every GPU of a running Ray cluster ($RAY_ADDRESS).", rich_help_panel=ENGINE)]


def place_of(results: Path | None) -> Surroundings:
    """The surroundings, with the folder of --results if one is given."""
    place = surroundings()
    return place if results is None else replace(place, results=results)


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


def budget_bytes(gib: float | None) -> int | None:
    """GiB as bytes. Raises AssayError unless the number is finite and above 0."""
    if gib is None:
        return None
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
