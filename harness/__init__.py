"""Turns a plan into scored, stored facts; knows no benchmark by name.

The data flow: Plan -> Docs -> Requests -> Engine -> Replies -> statistics per item -> run bundle -> DuckDB index.
README.md has the rooms in that order; the public names are those of `assay`.
"""
