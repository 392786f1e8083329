"""The plan of a run: one frozen value, stored in its manifest, from which the run can be resumed or repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from assay.harness.errors import AssayError

DATE = "2026-01-01"
"""The date that a chat template sees if none is given: the same every day, so that a model is comparable with itself."""

GENERATION = ("max_tokens", "temperature", "top_p", "samples", "stop", "thinking_budget")
"""Fields of a plan that override those of every task that generates text."""


def generation_options(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Generate that a plan (as JSON) overrides."""
    found = {name: plan[name] for name in GENERATION if plan.get(name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


ORDERS, OVERLONG = ("sample", "first"), ("error", "skip", "truncate-left")


@dataclass(frozen=True, slots=True)
class Plan:
    """All settings of a run.

    `shots` and `split` override those of every task unless they are None and ""; `limit` keeps some items of each task; `seed` is
    the random seed for few-shot examples and sampling. `chat` uses the model's chat template. `drop_shots` drops the last few-shot
    examples of a prompt that would not fit (recorded per item) instead of raising an error. `budget` (bytes), `batch` (items),
    `device`, `tensor_parallel` and `pipeline_parallel` are passed to the engine and change no score.
    """

    model: str
    tasks: tuple[str, ...]
    adapter: str = ""
    revision: str = ""
    shots: int | None = None
    limit: int | None = None
    limit_order: str = "sample"
    """Which items `limit` keeps: "sample" (seeded, stratified by label, clusters whole) or "first"."""
    limit_seed: int | None = None
    """The random seed of that sample; None: `seed`. With it, runs whose few-shot examples differ score the same items."""
    overlong: str = "error"
    """What becomes of items longer than the model's context: "error", "skip" or "truncate-left"."""
    allow_failed: bool = False
    """Finish a run although items failed: its scores leave them out, and its evidence is "failed"."""
    seed: int = 0
    split: str = ""
    chat: bool = False
    system: str = ""
    """The system message of every chat."""
    template_args: tuple[str, ...] = ()
    """`key=value` keywords of the chat template; a value is JSON, else text."""
    template_date: str = DATE
    """The date that a chat template sees, so that its prompts are the same tomorrow."""
    one_turn: bool = False
    """Few-shot examples are part of the user's message instead of earlier turns."""
    assistant_prefix: str = ""
    """Text that follows the generation prompt of every chat, so that the response continues it."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    stop: tuple[str, ...] | None = None
    thinking_budget: int | None = None
    """These override the fields of every Generate task unless they are None."""
    drop_shots: bool = False
    allow_partial: bool = False
    shard: str = ""
    """`2/4` scores only the second quarter of each task's items; the parts are merged later."""
    repeat_check: bool = False
    """Score every item twice with different batching to measure run-to-run noise."""
    repeat_engine: str = ""
    """Name of a second engine that scores every item again."""
    engine: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    budget: int | None = None
    batch: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    """Processes that each load the model and score a part of the requests."""
    engine_args: tuple[str, ...] = ()
    """`key=value` arguments of vLLM's engine or of transformers' from_pretrained."""
    served_name: str = ""
    """The server's name of the model, where `model` is the address of a server."""
    tokenizer: str = ""
    """Folder of a served model's tokenizer; empty: text is sent, and the server tokenises."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise AssayError("no tasks given", do="give some with --tasks; `assay tasks` lists them")
        if self.limit is not None and self.limit < 1:
            raise AssayError(f"--limit {self.limit} leaves nothing to score", do="use --limit 1 or more, or leave it out")
        for option, value, known in (("limit-order", self.limit_order, ORDERS), ("overlong", self.overlong, OVERLONG)):
            if value not in known:
                raise AssayError(f"--{option} {value!r:.40} is unknown", do=f"use {', '.join(known[:-1])} or {known[-1]}")
        for option, amount in (("batch", self.batch), ("budget", self.budget)):
            if amount is not None and amount < 1:
                raise AssayError(f"--{option} {amount} is too small", do=f"use --{option} 1 or more, or leave it out")
        if self.shots is not None and self.shots < 0:
            raise AssayError(f"--shots {self.shots} is negative", do="use --shots 0 or more")
        if self.shard and (self.repeat_check or self.repeat_engine):
            raise AssayError("cannot be combined with --shard", where="--repeat-check", do="leave out one of the two")
        if (self.system or self.template_args or self.one_turn or self.assistant_prefix) and not self.chat:
            raise AssayError("--system, --chat-template-args, --shots-in-one-turn and --assistant-prefix need a chat", do="add --chat")
        try:
            date.fromisoformat(self.template_date)
        except ValueError:
            raise AssayError(f"--template-date {self.template_date!r:.40} is not a date", do=f"write it as {DATE}") from None
        self.template_arguments()
        if self.data_parallel < 1:
            raise AssayError(f"--data-parallel {self.data_parallel} is no number of processes", do="use --data-parallel 2 or more")
        self.part()

    def part(self) -> tuple[int, int]:
        """Return the shard as (index from 0, count); (0, 1) is the whole run. Raises AssayError if it is not i/n."""
        if not self.shard:
            return 0, 1
        index, slash, count = self.shard.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise AssayError(f"--shard {self.shard!r} is invalid", do="write i/n with i from 1 to n, such as --shard 2/4")
        return int(index) - 1, int(count)

    def template_arguments(self) -> dict[str, Any]:
        """Return the keywords of the chat template. Raises AssayError if one is not key=value."""
        found: dict[str, Any] = {}
        for text in self.template_args:
            name, equals, value = text.partition("=")
            if not (equals and name.isidentifier()):
                raise AssayError(f"--chat-template-args {text!r:.60} is not key=value", do="write enable_thinking=false")
            try:
                found[name] = json.loads(value)
            except ValueError:
                found[name] = value
        return found

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Plan:
        """Return the plan of a manifest. Raises AssayError for unknown fields, written by another version."""
        known = {field.name for field in fields(cls)}
        if unknown := set(stored) - known:
            raise AssayError(f"the plan has unknown fields {sorted(unknown)}", do="use the assay version that wrote the run")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
        return cls(**{"limit_order": "first", **values})  # earlier versions kept the first items
