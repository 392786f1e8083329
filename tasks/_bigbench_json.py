"""Reads BIG-bench's JSON schema: a task.json becomes one task for each kind of metric it names.

Source: package `bigbench` 1.0.0, api/json_task.py. Like the reference, `append_choices_to_input` is read by its truth value: the
string "false" of logic_grid_puzzle is true, so its choices are appended.
"""

from __future__ import annotations

import functools
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from assay import Access, AssayError, Choose, Doc, Generate, Layout, Metric, Shots, Task, Worked, inline
from assay.harness.metrics.bigbench import CHOICE_METRICS, Extract, choice_metrics, generative_metrics, likelihood_metrics, normalized
from assay.harness.metrics.pattern import check_regex

if TYPE_CHECKING:
    from assay.harness.task.doc import Row
    from assay.harness.task.source import Rows

Kind = Literal["choose", "generate", "likelihood"]
MAX_BYTES = 1 << 30
"""Maximum size of a task.json in bytes, a hundred times the largest of BIG-bench."""
SCHEMA = "follow BIG-bench's JSON schema (google/BIG-bench, docs/doc.md)"
SEED = 42
MAX_TOKENS = 64
"""Maximum length of a response in the paper's runs."""
DEFAULT_REGEX = r"[^\.\?\!\;\n]+"
RANGES: Mapping[str, tuple[float, float]] = {
    "bleu": (0.0, 100.0),
    "sequence_f1": (0.0, 100.0),
    "calibration_multiple_choice_brier_score": (0.0, 1.0),
    "expected_calibration_error": (0.0, 1.0),
    "exact_str_match": (0.0, 1.0),
    "case_insensitive_str_match": (0.0, 1.0),
    "log_likelihood": (-10.0, 0.0),
    "multiple_choice_grade": (0.0, 1.0),
    "numeric_match_with_0_1_relative_error": (0.0, 1.0),
    "rouge1": (0.0, 100.0),
    "rouge2": (0.0, 100.0),
    "rougeLsum": (0.0, 100.0),
    "weighted_log_probabilities": (-10.0, 0.0),
    "weighted_probabilities": (-1.0, 1.0),
    "macro_f1": (0.0, 1.0),
}
LICENCE = "Apache-2.0"
CITATION = "Srivastava et al. 2022, Beyond the Imitation Game: quantifying and extrapolating the capabilities of language models"


@dataclass(frozen=True, slots=True)
class Wording:
    """The prefixes of an example's prompt, and whether it lists the choices."""

    before_input: str
    before_output: str
    before_choice: str
    append_choices: bool


