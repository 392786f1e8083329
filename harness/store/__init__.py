"""Run bundles are the truth; the DuckDB file is an index over them."""
