"""Finds, reads and checks checkpoints and adapters, computes their digests, and provides the built-in model."""
