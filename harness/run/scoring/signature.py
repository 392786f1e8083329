"""The settings that a run's numbers depend on, and the signature of a result: one line with all of them, as in sacrebleu.

Two results with one signature are comparable: it holds the hash of all prompts, choices and gold answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from assay.harness.model.find import ModelRef, checkpoint_of
from assay.harness.model.weights import digest_files
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item
from assay.harness.task.metric import Metric
from assay.harness.task.task import Task

NOT_IN_SIGNATURE = frozenset(
    {
        *("model", "tasks", "revision", "adapter"),  # which model and tasks: the digest, the task's name, `adapter` by its files
        *("shots", "split", "allow_partial"),  # stated for each task
        *("engine", "dtype", "device", "batch", "budget", "tensor_parallel", "pipeline_parallel"),  # as the engine states them
        *("shard", "repeat_check", "repeat_engine", "data_parallel", "allow_failed"),  # change no number
        *("chat", "served_name", "tokenizer"),  # `chat` by the template's hash, `tokenizer` by what is sent to the server
        "engine_args",  # argument by argument
    }
)
"""Fields of a plan that `plan_settings` leaves out. Every other one is in the signature where it is not the default."""
SHORT = 24
"""Longer values are replaced by a hash."""


def plan_settings(plan: Mapping[str, Any]) -> dict[str, str]:
    """The random seed of a stored plan, and every option that changes scores and is not the default."""
    defaults = {field.name: field.default for field in fields(Plan) if field.name not in NOT_IN_SIGNATURE}
    chosen = {name: plan[name] for name, default in defaults.items() if name in plan and as_text(plan[name]) != as_text(default)}
    arguments = ",".join(map(argument_text, plan.get("engine_args", ())))
    found = {"seed": as_text(plan.get("seed", 0)), **{name: as_text(value) for name, value in chosen.items()}}
    return found | ({"engine_args": arguments} if arguments else {})


def argument_text(argument: str) -> str:
    """An argument `key=value` of the engine's library, readable where its value is short and plain."""
    key, _, value = argument.partition("=")
    return f"{key}={as_text(value)}"


def run_settings(plan: Plan, model: ModelRef, chat_template: str) -> dict[str, str]:
    """The plan's settings with the hash of the chat template, the adapter by its kind and its files, and the quantisation."""
    found = plan_settings(plan.as_json())
    if plan.chat:
        found["chat"] = digest(chat_template) if chat_template else "by the server"
    if model.server is not None:
        return found | {"prompts": model.server.prompts}
    checkpoint = checkpoint_of(model)
    if checkpoint.adapter is not None:
        found["adapter"] = f"{checkpoint.adapter.kind.lower()} {digest_files(checkpoint.adapter.files)[:8]}"
    quantization = checkpoint.config.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method", "") if isinstance(quantization, Mapping) else ""
        found["quantization"] = as_text(f"{method} {digest(json.dumps(quantization, sort_keys=True, default=str))}".strip())
    return found


def as_text(value: Any) -> str:
    """A setting as a short text without the signature's separators; a hash if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=list)
    plain = text.isprintable() and not set(text) & {"|", ":"}
    return text if plain and len(text) <= SHORT else f"#{digest(text)}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def scorer(metric: Metric[Any], items: Iterable[Item]) -> str:
    """The metric's signature with the rules that only some of these items need."""
    rules = set() if metric.rule is None else {metric.rule(item.doc) for item in items}
    return "|".join(filter(None, (metric.signature, *sorted(rules))))


def scorers(task: Task, items: Sequence[Item]) -> list[str]:
    """The name and signature of each metric, as the manifest stores them."""
    return [f"{metric.name} {scorer(metric, items)}".strip() for metric in task.metrics]


def with_settings(signature: str, facts: Sequence[Mapping[str, Any]], dtype: str) -> str:
    """The signature of a result of these tasks with the settings of its run, which runs of earlier versions have not stored."""
    if not facts or "settings" not in facts[0]:
        return signature
    settings = [f"{name}:{value}" for name, value in facts[0]["settings"].items()]
    items = facts[0]["fingerprint"][:8] if len(facts) == 1 else digest(" ".join(each["fingerprint"] for each in facts))
    return "|".join([signature, *settings, f"dtype:{dtype}", f"items:{items}"])


def dtype_of(engine: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The data type that an engine states, else that of the plan."""
    return str(engine.get("dtype") or plan.get("dtype", "auto"))
