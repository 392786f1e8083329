"""Methods of the peft library: a Trainable from a peft configuration."""

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
from assay.tuners.training.loss import log_probabilities
from assay.tuners.training.method import Module, Trainable

PEFT_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors that peft raises for a configuration that it cannot apply to a model."""


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Suppresses peft's warnings: a base of unknown origin, tied weights, unmerging a copy that is discarded anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")
        yield


def wrap(model: Module, config: Any) -> Trainable:
    """The model with a new peft adapter, which is saved in PEFT's format (safetensors).

    Raises AssayError for target modules that do not exist and for a rank above the dimension of a target.
    """
    import peft

    skip_sparse_checks()
    check_config(model, config)
    with peft_errors(type(config).__name__, "choose other target modules"), without_peft_warnings():
        wrapped = peft.get_peft_model(model, config)
    return Trainable(
        wrapped,
        save=lambda directory: save_adapter(wrapped, directory),
        reference=wrapped.disable_adapter,
        merged=None if config.is_prompt_learning or config.is_adaption_prompt else lambda: merge_copy(wrapped),
    )


@contextmanager
def peft_errors(where: str, do: str) -> Iterator[None]:
    """Turns peft's errors into an AssayError of one line; an out-of-memory error is raised unchanged."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except PEFT_ERRORS as error:
        raise AssayError(f"peft refuses: {one_line(error)}", where=where, do=do) from None


def try_forward(trainable: Trainable, example: Example, merging: bool) -> None:
    """Raises AssayError if the model cannot run a forward pass, or cannot be merged though `merging` is needed."""
    with peft_errors("the first forward pass", "use another peft configuration"):
        log_probabilities(trainable.model, [example])
    if merging and trainable.merged is not None:
        with peft_errors("merging", "use a mitigation other than wise_ft"):
            trainable.merged()


def skip_sparse_checks() -> None:
    """Turn off torch's index checks of sparse tensors (SHiRA's), which warn; the indices that peft makes are valid."""
    import torch

    torch.sparse.check_sparse_tensor_invariants.disable()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def save_adapter(wrapped: Module, directory: Path) -> None:
    """Write the adapter without the model card, which would contain local paths."""
    with without_peft_warnings():
        wrapped.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)


def merge_copy(wrapped: Module) -> Module:
    """A copy of the model with the adapter folded into its weights."""
    with without_peft_warnings():
        return copy.deepcopy(wrapped).merge_and_unload()


Targets = str | Sequence[str]
RANKED = {"LORA": "r", "ADALORA": "init_r", "HIRA": "r"}
"""By peft type the field of its rank, for types where a rank above the dimension is useless."""


def check_config(model: Module, config: Any) -> None:
    """Raises AssayError for target modules that do not exist, and for a rank above the dimension of a target."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    targets = getattr(config, "target_modules", None)
    if targets and not isinstance(targets, str):
        check_targets(model, sorted(targets), type(config).__name__)
    rank = getattr(config, RANKED.get(getattr(config.peft_type, "value", ""), ""), None)
    if isinstance(rank, int):
        check_rank(model, rank, targets or USUAL.get(model.config.model_type, ()))


def check_targets(model: Module, targets: Sequence[str], where: str) -> None:
    """Raises AssayError with similar names for a target that no module has: peft silently skips it if another target exists."""
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(is_target(name, [target]) for name in names):
            own = sorted({name.rsplit(".", 1)[-1] for name in names} - {""})
            near = difflib.get_close_matches(target, own, n=3) or [name for name in own if not name.isdigit()][:12]
            raise AssayError(f"target module {target!r} not found in the base model", where=where, do=f"choose from {', '.join(near)}")


def is_target(name: str, targets: Targets) -> bool:
    """Whether peft targets the module: a string is a pattern for its whole name, a list holds names or their endings."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def check_rank(model: Module, rank: int, targets: Targets) -> None:
    """Raises AssayError for a rank above the smaller dimension of a target: the excess could learn nothing."""
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
    """Raises AssayError for a count below one."""
    for name, value in counts.items():
        if value < 1:
            raise AssayError(f"{name}={value} trains nothing", where=where, do=f"use {name} of at least 1")


def target_modules(targets: Targets) -> str | list[str]:
    """Target modules in peft's form: "all-linear" or a list of module names."""
    if targets == "all-linear":
        return "all-linear"
    return [name.strip() for name in (targets.split(",") if isinstance(targets, str) else targets)]
