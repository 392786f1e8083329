"""Checkpoints of a training run: one safetensors file, with the numbers as JSON in its header. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.training.method import Tensor, Trainable
from assay.tuners.training.sharding import full_tensor, placed_like

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class Position:
    """The progress of a run. `plan`: hash of steps and recipe, which a resumed run must have in common."""

    step: int
    plan: str
    losses: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    seconds: float = 0.0
    high: int = 0
    """Number of consecutive steps with an exploded loss."""


def write_checkpoint(directory: Path, position: Position, trainable: Trainable, optimizer: Any, writes: bool = True) -> None:
    """Replace the checkpoint atomically. Only one process `writes`, but all take part in gathering sharded parameters.

    Raises AssayError if the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    tensors |= {f"method/{name}": value for name, value in trainable.state().items()}
    for name, value in trainable.trained.items():
        moments = {f"{part}/{name}": moment for part, moment in optimizer.state.get(value, {}).items() if part in MOMENTS}
        for key, held in {f"parameter/{name}": value, **moments}.items():
            found = full_tensor(held.detach())
            tensors |= {key: found.cpu()} if writes else {}
    if not writes:
        return
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"position": json.dumps(asdict(position))})
    write_atomic(directory / FILE, content, "the run resumes from its last checkpoint")


def write_atomic(path: Path, content: bytes, meanwhile: str) -> None:
    """Write a file atomically. Raises AssayError if it cannot be written; `meanwhile` says what happens then."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise AssayError(f"cannot write the file: {error.strerror}", where=str(path), do=f"free disk space; {meanwhile}") from None


def read_checkpoint(directory: Path, plan: str, trainable: Trainable, optimizer: Any) -> Position:
    """Load the checkpoint, in place; position 0 if there is none. Raises AssayError for a checkpoint of another plan."""
    path = directory / FILE
    if not path.is_file():
        return Position(0, plan)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads(file.metadata()["position"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, KeyError, ValueError) as error:
        raise AssayError(f"not a checkpoint: {error}", where=str(path), do="delete it to start again") from None
    position = Position(**(fields | {"losses": tuple(fields["losses"]), "rates": tuple(fields["rates"])}))
    if position.plan != plan:
        raise AssayError("the checkpoint is of another recipe, method or data", where=str(path), do="choose another folder or delete it")
    restore_checkpoint(tensors, trainable, optimizer)
    return position


def restore_checkpoint(tensors: Mapping[str, Tensor], trainable: Trainable, optimizer: Any) -> None:
    import torch

    trained = trainable.trained
    if {f"parameter/{name}" for name in trained} != {name for name in tensors if name.startswith("parameter/")}:
        raise AssayError("the checkpoint holds other parameters than this method trains", do="delete it to start again")
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(placed_like(value, tensors[f"parameter/{name}"]))
            moments = {part: tensors[f"{part}/{name}"] for part in MOMENTS if f"{part}/{name}" in tensors}
            if moments:
                optimizer.state[value] = {
                    part: moment.to(value.device) if part == "step" else placed_like(value, moment) for part, moment in moments.items()
                }
    trainable.restore({name.removeprefix("method/"): value for name, value in tensors.items() if name.startswith("method/")})
    torch.set_rng_state(tensors["rng/cpu"])
    if "rng/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng/cuda"])
