"""Finds fine-tuning methods by name: one file per method here, or an entry point of the group assay.methods in another package."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.methods.peft_method import wrap
from assay.tuners.training.method import Method, Trainable


def method_names() -> tuple[str, ...]:
    """Names of all methods, without importing them."""
    return tuple(sorted(own_methods().keys() | {entry.name for entry in entry_points(group="assay.methods")}))


def own_methods() -> dict[str, str]:
    """Module by name of the methods in this package; each is in the folder of its family."""
    folders = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    found = {folder: pkgutil.iter_modules([str(Path(root) / folder) for root in __path__]) for folder in folders}
    return {module.name: f"{__name__}.{folder}.{module.name}" for folder, modules in found.items() for module in modules}


def find_method(name: str) -> Method:
    """The method of that name; `peft:HiraConfig` wraps any configuration of peft. Raises AssayError for unknown names."""
    if name.startswith("peft:"):
        return peft_method(name.removeprefix("peft:"))
    key = name.replace("-", "_").lower()
    if module := own_methods().get(key):
        found = importlib.import_module(module).METHOD
    else:
        loaded = [entry.load() for entry in entry_points(group="assay.methods") if entry.name == key]
        if not loaded:
            close = difflib.get_close_matches(key, method_names(), n=1)
            known = f"did you mean {close[0]}?" if close else f"choose from {', '.join(method_names())}, peft:<Config>"
            raise AssayError(f"no method {name!r}", do=known)
        found = loaded[0]
    if not isinstance(found, Method):
        raise AssayError(f"{found!r:.80} is not a Method", where=name, do="point the entry point to a Method")
    return found


def peft_method(config: str) -> Method:
    """A configuration class of peft as a method; its options are the fields of that class."""
    import peft

    kind = getattr(peft, config, None)
    if not (isinstance(kind, type) and issubclass(kind, peft.PeftConfig)):
        known = [name for name in dir(peft) if name.endswith("Config")]
        close = difflib.get_close_matches(config, known, n=3)
        raise AssayError(f"peft has no {config}", where=f"peft:{config}", do=f"did you mean {' or '.join(close or known[:3])}?")

    def prepare(model: Any, **options: Any) -> Trainable:
        try:
            chosen = kind(task_type="CAUSAL_LM", **options)
        except (TypeError, ValueError) as error:
            raise AssayError(f"peft refuses: {error}", where=f"peft:{config}", do=f"set fields of peft.{config}") from None
        return wrap(model, chosen)

    soft = issubclass(kind, peft.PromptLearningConfig)
    return Method(
        f"peft:{config}",
        family="additive" if soft else "reparameterization",
        prepare=prepare,
        lr=3e-3 if soft else 3e-4,
        route="transformers",
        identity=None,
        merges=None,
        about=f"peft.{config}, unchanged",
    )
