"""Evaluates models on tasks and stores the results. It contains no benchmark.

The data flow: Plan -> Docs -> Requests -> Engine -> Replies -> statistics per item -> run bundle -> DuckDB index.
README.md has the rooms in that order; the public names are those of `assay`.
"""
