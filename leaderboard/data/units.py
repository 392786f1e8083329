"""What 100 points of a metric are worth."""

from __future__ import annotations

PERCENT = ("bleu", "chrf", "sequence_f1", "normalized", "total")
OPEN = ("log_likelihood", "weighted_log_probabilities", "perplexity", "bits_per_byte", "ter")


def unit_of(metric: str, better: str, stored: float | None = None) -> float | None:
    """The best score that there is: as the result says (0: none), else, for results that say nothing, by the metric's name."""
    if stored is not None and stored == stored:
        return stored or None
    if better == "lower" or metric.startswith(OPEN):
        return None
    return 100.0 if metric.startswith(PERCENT) else 1.0
