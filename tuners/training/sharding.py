"""Shards a model over several processes with torch's FSDP for the duration of one training run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from assay import AssayError

Module = Any  # torch.nn.Module; torch is not imported here
Tensor = Any
FSDP_LAUNCH = "start it with accelerate launch --use_fsdp --fsdp_version 2"


def uses_fsdp() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process, or a launcher with the variables that it sets.

    Raises AssayError for FSDP version 1, which is accelerate's default, and for offloading: this loop supports neither.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise AssayError("only FSDP version 2 is supported", where="FSDP_VERSION", do=FSDP_LAUNCH)
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise AssayError("offloading of parameters is not supported", where="FSDP_OFFLOAD_PARAMS", do=f"{FSDP_LAUNCH}, without offloading")
    return True


def check_launch(processes: int) -> None:
    """Raises AssayError if a launcher started several processes but accelerate sees only this one."""
    started = os.environ.get("WORLD_SIZE", "1")
    if processes == 1 and started not in ("", "1"):
        raise AssayError(
            f"one of {started} processes without connection to each other", do="without GPUs set ACCELERATE_USE_CPU=true for torchrun"
        )


def shard(model: Module, layers: Sequence[Module], device: Any) -> Callable[[], None]:
    """Shard every parameter in place, starting from the first process's values. Returns a function that restores the full model on
    every process, a collective; until then the original parameters are empty.
    """
    import torch
    from torch.distributed import _composable_state as registry
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    before = [(module, module.__class__, attributes(module)) for module in model.modules()]
    originals = list(model.parameters())
    with torch.no_grad():
        for value in (*originals, *model.buffers()):
            torch.distributed.broadcast(value.data, 0)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    try:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # The root is resharded after each pass too, so that its weights can be swapped between passes.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise AssayError(f"FSDP refuses this model: {error}", do="train without --use_fsdp, or another method") from None
    for value in originals:
        value.data = value.data.new_empty(0)

    def join() -> None:
        with torch.no_grad():
            for module, _, kept in before:
                for name, value in kept["_parameters"].items():
                    if value is not None and not value.numel():
                        value.data = full_tensor(module._parameters[name].detach())
        for module, kind, kept in before:
            module.__class__ = kind
            for name in [name for name in vars(module) if "fsdp" in name or "composable" in name]:
                delattr(module, name)
            for name, entries in kept.items():  # in place: hook handles refer to these dictionaries
                vars(module)[name].clear()
                vars(module)[name].update(entries)
            registry._module_state_mapping.pop(module, None)  # else torch refuses to shard this module a second time

    return join


def attributes(module: Module) -> dict[str, Any]:
    """The attributes of a module that sharding changes: its parameters and its hooks."""
    held = {name: value for name, value in vars(module).items() if isinstance(value, dict)}
    return {name: value.copy() for name, value in held.items() if name == "_parameters" or "hooks" in name}


def full_tensor(value: Tensor) -> Tensor:
    """The full tensor gathered from all processes, a collective; a tensor that is not sharded is returned unchanged."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def placed_like(value: Tensor, source: Tensor) -> Tensor:
    """`source` on the device of `value` and sharded if that is. A collective if only one of them is sharded."""
    if not hasattr(value, "full_tensor"):
        return full_tensor(source).to(value.device)
    if hasattr(source, "full_tensor"):
        return source
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(source.to(value.device), value.device_mesh, value.placements)
