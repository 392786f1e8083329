"""Running a study: trial by trial, every row kept as soon as it is there, resumable anywhere from the rows alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from harness import Access, AssayError, ModelRef
from harness.pipeline import release, take
from tuners.bench import open_bench
from tuners.design import Study, agenda, choose_rates, identity, planned, trial_key
from tuners.rows import FILE, collect, read_rows, write_rows
from tuners.run_trial import run_trial, uninterpolated
from tuners.scoring import Scorer, difference, drops_row
from tuners.state import write_whole
from tuners.train import Progress
from tuners.trial import Bench, Row, Trial, finite

LOOK_AGAIN = 2.0
"""Seconds between looks at trials that other processes are at."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A trial that begins, for a progress bar."""

    number: int
    planned: int
    trial: Trial
    progress: Progress | None = None


def run_study(
    study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path, report: Callable[[Happening], None] = lambda happening: None
) -> list[Row]:
    """Run what is not done yet; gives all rows, collected.

    Each trial is a folder with its row, written when it is done; then `trials.parquet` is written anew. A folder that holds only that
    file, `study.json` and `base.json` (as they are published) counts its rows as done. Several processes may work in one folder side
    by side: each takes the trials that no other has, and ends when all are done.
    """
    write_study(root, identity(study, model.digest))
    earlier = {row["trial"]: row for row in read_rows(root / FILE)} if (root / FILE).is_file() else {}
    bench = open_bench(study, model, access, scorer, root)
    while True:
        rows, taken = walk(study, bench, earlier, root, report)
        if not taken:
            break
        time.sleep(LOOK_AGAIN)
    found = collect(rows, choose_rates(rows))
    write_rows(found, root / FILE)
    return found


def walk(
    study: Study, bench: Bench, earlier: Mapping[str, Row], root: Path, report: Callable[[Happening], None]
) -> tuple[list[Row], list[str]]:
    """Once through the agenda, doing every trial that no other worker has. Gives the rows, and the trials that others were at."""
    rows: list[Row] = []
    taken: list[str] = []
    for number, trial in enumerate(agenda(study, rows), 1):
        key = trial_key(trial)
        done = find_row(root, key, earlier)
        if done is None:
            with claimed(root / "trials" / key) as mine:
                done = find_row(root, key, earlier)  # another worker may have done it just now
                if done is None and mine:
                    happening = Happening(number, planned(study), trial)
                    report(happening)
                    done = run_and_keep(study, bench, trial, root, partial(relay, report, happening))
                    late = filter(None, (find_row(root, other, earlier) for other in taken))
                    whole = [*rows, done, *late]
                    write_rows(collect(whole, choose_rates(whole)), root / FILE)
        if done is None:
            taken.append(key)
        else:
            rows.append(done)
    return rows, taken


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the trial of this folder for itself; what a dead process had is free again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = not take(folder / "lock")
    except OSError as error:
        raise AssayError(f"cannot be written: {error}", where=str(folder), do="make room, or choose another --out") from None
    try:
        yield mine
    finally:
        if mine:
            release(folder / "lock")


def refuse_launcher() -> None:
    """Raises AssayError in one of several processes that a launcher started as one: they would wait for each other's trials."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started not in ("", "1"):
        raise AssayError(
            f"a study runs in plain processes, not as one of {started} (WORLD_SIZE)",
            do="start the same `assay study` several times side by side; to train one model over several processes, "
            "call tuners.train.train from Python under the launcher",
        )


def write_study(root: Path, facts: Mapping[str, Any]) -> None:
    """Pin what the folder is a study of. Raises AssayError where it holds another."""
    refuse_launcher()
    path, text = root / "study.json", json.dumps(facts, indent=1, sort_keys=True)
    if path.is_file() and json.loads(path.read_text()) != json.loads(text):
        held = json.loads(path.read_text())
        differ = sorted(name for name in held.keys() | facts.keys() if held.get(name) != json.loads(text).get(name))
        raise AssayError(f"holds another study: {', '.join(differ)} differ", where=str(root), do="choose another --out, or remove it")
    write_whole(path, text.encode(), "nothing was started")


def find_row(root: Path, key: str, earlier: Mapping[str, Row]) -> Row | None:
    """The row of a finished trial: from its folder, else from the published rows."""
    path = root / "trials" / key / "row.json"
    if path.is_file():
        row: Row = json.loads(path.read_text())
        return row
    return dict(earlier[key]) if key in earlier else None


def run_and_keep(study: Study, bench: Bench, trial: Trial, root: Path, report: Callable[[Progress], None]) -> Row:
    folder = root / "trials" / trial_key(trial)
    facts = {name: value for name, value in asdict(trial).items() if name != "loss_tokens"}
    plain = folder.with_name(trial_key(uninterpolated(trial)))
    row = run_trial(bench, trial, folder, report, plain) if trial.lr else untuned(bench, trial)
    whole = finite({"study": study.name, "trial": folder.name, **facts, "options": dict(trial.options), **row})
    write_whole(folder / "row.json", json.dumps(whole, indent=1).encode(), "the study goes on with this trial")
    return whole


def relay(report: Callable[[Happening], None], happening: Happening, progress: Progress) -> None:
    report(replace(happening, progress=progress))


def untuned(bench: Bench, trial: Trial) -> Row:
    """The base as it is, or with k examples in its prompt, which the trial's seed draws."""
    task, shots = bench.tasks[trial.target].full_name, int(dict(trial.options)["shots"])
    before = bench.before[task]
    length = mean(len(example.ids) for example in bench.validation[trial.target])
    prompt = mean(example.loss_from for example in bench.validation[trial.target])
    after = bench.scorer(bench.base, None, (trial.target,), shots=shots, seed=trial.seed)[task] if shots else before
    gain = difference(before, after, bench.metric(before))
    return {
        "family": "in_context" if shots else "none", "lr": None, "status": "done", "metric": before.metric, "target_base": before.value,
        "target_score": after.value, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "average_drop": 0.0, "kl_base": 0.0,
        "kl_target": 0.0, "kl_text": 0.0, "delta_bits_per_byte": 0.0, "trainable_parameters": 0, "saved_bytes": 0, "shots": shots,
        "context_tokens": prompt + shots * length, "run_id": after.run, "route": "base", "items": len(before.clusters),
        **({} if shots else kept_by_the_base(bench) | left_out(bench, trial.target)),
    }  # fmt: skip


def left_out(bench: Bench, *targets: str) -> Row:
    """The training rows that are not trained on, because they are scored or choose the rate: how many, and which."""
    dropped = [name for target in targets for name in bench.dropped.get(target, ())]
    return {"overlap_dropped": len(dropped), "overlap_items": dropped}


def kept_by_the_base(bench: Bench) -> Row:
    """What the base scores on the retention tasks, and on which of them it is too near chance to lose anything."""
    names = [bench.tasks[name].full_name for name in bench.retain]
    kept = {name: bench.before[name] for name in names}
    near = drops_row(bench.before, kept, bench.metric)["not_measurable"]
    row: Row = {"retention_scores": {name: score.value for name, score in kept.items()}, "not_measurable": near}
    return row | {"retain_run_id": kept[names[0]].run} if names else row
