"""Runs tasks with lm-eval itself and with assay, on the same model and documents, and compares per document and in total."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines.opening import open_engine
from assay.harness.files.places import Surroundings
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.store import Run, read_run
from assay.harness.store.plan import Plan
from assay.tasks._lm_eval.library import manager_of, mirrored
from assay.tasks._lm_eval.names import own_names


@dataclass(frozen=True)
class Setting:
    """How both score: number of documents from the first (None: all), few-shot examples (None: the task's), chat, system message."""

    limit: int | None = None
    shots: int | None = None
    chat: bool = False
    system: str = ""
    include: str = ""


@dataclass(frozen=True)
class Compared:
    """One metric of one task or group. `differ`: documents whose value differs; `nats`: largest difference of a log-likelihood."""

    task: str
    metric: str
    items: int
    theirs: float
    ours: float
    differ: int
    nats: float
    texts: int
    group: bool = False


def task_manager(include: str, place: Surroundings) -> Any:
    """lm-eval's own, over a user's folder or over all of its tasks (from the index in the cache)."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include, include_defaults=False) if include else manager_of(own_names(place.access()))


def open_peer(model: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1)


def theirs(peer: Any, names: Sequence[str], place: Surroundings, setting: Setting) -> tuple[dict[str, Any], float, int]:
    """lm-eval's own results, its seconds, and the tokens that its model computed."""
    from lm_eval import evaluator

    evaluator.add_env_info = evaluator.get_git_commit_hash = lambda *_: ""  # they start programs that take seconds
    tokens = 0
    forward = peer.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal tokens
        ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        tokens += int(ids.numel())
        return forward(*args, **kwargs)

    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = task_manager(setting.include, place)
        peer.model.forward = counted
        started = time.perf_counter()
        try:
            with mirrored(place.access(allow_partial=True)):
                found = evaluator.simple_evaluate(
                    model=peer,
                    tasks=list(names),
                    num_fewshot=setting.shots,
                    limit=setting.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    apply_chat_template=setting.chat,
                    system_instruction=setting.system or None,
                    fewshot_as_multiturn=setting.chat,
                    task_manager=manager,
                    confirm_run_unsafe_code=True,
                )
        finally:
            peer.model.forward = forward
            logging.disable(logging.NOTSET)
    assert found is not None
    return found, time.perf_counter() - started, tokens


def ours(model: Path, names: Sequence[str], place: Surroundings, setting: Setting, opener: OpenEngine = open_engine) -> tuple[Run, float]:
    """assay's run of the same tasks, and its seconds."""
    plan = Plan(
        model=str(model),
        tasks=tuple(f"lm-eval:{setting.include + '/' if setting.include else ''}{name}" for name in names),
        shots=setting.shots,
        limit=setting.limit,
        limit_order="first",
        chat=setting.chat,
        system=setting.system,
        engine="hf",
        dtype="float32",
        device="cpu",
        allow_partial=True,
    )
    started = time.perf_counter()
    return read_run(evaluate(plan, place, opener=opener)), time.perf_counter() - started


def compare(found: dict[str, Any], run: Run) -> list[Compared]:
    """Every metric of every task of lm-eval's results, and the means of its groups, against the run."""
    results = {(each["task"], each["metric"]): each["value"] for each in run.summary()["results"]}
    records = {(record.task, record.item): record for record in run.records()}
    rows = []
    for task, samples in found["samples"].items():
        name = f"lm-eval:{task}"
        for metric, value in scores(found["results"][task]):
            base, _, chosen = metric.partition(",")
            own = [each for each in samples if each["filter"] == (chosen or "none")]
            pairs = [(each, records[name, str(each["doc_id"])]) for each in own]
            tables = run.stats()[name, metric]
            stats = dict(zip(tables.item_ids, tables.stats.tolist(), strict=True))
            differ = sum(not same_value(each.get(base), stats.get(str(each["doc_id"]))) for each, _ in pairs)
            nats = max((largest_difference(each["resps"], record.output) for each, record in pairs), default=0.0)
            texts = sum(texts_differ(each["resps"], record.output) for each, record in pairs)
            rows.append(Compared(name, metric, len(pairs), value, results[name, metric], differ, nats, texts))
    for group, each in found.get("groups", {}).items():
        for place, (metric, value) in enumerate(scores(each)):
            name = f"lm-eval:{group}" if place == 0 else f"lm-eval:{group}:{metric}"
            rows.append(Compared(name, metric, int(each["sample_len"]), value, results.get((name, "total"), math.nan), 0, 0.0, 0, True))
    return rows


def scores(results: dict[str, Any]) -> list[tuple[str, float]]:
    return [
        (key.removesuffix(",none"), float(value))
        for key, value in results.items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float)
    ]


def same_value(value: Any, stats: Sequence[float] | None) -> bool:
    """Whether a number of lm-eval's is the item's first statistic; pairs and texts are compared in total only."""
    if not isinstance(value, int | float):
        return stats is not None or value is None
    if stats is None:
        return math.isnan(value)
    return len(stats) > 1 or abs(abs(stats[0]) - abs(float(value))) <= 1e-4 * max(1.0, abs(value))


def largest_difference(replies: Any, output: Any) -> float:
    """Largest difference of a log-likelihood in nats."""
    numbers = [reply[0][0] if isinstance(reply[0], tuple | list) else reply[0] for reply in replies]
    if not all(isinstance(each, float) for each in numbers):
        return 0.0
    mine = [math.fsum(values) for values in output["logprobs"]] if "logprobs" in output else [output["logprob"]]
    return max(abs(one - two) for one, two in zip(numbers, mine, strict=True))


def texts_differ(replies: Any, output: Any) -> bool:
    return isinstance(replies[0][0], str) and replies[0][0] != output["text"]
