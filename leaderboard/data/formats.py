"""Formats scores, counts, sizes and durations for display."""

from __future__ import annotations

PERCENT_METRICS = ("bleu", "chrf", "sequence_f1", "normalized", "total")
CORRELATIONS = ("mcc", "matthews", "pearson", "spearman")
UNBOUNDED_METRICS = ("log_likelihood", "weighted_log_probabilities", "perplexity", "bits_per_byte", "ter")


def unit_of(metric: str, better: str, stored: float | None = None) -> float | None:
    """Returns the best possible score, which is shown as 100 points; None for an unbounded metric.

    Uses the stored value (0: unbounded); results without one are decided by the metric's name.
    """
    if stored is not None and stored == stored:
        return stored or None
    if better == "lower" or metric.startswith(UNBOUNDED_METRICS):
        return None
    return 100.0 if metric.startswith(PERCENT_METRICS) else 1.0


def floor_of(metric: str, unit: float | None) -> float:
    """The lowest possible score of a bounded metric, which the index does not hold: -unit for a correlation, else 0."""
    return -unit if unit and metric.startswith(CORRELATIONS) else 0.0


def points(value: float | None, unit: float | None) -> str:
    """A score in points (0 to 100) where it has a unit, else the raw value."""
    if value is None or value != value:
        return "–"
    return f"{100 * value / unit:.1f}" if unit else f"{value:.3g}"


def span(low: float | None, high: float | None, unit: float | None) -> str:
    return "–" if low is None or high is None or low != low or high != high else f"{points(low, unit)} – {points(high, unit)}"


def range_text(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def amount(value: float | None) -> str:
    """A count with a suffix: 135 M, 7 B."""
    if value is None or value != value:
        return "–"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """A size in bytes with a suffix: 17 MB."""
    found = amount(value).replace(" B", " G")
    return found if found == "–" else f"{found}B" if " " in found else f"{found} B"


def duration(seconds: float | None) -> str:
    """Seconds up to 90 s, above that minutes or hours: 42 s, 3.5 min, 2.1 h."""
    if seconds is None or seconds != seconds:
        return "–"
    if seconds <= 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds <= 5400 else f"{seconds / 3600:.1f} h"
