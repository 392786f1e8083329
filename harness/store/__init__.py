"""Store runs. The bundles (one folder per run) hold all results; the DuckDB index is derived from them."""

from __future__ import annotations

from assay.harness.store.bundle import create_bundle
from assay.harness.store.checking import Problem, check
from assay.harness.store.indexing import IndexReport, index
from assay.harness.store.queries import connect, query
from assay.harness.store.read import Run, RunInfo, find_run, list_runs, read_run, stats_of
from assay.harness.store.tables import StatTable
from assay.harness.store.writer import Writer, open_writer

__all__ = [
    "IndexReport",
    "Problem",
    "Run",
    "RunInfo",
    "StatTable",
    "Writer",
    "check",
    "connect",
    "create_bundle",
    "find_run",
    "index",
    "list_runs",
    "open_writer",
    "query",
    "read_run",
    "stats_of",
]
