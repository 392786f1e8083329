"""Simulated comparisons of two runs with a known true difference: binary, graded and clustered items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.harness.task.metric import Array

CLUSTER, RHO = 5, 0.3


@dataclass(frozen=True, slots=True)
class Trials:
    """T simulated comparisons: the values of independent units [T, K], each occurring `counts` times [T, K]; for rules that ignore
    clusters, `wins` and `losses` [T] of `n` items."""

    values: Array
    counts: Array
    wins: Array
    losses: Array
    n: int
    kind: str

    @property
    def units(self) -> int:
        return round(float(self.counts[0].sum()))

    def moments(self) -> tuple[Array, Array]:
        """Mean and squared standard error of the units [T]."""
        size = self.counts.sum(axis=-1)
        mean = (self.values * self.counts).sum(axis=-1) / size
        spread = ((self.values - mean[:, None]) ** 2 * self.counts).sum(axis=-1) / (size - 1)
        return mean, spread / size


Draw = Callable[[np.random.Generator, int, int, float, float], Trials | None]
"""(rng, trials, n, churn, true difference); None where that difference is impossible at that churn."""


def binary(rng: np.random.Generator, trials: int, n: int, churn: float, delta: float) -> Trials | None:
    """Correctness of two models that disagree on a share `churn` of the items."""
    if abs(delta) > churn:
        return None
    wins, losses, same = rng.multinomial(n, [(churn + delta) / 2, (churn - delta) / 2, 1 - churn], size=trials).T.astype(np.float64)
    values = np.broadcast_to(np.array([1.0, -1.0, 0.0]), (trials, 3))
    return Trials(values, np.stack([wins, losses, same], axis=1), wins, losses, n, "binary")


def graded(rng: np.random.Generator, trials: int, n: int, churn: float, delta: float) -> Trials | None:
    """Scores in [0, 1]: a share `churn` moves by a uniform amount, up or down."""
    lost = 0.5 - delta / churn
    if not 0 <= lost <= 1:
        return None
    moved = rng.binomial(n, churn, trials)
    live = np.arange(max(1, int(moved.max()))) < moved[:, None]
    values = np.where(rng.random(live.shape) < lost, -1.0, 1.0) * rng.random(live.shape) * live
    counts = np.column_stack([live, n - moved]).astype(np.float64)
    wins, losses = (values > 0).sum(axis=1), (values < 0).sum(axis=1)
    return Trials(np.column_stack([values, np.zeros(trials)]), counts, wins, losses, n, "graded")


def clustered(rng: np.random.Generator, trials: int, n: int, churn: float, delta: float) -> Trials | None:
    """Binary items, five to a passage; the differences within a passage correlate with 0.3."""
    if abs(delta) > churn:
        return None

    def draw(shape: tuple[int, ...]) -> Array:
        level = rng.random(shape, dtype=np.float32)
        return np.where(level < (churn - delta) / 2, -1.0, np.where(level < churn, 1.0, 0.0)).astype(np.float32)

    shape = (trials, n // CLUSTER, CLUSTER)
    items = np.where(rng.random(shape, dtype=np.float32) < RHO**0.5, draw((*shape[:2], 1)), draw(shape))
    sums = items.sum(axis=2)
    steps = np.arange(-CLUSTER, CLUSTER + 1)
    counts = np.stack([(sums == step).sum(axis=1) for step in steps], axis=1).astype(np.float64)
    values = np.broadcast_to(steps / CLUSTER, counts.shape)
    wins, losses = (items > 0).sum(axis=(1, 2)), (items < 0).sum(axis=(1, 2))
    return Trials(values, counts, wins, losses, n, "clustered")


KINDS: dict[str, Draw] = {"binary": binary, "graded": graded, "clustered": clustered}
SIZES = (60, 150, 300, 1000, 4000)
CHURNS = (0.01, 0.05, 0.2)
MARGINS = (0.01, 0.02, 0.05)


def true_error(kind: str, n: int, churn: float) -> float:
    """Standard error of the mean difference where nothing changed."""
    inflation = 1 / 3 if kind == "graded" else 1 + (CLUSTER - 1) * RHO if kind == "clustered" else 1.0
    return float(np.sqrt(churn * inflation / n))


def in_chunks(draw: Draw, rng: np.random.Generator, trials: int, n: int, churn: float, delta: float) -> list[Trials]:
    """The trials in chunks that fit into memory."""
    piece = max(1, min(trials, 4_000_000 // n))
    found = [draw(rng, min(piece, trials - start), n, churn, delta) for start in range(0, trials, piece)]
    return [each for each in found if each is not None]
