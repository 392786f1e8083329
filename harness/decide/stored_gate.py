"""The gate on stored runs: reads both, counts earlier attempts and the models the baseline was chosen from, and records the gate."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assay.harness.decide.compare import Comparison, Side, compare, side_of
from assay.harness.decide.decision import Decision, gate
from assay.harness.decide.policy import Policy, check_verified
from assay.harness.decide.shared_items import Key
from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.files.safe_open import read_regular
from assay.harness.stats.difference import unit_of
from assay.harness.store import RunInfo, find_run, list_runs, read_run

GATES, BASELINES = "gates.jsonl", "baselines.json"
MOST = 1 << 28
"""Maximum size of either file in bytes: some 200,000 gates."""
TORN = b" torn"


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate: its comparison, decision and policy."""

    comparison: Comparison
    decision: Decision
    policy: Policy

    @property
    def exit_code(self) -> int:
        return self.decision.exit_code(self.policy)


def gate_stored(root: Path, candidate: str, baseline: str, policy: Policy, access: Access, *, series: int | None = None) -> Gate:
    """Gates one stored run against another and appends the decision to `gates.jsonl` in the store. `series`: so many models of the line
    are gated in all, 0 if until one passes.

    A run is an id, a unique prefix, a model name, a bundle directory, or (the baseline) a name given by `assay baseline`.
    Raises NotComparable, Incomplete, AssayError.
    """
    runs = [read_run(find_baseline(root, baseline)), read_run(find_run(root, candidate))]
    base, new = (side_of(run, access) for run in runs)
    check_verified(policy, [base.digest, new.digest])
    policy = policy.with_full_names([*base.tasks, *new.tasks, *(total.name for total in base.totals)])
    tasks = policy.tasks and kept_tasks(policy, base, new)
    candidates = policy.candidates or candidates_of(root, base, new, tasks or tuple(base.tasks), series)
    comparison = compare(base, new, tasks=tasks, alpha=policy.alpha, candidates=candidates)
    main = [(row.task, row.metric) for row in comparison.main]
    tried = policy.tried or best_of(root, base, new.digest, main_metrics(base, main))
    earlier = gates(root, pair_key(new.digest, base, [task for task, _ in main]))
    found = Gate(comparison, gate(comparison, policy, tried=tried, attempt=len(earlier) + 1), policy)
    append_gate(root, entry_of(found))
    return found


def kept_tasks(policy: Policy, base: Side, new: Side) -> tuple[str, ...]:
    """The common tasks that the policy names as required or advisory; a total's name stands for its tasks."""
    wanted = {*policy.tasks, *policy.advisory}
    for total in base.totals:
        if total.name in wanted:
            wanted.update(term.task for term in total.terms)
    return tuple(name for name in base.tasks if name in wanted and name in new.tasks)


def pair_key(candidate: str, base: Side, tasks: Iterable[str]) -> str:
    """A hash of what is gated: both models' weights and the exact items."""
    prints = sorted((name, str(base.tasks[name]["fingerprint"])) for name in tasks)
    return hashlib.sha256(json.dumps([candidate, base.digest, prints]).encode()).hexdigest()[:16]


def gates(root: Path, key: str = "") -> tuple[Mapping[str, Any], ...]:
    """All recorded gates (of one pair, if `key` is given), oldest first. Skips lines cut short by a kill."""
    path = Path(root) / GATES
    found = []
    for number, line in enumerate(contents(path).split(b"\n")[:-1], 1):
        if line.endswith(TORN):
            continue
        try:
            entry = parsed(line)
            whole = is_entry(entry)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise AssayError("is not a recorded gate", where=f"{path}, line {number}", do="restore the file from a copy")
        if not key or entry["key"] == key:
            found.append(entry)
    return tuple(found)


def contents(path: Path) -> bytes:
    """A file of the store, empty if there is none. Raises AssayError if it cannot be read."""
    try:
        return read_regular(path, MOST)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror or error}", where=str(path), do="make it a readable plain file") from None


