"""Convert lm-eval samples to items and records, keeping every field so that they can be exported again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.files.safe_open import read_regular
from assay.harness.metrics.lm_eval import PAIR, Scorer, statistics
from assay.harness.store.record import Item, Record, Status
from assay.harness.task.metric import Stats

AGGREGATE_ITEM = "aggregate"
"""Id of the only item of a run that was imported without samples."""
ITEM_FIELDS = ("doc", "target", "doc_hash", "target_hash")
"""Fields of a sample that describe the item; all others describe the model's output."""
INVALID = "[invalid]"
"""The filtered response where lm-eval could not parse an answer."""
MAX_BYTES = 1 << 32
"""Largest size of an lm-eval file."""
DO = "import the files as lm-eval wrote them"


@dataclass(frozen=True, slots=True)
class Sampled:
    """One line of a samples file: an item under one filter."""

    doc_id: Any
    filter: str
    line: int
    row: Mapping[str, Any]

    @property
    def arguments(self) -> list[Mapping[str, Any]]:
        found = self.row.get("arguments")
        return [each for each in found.values() if isinstance(each, Mapping)] if isinstance(found, Mapping) else []

    @property
    def ask(self) -> str:
        """choose, generate or perplexity, by the type of the request's arguments."""
        second = self.arguments[0].get("arg_1") if self.arguments else None
        return "choose" if isinstance(second, str) else "generate" if isinstance(second, Mapping) else "perplexity"

    @property
    def choices(self) -> tuple[str, ...]:
        """The continuations; where the contexts differ (several contexts, one continuation), context and continuation."""
        if self.ask != "choose":
            return ()
        same = len({str(each.get("arg_0")) for each in self.arguments}) == 1
        return tuple(str(each["arg_1"]) if same else f"{each.get('arg_0')}{each['arg_1']}" for each in self.arguments)


def nonfinite(value: Any) -> bool:
    """Whether a sample's value is NaN or infinite, or a pair that holds one."""
    return any(map(nonfinite, value)) if isinstance(value, list) else isinstance(value, float) and not math.isfinite(value)


def broken_fields(sample: Sampled) -> list[str]:
    """The metrics of a sample, and its responses, that are not finite numbers."""
    metrics = sample.row.get("metrics")
    names = [str(name) for name in metrics] if isinstance(metrics, list) else [name for name in sample.row if name not in ITEM_FIELDS]
    found = [name for name in names if nonfinite(sample.row.get(name))]
    replies = sample.row.get("resps")
    sums = map(number, replies) if isinstance(replies, list) and sample.ask != "generate" else ()
    return found + (["resps"] if any(value is not None and not math.isfinite(value) for value in sums) and "resps" not in found else [])


def as_json(value: Any) -> Any:
    """A value as JSON can store it: NaN and infinity, which lm-eval writes as bare words, as {"float": "nan"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def from_json(value: Any) -> Any:
    """The value that `as_json` was given."""
    if isinstance(value, Mapping):
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: from_json(inner) for key, inner in value.items()}
    return [from_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_file(path: Path, optional: bool = False) -> bytes:
    """The bytes of an lm-eval file; empty where an optional file does not exist. Raises AssayError where it cannot be read."""
    try:
        return read_regular(path, MAX_BYTES, follow=True)
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError):
            return b""
        raise AssayError(f"cannot be read: {error.strerror or error}", where=f"{path!s:.200}", do=DO) from None


def read_samples(path: Path, task: str) -> tuple[Sampled, ...]:
    """All rows of a samples file; empty where it does not exist. Raises AssayError for a line that is not a sample."""
    found = []
    for number, line in enumerate(read_file(path, optional=True).decode().split("\n"), 1):  # splitlines would split at U+2028
        if not line:
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # escapes may hold lone surrogates
            found.append(Sampled(row["doc_id"], str(row.get("filter", "none")), number, row))
        except (ValueError, KeyError, TypeError) as error:
            raise AssayError(f"not a sample of lm-eval: {error!r:.80}", where=f"{path}:{number}", do=DO) from None
    if len({(sample.doc_id, sample.filter) for sample in found}) < len(found):
        raise AssayError(f"an item of {task} occurs twice", where=str(path), do="import the files of one run")
    return tuple(found)


def gold_of(sample: Sampled) -> int | None:
    """The index of the gold choice, or None where the target names no single choice."""
    target = str(sample.row.get("target", "")).strip()
    if target.isdigit() and len(sample.choices) > 1 and int(target) < len(sample.choices):
        return int(target)
    matches = [number for number, choice in enumerate(sample.choices) if choice.strip() == target]
    return matches[0] if len(sample.choices) > 1 and len(matches) == 1 else None


def read_item(task: str, rows: Sequence[Sampled], scorers: Sequence[Scorer]) -> tuple[Item, Record]:
    """The item and record of an item's samples, one for each filter. A metric that is NaN has no statistics, and the record says so."""
    item = item_of(task, rows)
    return item, record_of(item, rows, stats_of(rows, scorers, f"{task} {item.id}"), scorers[0] if scorers else None)


