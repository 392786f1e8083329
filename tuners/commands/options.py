"""Options of `assay tune`, `assay study` and `assay forget`, by panels, and how their texts are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from assay import AssayError
from assay.tuners.methods import find_method

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")]
Model = Annotated[str, typer.Option(help="Model folder, hub id or builtin:smollm2-135m.")]
Target = Annotated[
    str,
    typer.Option(
        help="Task to train on, with a train split, or a file of examples (.jsonl, .csv, .parquet) with the columns prompt and completion, "
        "messages, or instruction and output. Comma-separated for several, see --regime."
    ),
]
MethodNames = Annotated[str, typer.Option(help="Comma-separated list of methods: lora, full, ia3, ... or peft:<Config>.")]
Folder = Annotated[
    Path | None, typer.Option(help="Output folder. \\[default: a folder in results/tuned/ named by model, task, methods and settings]")
]

TRAINING = "Training"
Rates = Annotated[str, typer.Option(help="Comma-separated list of learning rates. \\[default: the method's own]", rich_help_panel=TRAINING)]
Seeds = Annotated[int, typer.Option(help="Number of random seeds, counted from 0.", rich_help_panel=TRAINING)]
Epochs = Annotated[
    float, typer.Option(help="Passes over the training rows. \\[default: 3 for a file of examples]", rich_help_panel=TRAINING)
]
Steps = Annotated[int, typer.Option(help="Optimizer steps. \\[default: 200 for a task]", rich_help_panel=TRAINING)]
Budget = Annotated[str, typer.Option(help="tokens=N: exactly N loss tokens, equal for all methods.", rich_help_panel=TRAINING)]
Batch = Annotated[int, typer.Option(help="Examples per optimizer step.", rich_help_panel=TRAINING)]
Warmup = Annotated[
    float | None, typer.Option(help="Share of the steps over which the learning rate rises. \\[default: 0.1]", rich_help_panel=TRAINING)
]
WeightDecay = Annotated[float | None, typer.Option(help="Weight decay of AdamW. \\[default: 0]", rich_help_panel=TRAINING)]
Clip = Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0: any. \\[default: 1]", rich_help_panel=TRAINING)]
CheckpointEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints of the training; 0: none. \\[default: 50]", rich_help_panel=TRAINING)
]
Mitigations = Annotated[
    str, typer.Option(help="Comma-separated list of mitigations, for example replay=0.25+kl=0.1.", rich_help_panel=TRAINING)
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Option of the method, for example rank=8. Repeatable. With several methods it goes to those that have it.",
        rich_help_panel=TRAINING,
    ),
]
Regime = Annotated[
    str,
    typer.Option(
        help="For several tasks: single (a model per task), multi-task (mixed in equal shares) or sequential (one task after another).",
        rich_help_panel=TRAINING,
    ),
]

DATA = "Data"
HeldOut = Annotated[
    float | None,
    typer.Option(help="Share of a file's rows that is held out and scored. \\[default: 0.1, from 20 to 200 rows]", rich_help_panel=DATA),
]
MaxLength = Annotated[
    int,
    typer.Option(
        help="Most tokens of an example: longer answers are cut, longer prompts left out. \\[default for files: the model's context]",
        rich_help_panel=DATA,
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat", help="Apply the model's chat template in training and scoring. On for messages and instructions.", rich_help_panel=DATA
    ),
]

SCORING = "Scoring"
Retain = Annotated[str, typer.Option(help="Comma-separated list of tasks on which forgetting is measured.", rich_help_panel=SCORING)]
RetainShots = Annotated[
    int,
    typer.Option(
        help="Also score the --retain tasks with K few-shot examples, to tell lost format from lost knowledge.", rich_help_panel=SCORING
    ),
]
Text = Annotated[
    str,
    typer.Option(help="Neutral text on which KL and bits per byte are measured: a file, or a perplexity task.", rich_help_panel=SCORING),
]
ShotCounts = Annotated[
    str,
    typer.Option(
        help="Comma-separated numbers of few-shot examples; the untuned model is scored with each for comparison. "
        "\\[default: 4 for a task, none for a file]",
        rich_help_panel=SCORING,
    ),
]
Limit = Annotated[int | None, typer.Option(help="Score a sample of N items per task.", rich_help_panel=SCORING)]

LogTo = Annotated[str, typer.Option(help="Log every step and result to tensorboard, trackio or wandb.")]

MEMORY = "Memory"
Micro = Annotated[int, typer.Option(help="Examples per forward pass; fewer need less memory.", rich_help_panel=MEMORY)]
Recompute = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing", help="Recompute activations in the backward pass: less memory, more time.", rich_help_panel=MEMORY
    ),
]
Precision = Annotated[
    str, typer.Option(help="Arithmetic of the training: auto (bf16 on a GPU that has it), no (fp32) or bf16.", rich_help_panel=MEMORY)
]


def names(text: str) -> tuple[str, ...]:
    """The non-empty parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def file_name(text: str) -> str:
    """The text as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text.replace(",", "+"))[:60]


def read_numbers(text: str, where: str, whole: bool = False) -> tuple[float, ...]:
    """Comma-separated numbers of at least 0."""
    try:
        found = tuple((int if whole else float)(part) for part in names(text))
    except ValueError:
        found = (-1,)
    if not all(0 <= value < math.inf for value in found):
        kind = "whole numbers" if whole else "numbers"
        raise AssayError(f"cannot read {text!r}", where=where, do=f"give {kind} of at least 0, separated by commas")
    return found


def read_rates(text: str, methods: tuple[str, ...]) -> tuple[float, ...]:
    """Learning rates as multiples of the method's default."""
    rates = read_numbers(text, "--lr")
    if rates and len(methods) > 1:
        raise AssayError(
            "--lr applies to a single method; the methods have different default learning rates",
            where="--lr",
            do="name one method, or leave out --lr",
        )
    if 0.0 in rates:
        raise AssayError("a learning rate of 0 trains nothing", where="--lr", do="use learning rates above 0")
    centre = find_method(methods[0]).lr if rates and methods else 1.0
    return tuple(rate / (centre or 1.0) for rate in rates) or (1.0,)


def read_budget(text: str) -> int:
    found = re.fullmatch(r"tokens=([0-9]+)(k?)", text)
    if found is None or not int(found[1]):
        raise AssayError(f"cannot read the budget {text!r}", do="write it as tokens=2000 or tokens=20k, at least 1")
    return int(found[1]) * (1000 if found[2] else 1)


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """rank=8 as a number, targets=q_proj,v_proj as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise AssayError(f"cannot read the option {pair!r}", do="write it as rank=8")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def share_options(options: dict[str, Any], methods: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The options of each method that has them. Raises AssayError for an option that no method has."""
    known = {name: find_method(name) for name in methods}
    for option in options:
        if not any(option in each.options() or each.takes_any_option for each in known.values()):
            there = "; ".join(f"{name} has {', '.join(each.options()) or 'none'}" for name, each in known.items())
            raise AssayError(f"unknown option {option}", where="--set", do=there)
    shared = {name: {o: v for o, v in options.items() if o in each.options() or each.takes_any_option} for name, each in known.items()}
    return {name: found for name, found in shared.items() if found}
