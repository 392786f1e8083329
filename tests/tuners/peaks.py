"""Peak memory of each method of a study on its own first trial, one after the other: `python -m tests.tuners.peaks PRESET DIR MODEL`.

DIR holds the study's `base.json`, so that nothing is scored. Prints a table.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.harness.files.places import surroundings
from assay.harness.model.find import find_model
from assay.tuners.study.design import options_of
from assay.tuners.study.prepare import prepare_study
from assay.tuners.study.presets import find_preset
from assay.tuners.study.trial import Trial, plan_trial, prepare_model
from assay.tuners.training.mitigation import Mitigation
from assay.tuners.training.train import train


def no_scorer(*rest: Any, **options: Any) -> Any:
    raise AssertionError("nothing is scored")


def main(preset: str, folder: str, name: str) -> None:
    study, place = find_preset(preset), surroundings()
    model = find_model(name, cache=place.cache, offline=place.offline)
    setup = prepare_study(study, model, place.access(), no_scorer, Path(folder))
    print("| method | peak, GB | trained parameters |\n|---|---|---|")
    for method in study.methods:
        trial = Trial(study.targets[0], method, 1e-5, 0, loss_tokens=study.loss_tokens, options=options_of(study, method))
        steps = plan_trial(setup, trial, Mitigation())
        trainable = prepare_model(setup, trial, Mitigation(), steps)
        done = train(trainable, steps, replace(setup.recipe, lr=trial.lr))
        print(f"| {method} | {done.peak_memory / 1e9:.2f} | {trainable.count:,} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
