"""Study presets, from minutes on a CPU to hours on a GPU."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.methods import method_names
from assay.tuners.study.design import Study
from assay.tuners.study.sequence import TaskSequence

TRAINED = tuple(name for name in method_names() if name not in ("in_context", "bitfit"))
"""Without BitFit: the presets' Llama models have no biases to train."""

MITIGATIONS = ("replay=0.25", "kl=1", "l2_sp=0.1", "ewc=100", "wise_ft=0.5", "stop_at_kl=0.05", "lower_lr=0.3")

TOY = Study(
    name="toy",
    targets=("assay.tuners.toy:MAX",),
    retain=("assay.tuners.toy:ADD", "assay.tuners.toy:FIRST", "assay.tuners.toy:MOOD", "assay.tuners.toy:SECOND"),
    methods=TRAINED,
    loss_tokens=4000,
    rates=(3.0, 10.0, 30.0),  # small models need larger learning rates
    mitigations=MITIGATIONS,
    shots=(1, 4),
    batch=16,
    micro=16,
    options={name: {"rank": 8} for name in ("lora", "rslora", "dora", "pissa", "shira")} | {"last_k": {"layers": 1}, "vera": {"rank": 64}},
)

CPU_MINI = Study(
    name="cpu-mini",
    targets=("glue/sst2", "assay.tuners.retention:LANGUAGE"),
    retain=("assay.tuners.retention:ARC_EASY", "assay.tuners.retention:BLIMP"),
    methods=("full", "lora", "layernorm", "pfeiffer", "ia3", "last_k", "prompt_tuning", "prefix_tuning", "shira", "pissa"),
    loss_tokens=128,
    rates=(0.5, 2.0, 8.0),  # short runs need larger learning rates
    rate_seeds=(3,),
    mitigations=("multi_task=1000", "replay=0.5"),
    shots=(1, 4, 16),
    examples=1000,
    held=80,
    limit=160,
    retain_limit=100,
    text="helm/language_modelling/sentences",
    keep_models=False,
)

GPU = Study(
    name="gpu",
    targets=CPU_MINI.targets,
    retain=("assay.tuners.retention:ARC_EASY", "assay.tuners.retention:PIQA", "assay.tuners.retention:BLIMP"),
    methods=TRAINED,
    loss_tokens=4000,
    rates=(1 / 9, 1 / 3, 1.0, 3.0),
    rate_seeds=(3,),
    mitigations=("multi_task=1000", *MITIGATIONS),
    shots=(1, 4, 16),
    retain_shots=4,
    batch=32,
    micro=32,
    text=CPU_MINI.text,
    text_tokens=8192,
    keep_models=False,
)

TOY_SEQUENCE = TaskSequence(
    name="toy-sequence",
    tasks=("assay.tuners.toy:MAX", "assay.tuners.toy:TOPIC", "assay.tuners.toy:SECOND"),
    retain=("assay.tuners.toy:ADD", "assay.tuners.toy:FIRST", "assay.tuners.toy:MOOD"),
    methods=("full", "lora", "pfeiffer"),
    loss_tokens=3000,
    rate=10.0,
    seeds=(0, 1, 2),
    mitigations=("none", "replay=0.5"),
    batch=16,
    micro=16,
    options={"lora": {"rank": 8}},
)

CPU_SEQUENCE = TaskSequence(
    name="cpu-sequence",
    tasks=("glue/sst2", "assay.tuners.retention:LANGUAGE", "glue/cola"),
    retain=("assay.tuners.retention:ARC_EASY", "assay.tuners.retention:PIQA", "assay.tuners.retention:BLIMP"),
    methods=("full", "lora"),
    loss_tokens=192,
    rate=2.0,
    mitigations=("none", "replay=0.5"),
    examples=1000,
    limit=200,
    retain_limit=100,
)

MODELS = {
    "toy-sequence": "toy",
    "cpu-sequence": "builtin:smollm2-135m",
    "toy": "toy",
    "cpu-mini": "builtin:smollm2-135m",
    "gpu": "builtin:smollm2-135m",
}
"""Default model by preset; `toy` is trained when it is first used."""

PRESETS = {study.name: study for study in (TOY, CPU_MINI, GPU)}
SEQUENCES = {plan.name: plan for plan in (TOY_SEQUENCE, CPU_SEQUENCE)}


def read_study(path: Path) -> tuple[Study, str]:
    """A study of one's own from a TOML file, and its model: `model`, and the fields of `Study` (its `name` is the file's folder or stem).

    Raises AssayError for a file that cannot be read, and for unknown or missing fields.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssayError(f"cannot be read: {error}", where=str(path), do="give a TOML file of the fields of a study") from None
    name = path.resolve().parent.name if path.stem == "study" else path.stem
    values: dict[str, Any] = {"name": name, **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}}
    model = str(values.pop("model", ""))
    known = {each.name for each in fields(Study)}
    missing = sorted({"targets", "retain", "methods", "loss_tokens"} - values.keys()) + ([] if model else ["model"])
    if wrong := [*(f"unknown {key}" for key in sorted(values.keys() - known)), *(f"no {key}" for key in missing)]:
        close = difflib.get_close_matches(wrong[0].removeprefix("unknown "), known, 1) if wrong[0].startswith("unknown") else []
        raise AssayError(", ".join(wrong), where=str(path), do=f"did you mean {close[0]}?" if close else "see results/studies/frontier")
    try:
        return Study(**values), model
    except TypeError as error:
        raise AssayError(f"a field has the wrong type: {error}", where=str(path), do="see results/studies/frontier") from None


def find_preset(name: str) -> Study | TaskSequence:
    """A preset by name. Raises AssayError with a suggestion for an unknown name."""
    known: dict[str, Study | TaskSequence] = {**PRESETS, **SEQUENCES}
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise AssayError(f"no study preset {name!r}", do=f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}")
    return known[name]
