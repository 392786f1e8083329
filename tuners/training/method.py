"""The types of a fine-tuning method: `Method`, and `Trainable`, a model with some parameters made trainable."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from assay import AssayError
from assay.tuners.training.sharding import placed_like

Family = Literal["in_context", "full", "selective", "reparameterization", "additive"]
Route = Literal["base", "model", "lora", "merged", "prompt", "transformers"]
"""How a tuned result is served. base: nothing to load. model: its own model directory. lora: natively by engines that support
LoRA. merged: merged into the base's weights first. prompt: as embeddings before the prompt (generation only in vLLM).
transformers: only with the adapter attached."""

Module = Any  # torch.nn.Module; torch is not imported here
Tensor = Any


def do_nothing(*step: int) -> None:
    """The default of `remember` and `after_step`."""


@dataclass(slots=True)
class Trainable:
    """A model prepared by a method; only the parameters of `model` that require a gradient are trained.

    `save(directory)` writes the trained parameters; `merged()` gives a copy in the base's architecture with the same logits
    (None: the method cannot be merged). `reference()` is a context in which `model` computes the base's logits; call `remember()`
    before the first step to use it, since it may copy the trained parameters. `penalty()` is the method's own loss term;
    `after_step(step)` is called after step 1, 2, ...; `state` and `restore` give and take the tensors that a resumed run needs
    besides parameters and optimizer.

    Raises AssayError if no parameter would be trained.
    """

    model: Module
    save: Callable[[Path], None]
    reference: Callable[[], AbstractContextManager[Any]]
    merged: Callable[[], Module] | None = None
    remember: Callable[[], None] = do_nothing
    penalty: Callable[[], Tensor] | None = None
    after_step: Callable[[int], None] = do_nothing
    state: Callable[[], dict[str, Tensor]] = dict
    restore: Callable[[dict[str, Tensor]], None] = field(default=lambda saved: None)

    def __post_init__(self) -> None:
        if not self.trained:
            raise AssayError("no parameter of this model would be trained", do="choose other target modules or another method")

    @property
    def trained(self) -> dict[str, Tensor]:
        """The trained parameters, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @property
    def count(self) -> int:
        """Number of trained values."""
        return sum(value.numel() for value in self.trained.values())


@dataclass(frozen=True, slots=True)
class Method:
    """A fine-tuning method. `prepare(model, **options)` freezes, wraps or extends the model.

    The defaults of `prepare` are the method's options; parameters called `seed` and `steps` (optimizer steps planned) are
    filled in by `begin`. `lr` is the centre of the learning-rate grid for AdamW. `identity`: the logits before the first step
    are the base's (None: not known). `tolerance`: largest difference in logits that still counts as identity. `merges`: whether
    the result can be merged into the base's weights (None: not known).
    """

    name: str
    family: Family
    prepare: Callable[..., Trainable]
    lr: float
    route: Route
    identity: bool | None = True
    tolerance: float = 0.0
    merges: bool | None = True
    about: str = ""

    def options(self) -> dict[str, Any]:
        """Names and default values of the options that a user can set."""
        parameters = list(inspect.signature(self.prepare).parameters.values())[1:]
        return {p.name: p.default for p in parameters if p.name not in ("seed", "steps") and p.kind is not p.VAR_KEYWORD}

    @property
    def takes_any_option(self) -> bool:
        """Whether `prepare` accepts options of any name and checks them itself."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.prepare).parameters.values())

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises AssayError for unknown options, and for values of another type than the default."""
        unknown = sorted(options.keys() - self.options().keys())
        if unknown and not self.takes_any_option:
            known = ", ".join(self.options()) or "none"
            raise AssayError(f"unknown option {', '.join(unknown)}", where=self.name, do=f"choose from {known}")
        signature = inspect.signature(self.prepare).parameters
        for name in options.keys() & signature.keys():
            is_float = signature[name].annotation in (float, "float")
            wanted = kind_of(0.0 if is_float else signature[name].default)
            if not fits(options[name], wanted):
                raise AssayError(f"{name}={options[name]!r:.60} is not {wanted}", where=self.name, do=f"give {name} {wanted}")

    def begin(self, model: Module, *, seed: int = 0, steps: int = 1, options: Mapping[str, Any] | None = None) -> Trainable:
        """Prepare `model` in place; equal seeds give equal initial parameters. Raises AssayError for unknown options."""
        import torch

        given = dict(options or {})
        self.check_options(given)
        signature = inspect.signature(self.prepare).parameters
        given |= {name: value for name, value in (("seed", seed), ("steps", steps)) if name in signature}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.prepare(model, **given)


def kind_of(default: object) -> str:
    """In words the type of an option with that default; empty if any value is allowed."""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number"
    return "a name or a comma-separated list of names" if isinstance(default, str | tuple) else ""


def fits(value: object, kind: str) -> bool:
    """Whether a value has the type that `kind_of` named."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind == "true or false":
        return isinstance(value, bool)
    if kind in ("a whole number", "a number"):
        return number and (kind == "a number" or isinstance(value, int))
    names = value.split(",") if isinstance(value, str) else value
    return not kind or (isinstance(names, list | tuple) and all(isinstance(name, str) and name.strip() for name in names))


def with_parameters(model: Module, values: Mapping[str, Tensor]) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the named parameters hold other values; afterwards they hold exactly their old ones."""
    import torch

    @contextmanager
    def swap() -> Iterator[None]:
        with torch.no_grad():
            live = {name: value for name, value in model.named_parameters() if name in values}
            kept = {name: value.detach().clone() for name, value in live.items()}
            for name, value in live.items():
                value.copy_(placed_like(value, values[name]))
            try:
                yield
            finally:
                for name, value in live.items():
                    value.copy_(kept[name])

    return swap


def from_start(model: Module) -> tuple[Callable[[], None], Callable[[], AbstractContextManager[None]]]:
    """`remember` and `reference` for a method that trains parameters of the base itself.

    `reference` raises AssayError unless `remember` was called before.
    """
    start: dict[str, Tensor] = {}

    def remember() -> None:
        if not start:
            start.update({name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad})

    def reference() -> AbstractContextManager[None]:
        if not start:
            raise AssayError("the weights before training were not stored", do="call remember() before the first step")
        return with_parameters(model, start)()

    return remember, reference