def parsed(data: bytes) -> Any:
    """JSON whose texts can be encoded as UTF-8. Raises ValueError or RecursionError."""
    value = json.loads(data.decode())
    json.dumps(value, ensure_ascii=False).encode()
    return value


def is_entry(value: Any) -> bool:
    """Whether this has the fields that readers need."""
    if not isinstance(value, dict) or type(value.get("attempt")) is not int:
        return False
    sides = [value.get("candidate"), value.get("baseline")]
    texts = [value.get(name) for name in ("key", "at", "verdict")]
    texts += [side.get(name) for side in sides if isinstance(side, dict) for name in ("run", "model", "digest")]
    return len(texts) == 9 and all(isinstance(each, str) for each in texts)


def entry_of(found: Gate) -> dict[str, Any]:
    """The line in gates.jsonl for this gate."""
    decision, comparison = found.decision, found.comparison
    new, base = comparison.candidate, comparison.baseline
    return {
        "key": pair_key(new.digest, base, [row.task for row in comparison.main]),
        "at": now(),
        "candidate": {"run": new.run, "model": new.model, "digest": new.digest},
        "baseline": {"run": base.run, "model": base.model, "digest": base.digest},
        "verdict": decision.verdict,
        "attempt": decision.attempt,
        "tried": decision.tried,
        "candidates": decision.candidates,
        "delta": decision.delta,
        "low": decision.low,
        "high": decision.high,
        "floor": decision.floor,
        "lost": [each.row.task for each in decision.tasks if not each.held and each.p_holm <= decision.alpha / 2],
        "evidence": comparison.evidence,
        "policy": found.policy.model_dump(mode="json"),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def append_gate(root: Path, entry: Mapping[str, Any]) -> None:
    """Appends one line and syncs it; marks a previous line that a kill cut short."""
    path = Path(root) / GATES
    line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, (TORN + b"\n" if torn else b"") + line)
        os.fsync(fd)
    finally:
        os.close(fd)


MainMetrics = Mapping[str, tuple[float, float, str]]
"""Unit, sign and name of the main metric by task."""


def main_metrics(base: Side, chosen: Iterable[Key]) -> MainMetrics:
    found = {}
    for task, name in chosen:
        metric = base.metrics[task, name]
        found[task] = (unit_of(metric), -1.0 if metric.better == "lower" else 1.0, name)
    return found


def best_of(root: Path, base: Side, candidate: str, main: MainMetrics) -> int:
    """The number of models (the baseline included) scored on the same items, if the baseline is the best of them; else 1.

    The best of several runs has an inflated score on their items, and the gate corrects for it. The `candidate` (a digest) does
    not count, nor do models scored after the baseline was first named or gated against: it was not chosen from those.
    """
    prints = {name: base.tasks[name]["fingerprint"] for name in main}
    own = mean_score(read_results(find_run(root, base.run)), main) if (Path(root) / "runs").is_dir() else None
    since = baseline_since(root, base)
    others: dict[str, float] = {}
    for info in list_runs(root):
        if info.status != "complete" or info.model_digest in (base.digest, candidate) or (since and info.created_at > since):
            continue
        if has_items(info, prints):
            score = mean_score(read_results(info.path), main)
            others[info.model_digest] = max(score, others.get(info.model_digest, score))
    return 1 if own is None or any(score > own for score in others.values()) else 1 + len(others)