@dataclass(frozen=True, slots=True)
class TaskFile:
    """One task.json without its examples; the last five fields summarise them."""

    path: Path
    origin: str
    about: str
    wording: Wording
    layout: Layout
    extract: Extract
    metrics: tuple[str, ...]
    preferred: str
    chance: float
    """Mean score of a uniformly random choice; NaN without target scores."""
    classes: tuple[str, ...]
    several: bool
    """Whether any example has several correct targets."""


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of one task.json, duplicates dropped, as the single split "test"."""

    path: Path
    origin: str

    def at(self, home: Path) -> Examples:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return ("test",) if self.path.is_file() else ()

    def load(self, split: str, access: Access) -> Rows:
        if split != "test":
            raise AssayError(f"no split {split!r}", where=self.origin, do="BIG-bench has only --split test")
        return replace(inline(test=distinct(read_json(self.path), self.origin)).load(split, access), origin=self.origin)


def read_json(path: Path) -> dict[str, Any]:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:  # reading a device or pipe may never end
            what = f"not a regular file of at most {MAX_BYTES:,} bytes"
            raise AssayError(what, where=str(path), do="give a task.json of BIG-bench or its folder")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AssayError("no such file", where=str(path), do="give a task.json of BIG-bench or its folder") from None
    except (ValueError, OSError, RecursionError) as error:
        raise AssayError(f"not readable as JSON: {error}", where=str(path), do="download the task again") from None
    if not isinstance(found, dict):
        raise AssayError("not a BIG-bench task: the file must hold one JSON object", where=str(path), do="give a task.json of BIG-bench")
    return found


def distinct(data: Mapping[str, Any], origin: str) -> list[Row]:
    """The validated examples in order, without exact duplicates."""
    examples = data.get("examples")
    if not isinstance(examples, list) or not examples:
        raise AssayError("a BIG-bench task needs a non-empty list `examples`", where=origin, do=SCHEMA)
    kept: dict[str, Row] = {}
    for number, row in enumerate(examples):
        where = f"{origin}: example {number}"
        if not isinstance(row, dict) or not isinstance(row.get("input"), str) or not ("target" in row or "target_scores" in row):
            raise AssayError("an example needs `input` and `target` or `target_scores`", where=where, do=SCHEMA)
        scores, target = row.get("target_scores", {"": 1}), row.get("target", "")
        if not isinstance(scores, dict) or not scores or not all(isinstance(x, int | float) and abs(x) <= 1e6 for x in scores.values()):
            raise AssayError("`target_scores` must give each choice a finite number", where=where, do=SCHEMA)
        if target == [] or not all(isinstance(each, str | int | float) for each in listed(target)):
            raise AssayError("`target` must be a string or a list of strings", where=where, do=SCHEMA)
        kept.setdefault(json.dumps(row), row)
    return list(kept.values())


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


TEXTS: tuple[str, ...] = ("stop_string", "output_regex", "task_prefix", "choice_prefix")
TEXTS += ("example_input_prefix", "example_output_prefix", "few_shot_example_separator")
NULLS = ("stop_string", "output_regex")


def check_fields(data: Mapping[str, Any], origin: str) -> None:
    """Raises AssayError for a field that is missing or has the wrong type."""
    for key in ("name", "description", "metrics", "preferred_score"):
        if key not in data:
            raise AssayError(f"a BIG-bench task needs the field {key!r}", where=origin, do=SCHEMA)
    if not isinstance(data["metrics"], list) or not all(isinstance(name, str) for name in data["metrics"]):
        raise AssayError("`metrics` must be a list of names", where=origin, do=SCHEMA)
    for key in TEXTS:
        if not isinstance(data.get(key, ""), str) and not (key in NULLS and data[key] is None):
            raise AssayError(f"{key!r} must be a string", where=origin, do=SCHEMA)
    if regex := data.get("output_regex"):
        check_regex(regex, f"{origin}: output_regex")


@functools.lru_cache(maxsize=512)
def read_task_file(path: Path, origin: str, modified: int) -> TaskFile:
    """Read a task.json. Raises AssayError for a missing field or an unknown metric."""
    data = read_json(path)
    check_fields(data, origin)
    rows = distinct(data, origin)
    metrics, preferred = tuple(data["metrics"]), str(data["preferred_score"])
    known = {*RANGES, "rouge", "bleurt"}
    unknown = [name for name in (*metrics, preferred) if name not in known]
    if unknown or preferred == "rouge":
        raise AssayError(
            f"metric {(unknown or [preferred])[0]!r} is not one of BIG-bench's", where=origin, do=f"use {', '.join(sorted(RANGES))}"
        )
    scores = [tuple(row["target_scores"].values()) for row in rows if "target_scores" in row]
    if any(name in CHOICE_METRICS for name in metrics) and len(scores) < len(rows):
        raise AssayError("multiple-choice metrics need `target_scores` in every example", where=origin, do=SCHEMA)
    stop, regex = data.get("stop_string"), data.get("output_regex")
    return TaskFile(
        path,
        origin,
        " ".join(str(data["description"]).split()),
        Wording(
            data.get("example_input_prefix", "\nQ: "),
            data.get("example_output_prefix", "\nA: "),
            data.get("choice_prefix", "\n  choice: "),
            bool(data.get("append_choices_to_input", True)),
        ),
        Layout(instructions=str(data.get("task_prefix", "")), separator=data.get("few_shot_example_separator", "\n"), joint=""),
        Extract(stop or "", DEFAULT_REGEX if stop is None and regex is None else regex or ""),
        metrics,
        preferred,
        float(sum(sum(values) / len(values) for values in scores) / len(scores)) if len(scores) == len(rows) else float("nan"),
        tuple(sorted({choice for row in rows for choice in row.get("target_scores", {})})) if "macro_f1" in metrics else (),
        any(isinstance(row.get("target"), list) and len(row["target"]) > 1 for row in rows),
    )


@functools.lru_cache(maxsize=64)
def permutation(count: int) -> tuple[int, ...]:
    """The order in which `count` choices are listed. The reference creates RandomState(42) for every example."""
    return tuple(int(index) for index in np.random.RandomState(SEED).permutation(count))


def prompt_of(row: Row, wording: Wording) -> str:
    """The prompt of an example: input, its choices if listed, and the prefix of the output."""
    text: str = row["input"]
    if "target_scores" in row and wording.append_choices:
        listed = sorted(row["target_scores"])
        text += "".join(wording.before_choice + listed[index] for index in permutation(len(listed)))
    return wording.before_input + text + wording.before_output


def targets_of(row: Row) -> tuple[str, ...]:
    """The correct texts, also shown in few-shot examples: `target`, else the first choice with the highest score."""
    if "target" in row:
        target = row["target"]
        return tuple(map(str, target)) if isinstance(target, list) else (str(target),)
    scores = row["target_scores"]
    top = max(scores.values())
    if top <= min(scores.values()) and (len(scores) > 1 or top == 0):
        raise AssayError("no choice is better than the others", do="give the correct choice a higher target score")
    return (next(choice for choice, score in scores.items() if score == top),)


@dataclass(frozen=True, slots=True)
class Reader:
    """Converts an example to a Doc: choices with target scores, targets to generate, or targets to score by likelihood."""

    wording: Wording
    kind: Kind

    def __call__(self, row: Row) -> Doc:
        targets = targets_of(row)
        prompt = prompt_of(row, self.wording)
        if self.kind == "choose":
            scores = row["target_scores"]
            return Doc(prompt, choices=tuple(scores), targets=tuple(map(float, scores.values())), references=targets)
        if self.kind == "likelihood":
            choices = targets if len(targets) > 1 else targets * 2  # Choose needs two choices
            return Doc(prompt, choices=choices, targets=(1.0,) * len(choices), references=targets)
        return Doc(prompt, references=targets)


def kind_of(metric: str) -> Kind:
    if metric == "log_likelihood":
        return "likelihood"
    mc = (*CHOICE_METRICS, "calibration_multiple_choice_brier_score", "expected_calibration_error")
    return "choose" if metric in mc else "generate"


def metrics_of(file: TaskFile, kind: Kind) -> tuple[Metric[Any], ...]:
    """All metrics of one kind in the task file. The preferred one comes first, then its normalised score."""
    names = tuple(name for name in file.metrics if kind_of(name) == kind)
    if kind == "choose":
        found = choice_metrics(names, file.classes)
    elif kind == "generate":
        found = generative_metrics(names, file.extract)
    else:
        found = likelihood_metrics(file.several) if names else {}
    if file.preferred not in found:
        return tuple(found.values())
    low, high = RANGES[file.preferred]
    if file.preferred == "multiple_choice_grade":
        low = file.chance
    main = found.pop(file.preferred)
    return (main, normalized(main, low, high), *found.values())


def tasks_of(file: TaskFile, name: str, worked: tuple[Worked, ...] = ()) -> dict[Kind, Task]:
    """One task per kind of metric. The preferred metric's task comes first and has the name without a suffix.

    Raises AssayError if the preferred metric is BLEURT, which needs another model.
    """
    if file.preferred == "bleurt":
        raise AssayError("the preferred metric is BLEURT, which needs another model", where=file.origin, do="use another task")
    main = kind_of(file.preferred)
    asks: dict[Kind, Choose | Generate] = {"choose": Choose(ties="first"), "generate": Generate(MAX_TOKENS), "likelihood": Choose()}
    made: dict[Kind, Task] = {}
    for kind in sorted(asks, key=lambda kind: kind != main):
        metrics = metrics_of(file, kind)
        if metrics:
            made[kind] = Task(
                name=name if kind == main else f"{name}/{kind}",
                rows=Examples(file.path, file.origin),
                doc=Reader(file.wording, kind),
                ask=asks[kind],
                metrics=metrics,
                split="test",
                shots=Shots(0, split="test", order="per_item"),
                layout=replace(file.layout, trim=kind == "generate"),
                protocol="bigbench",
                worked=worked if kind == main else (),
                about=file.about,
                licence=LICENCE,
                citation=CITATION,
            )
    if main not in made:
        raise AssayError(f"preferred_score {file.preferred!r} is not among its metrics", where=file.origin, do=SCHEMA)
    return made


def task_files_in(folder: Path, origin: str) -> dict[str, TaskFile]:
    """The task files of a task folder by subtask name, in order; the name is "" for a task without subtasks."""
    main = folder / "task.json"
    if "examples" in read_json(main):
        return {"": read_task_file(main, f"{origin}/task.json", main.stat().st_mtime_ns)}
    below = sorted(path for path in folder.glob("*/task.json"))
    if not below:
        raise AssayError("neither `examples` nor subtask folders", where=f"{origin}/task.json", do=SCHEMA)
    return {path.parent.name: read_task_file(path, f"{origin}/{path.parent.name}/task.json", path.stat().st_mtime_ns) for path in below}
