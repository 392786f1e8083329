"""Smoothed accuracy of ranked choices: an item near a tie counts a part instead of 0 or 1, so flips near ties add little variance.

An item's margin is the gold choice's score less the best other score; accuracy is the share of positive margins. Smoothing replaces the
step at 0 by a kernel of fourth order, which leaves the mean unchanged up to the fourth power of its width (Jones 1995), and measures each
run's margins by their own spread, so that a change of temperature alone changes nothing.
"""

from __future__ import annotations

import numpy as np

from assay.harness.stats.distributions import z_cdf
from assay.harness.task.metric import Array, Codes

WIDTH = 0.2
"""Width of the kernel as a share of the margins' spread."""
KEPT = 0.92
"""Smoothing shows at least this share of a loss of accuracy in every simulated change; smoothed scores are divided by it."""
RANGE = 1.0706 / KEPT
"""The largest change of one item: the kernel's integral leaves [0, 1] by 0.0353 at either end."""
MOST_PICKED = 0.8
"""A baseline that picks one position on more items than this is not smoothed: its margins move together."""
LEAST = 50
"""Fewest items of a task that is smoothed."""
QUARTILES = 1.349
"""The interquartile range of a standard normal."""


def spread(margins: Array) -> Array:
    """The robust standard deviation of margins [..., n]."""
    low, high = np.quantile(margins, [0.25, 0.75], axis=-1)
    return np.asarray((high - low) / QUARTILES)


def smoothed(margins: Array) -> Array:
    """Smoothed scores of margins [..., n], 0 to 1 up to the kernel's overshoot, over KEPT; NaN where the spread is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        u = margins / (WIDTH * spread(margins))[..., None]
    return np.asarray((z_cdf(u) + u * np.exp(-(u**2) / 2) / np.sqrt(8 * np.pi)) / KEPT)


def can_smooth(margins: Array, picks: Codes) -> bool:
    """Whether a task's difference is smoothed, from the baseline's margins [n] and picked positions [n] alone."""
    return len(margins) >= LEAST and has_spread(margins) and bool(np.bincount(picks).max() <= MOST_PICKED * len(picks))


def has_spread(margins: Array) -> bool:
    """Whether margins [n] have a spread and are mostly different."""
    return bool(spread(margins) > 0 and len(np.unique(margins)) > len(margins) / 2)
