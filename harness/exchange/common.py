"""Functions that the exporters share: a run's results, its data sets, file names that every file system accepts, writing."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import write_file
from assay.harness.store import Run

MIRRORED = re.compile(r"([\w.-]+)__([\w.-]+)/([^/]+)/[^/]+\.parquet")
FETCHED = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)/([^/]+)/[^/]+@(.+)")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of the Hugging Face hub; `revision` is empty where it is not pinned."""

    id: str
    config: str
    revision: str = ""


def dataset_of(task: Mapping[str, Any]) -> DataSet | None:
    """The hub's data set that a task of a manifest was read from; None for a file or an unknown origin."""
    if isinstance(dataset := task.get("dataset"), Mapping):
        return DataSet(str(dataset["id"]), str(dataset["config"]))
    origin = str(task.get("origin", ""))
    if found := MIRRORED.fullmatch(origin):
        return DataSet(f"{found[1]}/{found[2]}", found[3])
    if found := FETCHED.fullmatch(origin):
        return DataSet(found[1], found[2], found[3] if re.fullmatch(r"[0-9a-f]{40}", found[3]) else "")
    return None


def results_of(run: Run) -> Sequence[Mapping[str, Any]]:
    """All results that have a value. Raises Incomplete if the run is not complete."""
    if run.status != "complete":
        raise Incomplete("only a complete run can be exported", where=run.id, do=f"assay resume {run.id}")
    return [result for result in run.summary()["results"] if result["value"] is not None]


def publishable(run: Run) -> list[Mapping[str, Any]]:
    """Main results that may be published on a model's page. Raises AssayError if there is none."""
    kept = [
        result
        for result in results_of(run)
        if result["main"] and result["metric"] != "total" and (result["purpose"], result["evidence"]) == ("release", "complete")
    ]
    if not kept:
        what = "the run has no release score on all items: smoke, limited, partial and aggregate-only scores are not published"
        raise AssayError(what, where=run.id, do="evaluate again without --limit")
    return kept


def slug(text: str) -> str:
    """The text as a file name that is safe on every file system."""
    return re.sub(r"[^\w.@-]+", "_", text).strip("._") or "unnamed"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A unique safe file name for each; names that would be equal get 8 digits of their SHA-256."""
    plain = {name: slug(name) for name in names}
    times = Counter(plain.values())
    return {
        name: short if times[short] == 1 else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}" for name, short in plain.items()
    }


def parts_of(model: str) -> tuple[str, str]:
    """Developer and name of a model as folder names; the developer of a local path is "unknown"."""
    last = [part for part in re.split(r"[/\\:]+", model) if part not in ("", ".", "..")][-2:]
    local = model.startswith(("/", ".", "~")) or len(last) < 2
    return ("unknown" if local else slug(last[0])), slug(last[-1] if last else model)


def moment(run: Run) -> datetime:
    return datetime.fromisoformat(run.manifest["created_at"])


def summary_line(result: Mapping[str, Any]) -> str:
    """Interval, number of items and signature of a result on one line."""
    interval = "" if result["low"] is None else f"95% interval {result['low']:.4f} to {result['high']:.4f}; "
    return f"{interval}n={result['n']}; {result['signature']}"


def write(path: Path, text: str) -> Path:
    """Writes a file atomically and returns its path. Raises AssayError if it cannot be written."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        what = "the text is not valid Unicode (a lone surrogate)"
        raise AssayError(what, where=f"{str(path)!a:.200}", do="rename the model and the tasks, then evaluate again") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        raise AssayError(
            f"cannot be written: {error.strerror or error}", where=f"{path!s:.300}", do="choose another folder with --to"
        ) from None
    return path


def jsonl(rows: Sequence[Mapping[str, Any]], *, allow_nan: bool = False) -> str:
    """`allow_nan`: write NaN as the bare word, as lm-eval does."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=allow_nan) + "\n" for row in rows)
