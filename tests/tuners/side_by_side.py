"""One of several workers on a study: `python -m tests.tuners.side_by_side MODEL DIR [TRIAL]`, dying by SIGKILL in its TRIALth trial."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from assay import ModelRef
from assay.tuners.study.study import run_study
from assay.tuners.study.workers import TrialEvent
from tests.tuners.test_study import ACCESS, Counter, small

if __name__ == "__main__":
    model, folder, dies_in = Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv, "0")[3])
    begun: list[str] = []

    def report(now: TrialEvent) -> None:
        if now.progress is None:
            begun.append(now.trial.method)
            print(now.trial, flush=True)
        elif len(begun) == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)

    run_study(small(rate_seeds=(7,)), ModelRef("toy", model, "digest", positions=128), ACCESS, Counter(), folder, report)
