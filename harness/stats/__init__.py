"""Confidence intervals, paired tests and the release gate's rule, from stored per-item statistics."""
