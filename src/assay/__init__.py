"""Evaluate language models: define a task, score a model, compare two runs.

This is the public interface for users and for authors of tasks. Ready metrics are in `assay.harness.metrics`.
"""

from assay.harness.errors import AssayError, Missing
from assay.harness.files.download import Published
from assay.harness.files.places import Access
from assay.harness.metrics.choice import accuracy
from assay.harness.metrics.text import exact_match
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import evaluate
from assay.harness.store import Run, read_run
from assay.harness.store.plan import Plan
from assay.harness.task.doc import Doc
from assay.harness.task.hub import Original, hub
from assay.harness.task.metric import Metric, Pooled, mean
from assay.harness.task.output import ChoiceScores, Completion, ExpectedValue, Loglikelihoods, TextLogprob
from assay.harness.task.source import csv, inline, jsonl, made, parquet
from assay.harness.task.task import (
    Choose,
    Family,
    Generate,
    Layout,
    Loglikelihood,
    Perplexity,
    Regress,
    Scenario,
    Shots,
    Task,
    Term,
    Total,
    Worked,
)

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AssayError",
    "ChoiceScores",
    "Choose",
    "Completion",
    "Doc",
    "ExpectedValue",
    "Family",
    "Generate",
    "Layout",
    "Loglikelihood",
    "Loglikelihoods",
    "Metric",
    "Missing",
    "ModelRef",
    "Original",
    "Perplexity",
    "Plan",
    "Pooled",
    "Published",
    "Regress",
    "Run",
    "Scenario",
    "Shots",
    "Task",
    "Term",
    "TextLogprob",
    "Total",
    "Worked",
    "accuracy",
    "csv",
    "evaluate",
    "exact_match",
    "hub",
    "inline",
    "jsonl",
    "made",
    "mean",
    "parquet",
    "read_run",
]
