"""Turns a plan into scored, stored facts; knows no benchmark by name.

The way of the data: Plan -> Docs -> Requests -> Engine -> Replies -> statistics per item -> run bundle -> DuckDB index.
"""

from harness.doc import Doc
from harness.errors import AssayError, Missing
from harness.hub import hub
from harness.metric import Metric, Pooled, mean
from harness.metrics.choice import accuracy
from harness.metrics.text import exact_match
from harness.model import ModelRef
from harness.output import Chosen, Estimate, Said, Surprise
from harness.plan import Plan
from harness.run import evaluate
from harness.source import Access, csv, inline, jsonl, made, parquet
from harness.store import Run, read_run
from harness.task import Choose, Family, Generate, Layout, Perplexity, Regress, Shots, Task, Term, Total, Worked

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AssayError",
    "Choose",
    "Chosen",
    "Doc",
    "Estimate",
    "Family",
    "Generate",
    "Layout",
    "Metric",
    "Missing",
    "ModelRef",
    "Perplexity",
    "Plan",
    "Pooled",
    "Regress",
    "Run",
    "Said",
    "Shots",
    "Surprise",
    "Task",
    "Term",
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
