"""Decisions about runs: comparison, release gate, early stopping, history, curves."""
