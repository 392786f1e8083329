"""Runs a study: its trials in order, each a tuned model or the untuned base, resumable from the stored rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

from assay import Access, ModelRef
from assay.tuners.study.design import Study, choose_rates, count_trials, identity, ordered_trials, together, trial_key
from assay.tuners.study.prepare import prepare_study
from assay.tuners.study.rows import add_derived_columns
from assay.tuners.study.run_trial import run_trial, uninterpolated
from assay.tuners.study.scoring import Scorer, difference, drops_row
from assay.tuners.study.trial import Row, StudySetup, Trial
from assay.tuners.study.workers import TrialEvent, Workload, run_trials, write_study
from assay.tuners.training.train import Progress


def run_study(
    study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path, report: Callable[[TrialEvent], None] = lambda event: None
) -> list[Row]:
    """Run all unfinished trials; returns the rows of all trials of the study, with derived columns.

    A folder may hold several studies that differ only in which trials they have (`together`), so a study can grow, or be run in parts.
    In a folder with only `trials.parquet`, `study.json` and `base.json`, as studies are published, the stored rows count as finished.
    Several processes may share one folder.
    """
    write_study(root, identity(study, model.digest), together)
    setup = prepare_study(study, model, access, scorer, root)
    work = Workload(study.name, count_trials(study), partial(ordered_trials, study), partial(measure, setup), gather)
    return run_trials(work, root, report)


def gather(rows: list[Row]) -> list[Row]:
    """The rows with the columns that depend on all of them."""
    return add_derived_columns(rows, choose_rates(rows))


def measure(setup: StudySetup, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    """The row of a trial, of a tuned model or of the untuned base."""
    plain = folder.with_name(trial_key(uninterpolated(trial)))
    return run_trial(setup, trial, folder, report, plain) if trial.lr else untuned(setup, trial)


def untuned(setup: StudySetup, trial: Trial) -> Row:
    """The row of the base, without or with few-shot examples, which the trial's seed draws."""
    task, shots = setup.tasks[trial.target].full_name, int(dict(trial.options)["shots"])
    before = setup.before[task]
    length = mean(len(example.ids) for example in setup.validation[trial.target])
    prompt = mean(example.loss_from for example in setup.validation[trial.target])
    after = setup.scorer(setup.base, None, (trial.target,), shots=shots, seed=trial.seed)[task] if shots else before
    gain = difference(before, after, setup.metric(before))
    return {
        "family": "in_context" if shots else "none", "lr": None, "status": "done", "metric": before.metric, "target_base": before.value,
        "target_score": after.value, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "average_drop": 0.0, "kl_base": 0.0,
        "kl_target": 0.0, "kl_text": 0.0, "delta_bits_per_byte": 0.0, "trainable_parameters": 0, "saved_bytes": 0, "shots": shots,
        "context_tokens": prompt + shots * length, "run_id": after.run, "route": "base", "items": len(before.clusters),
        **({"item_scores": dict(after.items)} if shots else base_retention(setup) | overlap_row(setup, trial.target)),
    }  # fmt: skip


def overlap_row(setup: StudySetup, *targets: str) -> Row:
    """Number and labels of the training rows that are excluded because they are scored or choose the learning rate."""
    excluded = [name for target in targets for name in setup.excluded.get(target, ())]
    return {"overlap_dropped": len(excluded), "overlap_items": excluded}


def base_retention(setup: StudySetup) -> Row:
    """The base's scores on the retention tasks, and those of them that are too near chance to measure a drop."""
    names = [setup.tasks[name].full_name for name in setup.retain]
    kept = {name: setup.before[name] for name in names}
    near = drops_row(setup.before, kept, setup.metric)["not_measurable"]
    row: Row = {"retention_scores": {name: score.value for name, score in kept.items()}, "not_measurable": near}
    return row | {"retain_run_id": kept[names[0]].run} if names else row