def candidates_of(root: Path, base: Side, candidate: Side, tasks: Sequence[str], series: int | None = None) -> int:
    """The divisor of alpha for a pass: how many models the candidate was chosen from, on these items.

    Counted are the models of its line (as many parameters, the same tokenizer) that were scored on these items since the baseline was
    named, or scored if it has no name, or since another model passed against it: the best of K passes at alpha / K. If the candidate is
    the k-th model gated meanwhile, k * (k + 1) where that is more: the sum of 1 / (k * (k + 1)) is 1, so gating one model after another
    until one passes errs at most at alpha. The first (k = 1) is divided only in a `series` without an end; one of n models divides by n.
    """
    if candidate.digest == base.digest:
        return 1
    runs = {info.id: info for info in list_runs(root)} if (Path(root) / "runs").is_dir() else {}
    named = [entry["at"] for entry in read_baselines(root).values() if entry["run"] == base.run and entry["at"]]
    against = [entry for entry in gates(root) if entry["baseline"]["digest"] == base.digest]
    others = [entry for entry in against if entry["candidate"]["digest"] not in (candidate.digest, base.digest)]
    passed = [str(entry["at"]) for entry in others if entry["verdict"] == "pass"]
    since = max([min(named, default=runs[base.run].created_at if base.run in runs else ""), *passed])
    order = len({entry["candidate"]["digest"] for entry in others if str(entry["at"]) > since}) + 1
    prints = {name: base.tasks[name]["fingerprint"] for name in tasks if name in base.tasks}
    line = line_of(runs[candidate.run]) if candidate.run in runs else None
    scored = {
        info.model_digest
        for info in runs.values()
        if info.status == "complete" and info.created_at > since and line_of(info) == line and has_items(info, prints)
    }
    count = len(scored - {candidate.digest, base.digest}) + 1
    if series and order <= series:
        return max(count, series)
    return max(count, order * (order + 1) if order > 1 or series is not None else 1)


def line_of(info: RunInfo) -> tuple[Any, Any]:
    """What the checkpoints of one training have in common: the number of parameters and the tokenizer."""
    model = read_run(info.path).manifest["model"]
    return model.get("parameters"), model.get("tokenizer")


def has_items(info: RunInfo, prints: Mapping[str, Any]) -> bool:
    """Whether a run has scored the same items."""
    tasks = {task["name"]: task["fingerprint"] for task in read_run(info.path).manifest["tasks"]}
    return all(tasks.get(name) == value for name, value in prints.items())


def baseline_since(root: Path, base: Side) -> str:
    """When these weights were first used as a baseline, as ISO time (UTC, microseconds); empty if never."""
    named = [str(entry["at"]) for entry in read_baselines(root).values() if entry["run"] == base.run and entry["at"]]
    gated = [str(entry["at"]) for entry in gates(root) if entry["baseline"]["digest"] == base.digest]
    return min(named + gated, default="")


def read_results(bundle: Path) -> Sequence[Mapping[str, Any]]:
    results: Sequence[Mapping[str, Any]] = read_run(bundle).summary()["results"]
    return results


def mean_score(results: Sequence[Mapping[str, Any]], main: MainMetrics) -> float:
    """The mean of the main metrics, each divided by its unit; higher is better."""
    values = {(result["task"], result["metric"]): float(result["value"]) for result in results if result["value"] is not None}
    found = [sign * values[task, metric] / unit for task, (unit, sign, metric) in main.items() if (task, metric) in values]
    return sum(found) / len(found) if found else 0.0


def read_baselines(root: Path) -> dict[str, dict[str, str]]:
    """Named baselines: run id and time of naming, by name."""
    path = Path(root) / BASELINES
    try:
        found = parsed(contents(path) or b"{}")
        return {str(name): {"run": str(entry["run"]), "at": str(entry["at"])} for name, entry in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AssayError("not a valid list of baselines", where=str(path), do="restore the file from a copy") from None


def baselines(root: Path) -> dict[str, str]:
    """Named baselines: run ids by name."""
    return {name: entry["run"] for name, entry in read_baselines(root).items()}


def set_baseline(root: Path, name: str, run: str) -> str:
    """Names a complete run as a baseline and returns its id."""
    if not name or "/" in name:
        raise AssayError(f"{name!r} is not a valid name for a baseline", do="use letters, digits and dashes")
    chosen = read_run(find_run(root, run))
    if chosen.status != "complete":
        raise AssayError("the run is not complete and cannot be a baseline", where=chosen.id, do=f"assay resume {chosen.id}")
    path = Path(root) / BASELINES
    part = path.with_name(f".{BASELINES}.{os.getpid()}.part")
    part.write_text(
        json.dumps({**read_baselines(root), name: {"run": chosen.id, "at": now()}}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    part.replace(path)
    return chosen.id


def find_baseline(root: Path, text: str) -> Path:
    """The bundle of a named baseline, or of any run that the text selects."""
    return find_run(root, baselines(root).get(text, text))
