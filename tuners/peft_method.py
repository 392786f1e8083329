"""Methods that the peft library implements: its configuration in, a Trainable out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import AssayError
from tuners.method import Module, Trainable


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
    try:
        with quiet():
            wrapped = peft.get_peft_model(model, config)
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise AssayError(f"peft refuses: {one_line(error)}", where=type(config).__name__, do="choose other target modules") from None
    return Trainable(
        wrapped,
        save=lambda directory: save_adapter(wrapped, directory),
        reference=wrapped.disable_adapter,
        merged=None if config.is_prompt_learning or config.is_adaption_prompt else lambda: merge_copy(wrapped),
    )


def say_sparse_unchecked() -> None:
    """Torch warns about sparse tensors (SHiRA's) unless told that their indices need no check; peft makes them valid."""
    import torch

    torch.sparse.check_sparse_tensor_invariants.disable()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def save_adapter(wrapped: Module, directory: Path) -> None:
    """Write the adapter without the model card, which would name paths of this machine."""
    with quiet():
        wrapped.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)


def merge_copy(wrapped: Module) -> Module:
    """A copy of the model with the adapter folded into its weights."""
    with quiet():
        return copy.deepcopy(wrapped).merge_and_unload()


def check_rank(model: Module, rank: int, targets: str | tuple[str, ...]) -> None:
    """Refuse a rank above the smaller dimension of a target: the excess could learn nothing."""
    import torch

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or module is head:
            continue
        if targets == "all-linear" or name.rsplit(".", 1)[-1] in targets:
            most = min(module.in_features, module.out_features)
            if rank > most:
                raise AssayError(f"rank {rank} is above the dimension {most} of {name}", do=f"use a rank of at most {most}")
    if rank < 1:
        raise AssayError(f"rank {rank} trains nothing", do="use a rank of at least 1")


def target_modules(targets: str | tuple[str, ...]) -> str | list[str]:
    """As peft wants them: "all-linear" or a list of module names."""
    if targets == "all-linear":
        return "all-linear"
    return targets.split(",") if isinstance(targets, str) else list(targets)
