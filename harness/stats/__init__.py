"""Intervals, paired tests and the release gate, on stored per-item statistics."""
