"""Compares runs and decides on releases: comparison, gate, early stopping, history, curves."""