def item_of(task: str, rows: Sequence[Sampled]) -> Item:
    first = rows[0]
    gold = gold_of(first)
    name = str(first.doc_id)
    kept = {field: as_json(first.row[field]) for field in ITEM_FIELDS if field in first.row}
    return Item(
        task=task,
        id=name,
        group=name,
        cluster=name,
        prompt=str(first.arguments[0].get("arg_0", "")) if first.arguments else "",
        choices=first.choices,
        gold=first.choices[gold] if gold is not None else str(first.row.get("target", "")),
        doc={"lm_eval": kept, "doc_id": first.doc_id, **({} if gold is None else {"gold": gold})},
    )


def record_of(item: Item, rows: Sequence[Sampled], stats: Mapping[str, Stats], main: Scorer | None) -> Record:
    """The responses under all filters; `correct` by the main metric."""
    fields = ({name: as_json(value) for name, value in row.row.items() if name not in (*ITEM_FIELDS, "doc_id")} for row in rows)
    kept = [{"line": row.line, **found} for row, found in zip(rows, fields, strict=True)]
    status: Status = "unparsed" if main is not None and INVALID in filtered_responses(sample_of(rows, main)) else "scored"
    broken = list(dict.fromkeys(name for row in rows for name in broken_fields(row)))
    lacking = {"undefined": broken} if broken else {}
    if broken and not stats:
        status = "error"
    error = f"{', '.join(broken)} in lm-eval's samples: not a finite number" if broken else ""
    return Record(
        item.task, item.id, status, {**output_of(rows[0]), **lacking, "lm_eval": kept}, dict(stats), correct(rows, main), error=error
    )


def stats_of(rows: Sequence[Sampled], scorers: Sequence[Scorer], where: str) -> dict[str, Stats]:
    """Statistics by metric, for metrics with a finite value."""
    found = {}
    for scorer in scorers:
        base, kept = of_metric(scorer.name, rows)
        if kept and kept[0].row.get(base) is not None and not nonfinite(kept[0].row[base]):
            found[scorer.name] = statistics(scorer, kept[0].row[base], where)
    return found


def samples_of(item: Item, record: Record) -> list[Sampled]:
    """The samples from which `read_item` made this item and record."""
    found = []
    for kept in record.output.get("lm_eval", ()):
        row = from_json({"doc_id": item.doc["doc_id"], **item.doc["lm_eval"], **kept})
        found.append(Sampled(row["doc_id"], str(row.get("filter", "none")), row.pop("line"), row))
    return found


def of_metric(metric: str, rows: Sequence[Sampled]) -> tuple[str, list[Sampled]]:
    """The field that holds a metric, and the samples of its filter: `exact_match,strict` is `exact_match` under `strict`."""
    base, _, filtered = metric.partition(",")
    return base, [row for row in rows if row.filter == (filtered or "none")]


def sample_of(rows: Sequence[Sampled], scorer: Scorer) -> Sampled:
    return (of_metric(scorer.name, rows)[1] or rows)[0]


def filtered_responses(sample: Sampled) -> list[Any]:
    found = sample.row.get("filtered_resps")
    return found if isinstance(found, list) else [found]


def correct(rows: Sequence[Sampled], main: Scorer | None) -> float | None:
    if main is None:
        return None
    value = sample_of(rows, main).row.get(of_metric(main.name, rows)[0])
    if main.aggregation in PAIR and isinstance(value, list):
        return float(value[0] == value[1])
    return float(value) if main.shares and isinstance(value, int | float) and not nonfinite(value) else None


def output_of(sample: Sampled) -> dict[str, Any]:
    """The output for display: the choice with the highest log-likelihood, the completion, or the log-likelihood."""
    replies = sample.row.get("resps")
    first = replies[0] if isinstance(replies, list) and replies else None
    while isinstance(first, list) and len(first) == 1:
        first = first[0]
    if sample.ask == "choose" and isinstance(replies, list):
        sums = [value for reply in replies if (value := number(reply)) is not None]
        if sums and len(sums) == len(sample.choices):
            whole = {"loglikelihoods": sums} if all(map(math.isfinite, sums)) else {}
            return {"pick": int(np.argmax(sums)), **whole}  # lm-eval's argmax picks a NaN
    if sample.ask == "generate":
        return {"text": first if isinstance(first, str) else str(first)}
    value = number(first)
    return {"text": str(first)} if value is None or not math.isfinite(value) else {"logprob": value}


def number(reply: Any) -> float | None:
    """The log-likelihood in a reply, which lm-eval nests in lists and may write as text."""
    while isinstance(reply, list) and reply:
        reply = reply[0]
    try:
        return float(reply)
    except (TypeError, ValueError):
        return None
