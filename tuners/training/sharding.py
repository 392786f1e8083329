"""One model over several processes, each with a part of every parameter: torch's FSDP, for the length of one training run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from assay import AssayError

Module = Any  # torch.nn.Module; torch is not imported here
Tensor = Any
HOW = "start it with accelerate launch --use_fsdp --fsdp_version 2"


def wants_shards() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process, or a launcher with the variables that it sets.

    Raises AssayError for what this loop does not do: version 1, which accelerate takes unless told otherwise, and offloading.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise AssayError("only FSDP version 2 is supported", where="FSDP_VERSION", do=HOW)
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise AssayError("parameters are not offloaded", where="FSDP_OFFLOAD_PARAMS", do=f"{HOW}, without offloading")
    return True


def check_together(processes: int) -> None:
    """Raises AssayError where a launcher started several processes and accelerate found only this one."""
    started = os.environ.get("WORLD_SIZE", "1")
    if processes == 1 and started not in ("", "1"):
        raise AssayError(
            f"one of {started} processes that do not see each other", do="without GPUs set ACCELERATE_USE_CPU=true for torchrun"
        )


def shard(model: Module, layers: Sequence[Module], device: Any) -> Callable[[], None]:
    """Cut every parameter in place, starting from the first process's values. Gives what makes the model whole again, on every
    process: a collective. Until then the parameters that were there before are empty.
    """
    import torch
    from torch.distributed import _composable_state as registry
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    before = [(module, module.__class__, attributes(module)) for module in model.modules()]
    whole_ones = list(model.parameters())
    with torch.no_grad():
        for value in (*whole_ones, *model.buffers()):
            torch.distributed.broadcast(value.data, 0)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    try:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # The root too gives up its whole weights after each pass, so that they may be swapped between two of them.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError) as error:
        raise AssayError(f"FSDP refuses this model: {error}", do="train without --use_fsdp, or another method") from None
    for value in whole_ones:
        value.data = value.data.new_empty(0)

    def join() -> None:
        with torch.no_grad():
            for module, _, kept in before:
                for name, value in kept["_parameters"].items():
                    if value is not None and not value.numel():
                        value.data = whole(module._parameters[name].detach())
        for module, kind, kept in before:
            module.__class__ = kind
            for name in [name for name in vars(module) if "fsdp" in name or "composable" in name]:
                delattr(module, name)
            for name, entries in kept.items():  # in place: handles of hooks refer to these dictionaries
                vars(module)[name].clear()
                vars(module)[name].update(entries)
            registry._module_state_mapping.pop(module, None)  # else torch refuses to cut this module a second time

    return join


def attributes(module: Module) -> dict[str, Any]:
    """What sharding changes of a module: its parameters and its hooks."""
    held = {name: value for name, value in vars(module).items() if isinstance(value, dict)}
    return {name: value.copy() for name, value in held.items() if name == "_parameters" or "hooks" in name}


def whole(value: Tensor) -> Tensor:
    """A tensor with the parts of all processes: a collective. One that is whole already is given back as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def like(value: Tensor, source: Tensor) -> Tensor:
    """A tensor as `value` is: on its device, and whole or cut. A collective where only one of them is cut."""
    if not hasattr(value, "full_tensor"):
        return whole(source).to(value.device)
    if hasattr(source, "full_tensor"):
        return source
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(source.to(value.device), value.device_mesh, value.placements)
