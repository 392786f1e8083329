"""Running a study: its trials in order, each a tuned model or the untuned base, resumable anywhere from the rows alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

from assay import Access, ModelRef
from assay.tuners.study.bench import open_bench
from assay.tuners.study.design import Study, agenda, choose_rates, identity, planned, trial_key
from assay.tuners.study.rows import collect
from assay.tuners.study.run_trial import run_trial, uninterpolated
from assay.tuners.study.scoring import Scorer, difference, drops_row
from assay.tuners.study.trial import Bench, Row, Trial
from assay.tuners.study.workers import Happening, Work, work_through, write_study
from assay.tuners.training.train import Progress


def run_study(
    study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path, report: Callable[[Happening], None] = lambda happening: None
) -> list[Row]:
    """Run what is not done yet; gives all rows, collected.

    A folder that holds only `trials.parquet`, `study.json` and `base.json` (as they are published) counts its rows as done. Several
    processes may work in one folder side by side.
    """
    write_study(root, identity(study, model.digest))
    bench = open_bench(study, model, access, scorer, root)
    work = Work(study.name, planned(study), partial(agenda, study), partial(do_trial, bench), gather)
    return work_through(work, root, report)


def gather(rows: list[Row]) -> list[Row]:
    """The rows with what follows from all of them: above all the chosen rates."""
    return collect(rows, choose_rates(rows))


def do_trial(bench: Bench, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    """What a trial found: of a tuned model, or of the untuned base."""
    plain = folder.with_name(trial_key(uninterpolated(trial)))
    return run_trial(bench, trial, folder, report, plain) if trial.lr else untuned(bench, trial)


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
