"""Methods that the peft library implements: its configuration in, a Trainable out."""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.training.batches import Example
from assay.tuners.training.loss import mean_loss
from assay.tuners.training.method import Module, Trainable

REFUSALS = (ArithmeticError, AttributeError, ImportError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What peft raises where it cannot do what a configuration asks for."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without peft's remarks that do not concern us.

    They are: the base being of unknown origin, weights being tied, an unmerge of what is thrown away anyway.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")
        yield


def wrap(model: Module, config: Any) -> Trainable:
    """The model with a fresh peft adapter. Saved in PEFT's format (safetensors).

    Raises AssayError for target modules that do not exist and for a rank above the dimension of a target.
    """
    import peft

    say_sparse_unchecked()
    check_config(model, config)
    with refusing(type(config).__name__, "choose other target modules"), quiet():
        wrapped = peft.get_peft_model(model, config)
    return Trainable(
        wrapped,
        save=lambda directory: save_adapter(wrapped, directory),
        reference=wrapped.disable_adapter,
        merged=None if config.is_prompt_learning or config.is_adaption_prompt else lambda: merge_copy(wrapped),
    )


@contextmanager
def refusing(where: str, do: str) -> Iterator[None]:
    """What peft cannot do becomes one clear line; memory that ran out stays what it is."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        raise AssayError(f"peft refuses: {one_line(error)}", where=where, do=do) from None


def rehearse(trainable: Trainable, example: Example, merging: bool) -> None:
    """Raises AssayError where a configuration that nobody has tried here cannot run this model, or cannot be merged though it has to be."""
    with refusing("the first forward pass", "choose another configuration of peft"):
        mean_loss(trainable.model, [example])
    if merging and trainable.merged is not None:
        with refusing("merging", "use another mitigation than wise_ft"):
            trainable.merged()


def say_sparse_unchecked() -> None:
    """Torch warns about sparse tensors (SHiRA's) unless told that their indices need no check; peft makes them valid."""
    import torch

    torch.sparse.check_sparse_tensor_invariants.disable()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def save_adapter(wrapped: Module, directory: Path) -> None:
    """Write the adapter without the model card, which would name paths of this machine."""
    with quiet():
        wrapped.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)


def merge_copy(wrapped: Module) -> Module:
    """A copy of the model with the adapter folded into its weights."""
    with quiet():
        return copy.deepcopy(wrapped).merge_and_unload()


Targets = str | Sequence[str]
RANKED = {"LORA": "r", "ADALORA": "init_r", "HIRA": "r"}
"""Kinds of adapter whose rank cannot be above the dimension to any use, and the field that holds it."""


def check_config(model: Module, config: Any) -> None:
    """Raises AssayError for target modules that are not there, and for a rank above the dimension of a target."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    targets = getattr(config, "target_modules", None)
    if targets and not isinstance(targets, str):
        check_targets(model, sorted(targets), type(config).__name__)
    rank = getattr(config, RANKED.get(getattr(config.peft_type, "value", ""), ""), None)
    if isinstance(rank, int):
        check_rank(model, rank, targets or USUAL.get(model.config.model_type, ()))


def check_targets(model: Module, targets: Sequence[str], where: str) -> None:
    """Raises AssayError with the near names for a target that no module has: peft leaves it out in silence if another one is there."""
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(is_target(name, [target]) for name in names):
            own = sorted({name.rsplit(".", 1)[-1] for name in names} - {""})
            near = difflib.get_close_matches(target, own, n=3) or [name for name in own if not name.isdigit()][:12]
            raise AssayError(f"target module {target!r} not found in the base model", where=where, do=f"there is {', '.join(near)}")


def is_target(name: str, targets: Targets) -> bool:
    """Whether peft takes a module of that name: a string is a pattern for the whole of it, a list holds its last parts."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def check_rank(model: Module, rank: int, targets: Targets) -> None:
    """Refuse a rank above the smaller dimension of a target: the excess could learn nothing."""
    import torch

    if rank < 1:
        raise AssayError(f"rank {rank} trains nothing", do="use a rank of at least 1")
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 2:
            continue
        linear = (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
        if linear if targets == "all-linear" else is_target(name, targets):
            most = min(weight.shape)
            if rank > most:
                raise AssayError(f"rank {rank} is above the dimension {most} of {name}", do=f"use a rank of at most {most}")


def check_count(where: str, **counts: int) -> None:
    """Raises AssayError for a number of parts that is below one."""
    for name, value in counts.items():
        if value < 1:
            raise AssayError(f"{name}={value} trains nothing", where=where, do=f"use {name} of at least 1")


def target_modules(targets: Targets) -> str | list[str]:
    """As peft wants them: "all-linear" or a list of module names."""
    if targets == "all-linear":
        return "all-linear"
    return [name.strip() for name in (targets.split(",") if isinstance(targets, str) else targets)]
