"""Benchmarks, one file per family: where the rows come from and how a row becomes a Doc."""
