"""Error rates of estimators of the change in accuracy on simulated margins.

`python -m tests.sim.estimators.simulated [trials [part parts]]` writes results/gate/estimators.csv.
A false pass and a false regression are judged by plain accuracy, whatever the estimator: the candidate's margins are shifted until accuracy
lost the margin, or nothing, exactly. Writes results/gate/estimators.csv.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from assay.harness.stats.distributions import z_cdf
from assay.harness.stats.rule import PASS, REGRESSED
from assay.harness.stats.smoothing import RANGE, smoothed, spread
from assay.harness.task.metric import Array
from tests.sim.many_gates import Joint, corpus_verdicts

OUT = Path("results/gate/estimators.csv")
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
Change = Callable[[np.random.Generator, Array, float], Array]
"""(rng, the baseline's margins, their spread) to the candidate's margins."""

BASES: dict[str, Draw] = {
    "normal, accuracy .65": lambda rng, shape: rng.normal(0.385, 1.0, shape),
    "normal, accuracy .9": lambda rng, shape: rng.normal(1.28, 1.0, shape),
    "heavy tails": lambda rng, shape: 0.5 * rng.standard_t(2, shape) + 0.3,
    "many near ties": lambda rng, shape: rng.laplace(0.2, 1.0, shape),
    "ties at the middle": lambda rng, shape: rng.laplace(0.0, 1.0, shape),
    "two groups": lambda rng, shape: np.where(rng.random(shape) < 0.65, rng.normal(1.5, 0.8, shape), rng.normal(-1.2, 0.8, shape)),
}


def noisy(share: float, scale: float = 1.0, tails: bool = False) -> Change:
    """Margins times `scale`, with noise of `share` of their spread, from normal or t (3) draws."""

    def change(rng: np.random.Generator, margins: Array, size: float) -> Array:
        noise = rng.standard_t(3, margins.shape) if tails else rng.normal(size=margins.shape)
        return np.asarray(scale * margins + share * size * noise)

    return change


CHANGES: dict[str, Change] = {
    "noise .1": noisy(0.1),
    "noise .3": noisy(0.3),
    "noise .1, heavy tails": noisy(0.1, tails=True),
    "flattened to .8": noisy(0.1, 0.8),
    "sharpened to 1.25": noisy(0.1, 1.25),
}
"""Changes whose loss comes from a shift of all margins."""
DESTROYED = "single items destroyed"
"""A change whose loss comes from right items that become wrong by any margin."""


def step(margins: Array) -> Array:
    return (margins > 0).astype(np.float64)


def normal_kernel(margins: Array) -> Array:
    """Phi(margin / s) with half the spread as s."""
    return z_cdf(margins / (0.5 * spread(margins))[..., None])


def same_scale(base: Array, candidate: Array) -> Array:
    """Phi(margin / s) of both runs with the baseline's s."""
    s = (0.5 * spread(base))[..., None]
    return np.asarray(z_cdf(candidate / s) - z_cdf(base / s))


def chosen_probability(margins: Array) -> Array:
    """Probability of the right one of two choices, margins in units of 1.5 nats per spread 1."""
    return np.asarray(expit(1.5 * margins))


Estimator = Callable[[Array, Array], Array]
ESTIMATORS: dict[str, tuple[Estimator, float]] = {
    "accuracy": (lambda base, new: step(new) - step(base), 1.0),
    "smoothed, normal kernel, one s": (same_scale, 1.0),
    "smoothed, normal kernel, own s": (lambda base, new: normal_kernel(new) - normal_kernel(base), 1.0),
    "smoothed, fourth order (the gate's)": (lambda base, new: smoothed(new) - smoothed(base), RANGE),
    "probability of the right choice": (lambda base, new: chosen_probability(new) - chosen_probability(base), 1.0),
}
"""Differences per item of two runs' margins [T, n], and the largest loss of one item."""
USED, FEWER = ("accuracy", "smoothed, fourth order (the gate's)"), 10
"""The gate's estimators have all trials, the others a tenth of them."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A baseline and a change by which accuracy loses exactly `lost`."""

    base: str
    change: str
    lost: float

    def calibrated(self, size: int = 400_000) -> float:
        """The shift of all margins, or the share of destroyed items, that gives the loss."""
        rng = np.random.default_rng(1)
        base = BASES[self.base](rng, (size,))
        s, right = float(spread(base)), float((base > 0).mean())
        if self.change == DESTROYED:
            kept = float((noisy(0.1)(rng, base, s) > 0).mean())
            return (kept - right + self.lost) / kept
        moved = CHANGES[self.change](rng, base, s)
        return float(np.quantile(moved, 1 - (right - self.lost)))

    def draw(self, rng: np.random.Generator, trials: int, n: int, amount: float, s: float) -> tuple[Array, Array]:
        """Margins of both runs [trials, n]."""
        base = BASES[self.base](rng, (trials, n))
        if self.change != DESTROYED:
            return base, CHANGES[self.change](rng, base, s) - amount
        moved = noisy(0.1)(rng, base, s)
        turned = (rng.random(base.shape) < abs(amount)) & ((moved > 0) if amount > 0 else (moved <= 0))
        return base, np.where(turned, -np.sign(amount) * np.abs(rng.normal(1.0, 1.0, base.shape)) * s, moved)


@dataclass(frozen=True, slots=True)
class Rate:
    """One error rate of one estimator; `variance` is that of one item's difference, in units of plain accuracy's."""

    estimator: str
    error: str
    base: str
    change: str
    n: int
    margin: float
    trials: int
    rate: float
    variance: float


def measure(truth: Truth, n: int, margin: float, trials: int, seed: int) -> Iterator[Rate]:
    """The rate of passes where accuracy lost the margin, of regressions where it lost nothing, for every estimator."""
    amount, code = truth.calibrated(), PASS if truth.lost else REGRESSED
    s = float(spread(BASES[truth.base](np.random.default_rng(2), (400_000,))))
    rng, hits, spreads = np.random.default_rng([seed, n]), dict.fromkeys(ESTIMATORS, 0), dict.fromkeys(ESTIMATORS, 0.0)
    done, piece = dict.fromkeys(ESTIMATORS, 0), max(1, min(500_000 // n, trials // FEWER))
    for start in range(0, trials, piece):
        base, new = truth.draw(rng, min(piece, trials - start), n, amount, s)
        for name, (estimate, worst) in ESTIMATORS.items():
            if name not in USED and start >= trials // FEWER:
                continue
            d = estimate(base, new)
            joint = Joint(d, np.ones_like(d), np.full(len(d), worst), n)
            hits[name] += int((corpus_verdicts(joint, margin) == code).sum())
            spreads[name] += float(d.var(axis=1).sum())
            done[name] += len(d)
    error, plain = "pass" if truth.lost else "regressed", spreads["accuracy"] / done["accuracy"]
    for name, count in done.items():
        yield Rate(name, error, truth.base, truth.change, n, margin, count, hits[name] / count, spreads[name] / count / plain)


def simulate(trials: int, part: int = 0, parts: int = 1, n: int = 1000, margin: float = 0.02) -> Iterator[Rate]:
    """Every baseline with every change, or each `parts`-th of these pairs."""
    pairs = [(base, change) for base in BASES for change in (*CHANGES, DESTROYED)]
    for at, (base, change) in list(enumerate(pairs))[part::parts]:
        for lost in (0.0, margin):
            yield from measure(Truth(base, change, lost), n, margin, trials, at)


def main(trials: int = 10_000, part: int = 0, parts: int = 1) -> None:
    with (OUT if parts == 1 else OUT.with_suffix(f".{part}.csv")).open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for rate in simulate(trials, part, parts):
            if writer is None:
                writer = csv.DictWriter(file, list(asdict(rate)), lineterminator="\n")
                writer.writeheader()
            writer.writerow({**asdict(rate), "rate": f"{rate.rate:.4f}", "variance": f"{rate.variance:.4f}"})
            file.flush()


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
