"""The commands `assay tune`, `assay study` and `assay forget`, imported only when one of them is run."""

from assay.tuners.commands.forget import forget
from assay.tuners.commands.study import study
from assay.tuners.commands.tune import tune

__all__ = ["forget", "study", "tune"]
