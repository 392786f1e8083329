"""Replies to statistics to results, and the same again from stored answers."""
