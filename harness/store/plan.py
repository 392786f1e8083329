"""The plan of a run: one frozen value, stored in its manifest, from which the run can be resumed or repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from assay.harness.errors import AssayError


@dataclass(frozen=True, slots=True)
class Plan:
    """All settings of a run.

    `shots` and `split` override those of every task unless they are None and ""; `limit` keeps the first items of each task; `seed` is
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
    seed: int = 0
    split: str = ""
    chat: bool = False
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

    def __post_init__(self) -> None:
        if not self.tasks:
            raise AssayError("no tasks given", do="give some with --tasks; `assay tasks` lists them")
        if self.limit is not None and self.limit < 1:
            raise AssayError(f"--limit {self.limit} leaves nothing to score", do="use --limit 1 or more, or leave it out")
        if self.shots is not None and self.shots < 0:
            raise AssayError(f"--shots {self.shots} is negative", do="use --shots 0 or more")
        if self.shard and (self.repeat_check or self.repeat_engine):
            raise AssayError("cannot be combined with --shard", where="--repeat-check", do="leave out one of the two")
        self.part()

    def part(self) -> tuple[int, int]:
        """Return the shard as (index from 0, count); (0, 1) is the whole run. Raises AssayError if it is not i/n."""
        if not self.shard:
            return 0, 1
        index, slash, count = self.shard.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise AssayError(f"--shard {self.shard!r} is invalid", do="write i/n with i from 1 to n, such as --shard 2/4")
        return int(index) - 1, int(count)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Plan:
        """Return the plan of a manifest. Raises AssayError for unknown fields, written by another version."""
        known = {field.name for field in fields(cls)}
        if unknown := set(stored) - known:
            raise AssayError(f"the plan has unknown fields {sorted(unknown)}", do="use the assay version that wrote the run")
        return cls(**{**stored, "tasks": tuple(stored["tasks"])})
