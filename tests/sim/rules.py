"""Decision rules for simulated comparisons: ours, well-known mistakes, and those of other gates, restated from their sources.

A rule gives (regressed [T], passed [T]). Ours and the mistakes claim 5 % one-sided; the others 2.5 % (95 % two-sided).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from assay.harness.stats.distributions import t_cdf, t_quantile, z_cdf
from assay.harness.stats.paired import mid_p, score_z, tango_z
from assay.harness.stats.rule import FEW_CLUSTERS, PASS, REGRESSED, gate_verdicts, n_min
from assay.harness.task.metric import Array
from tests.sim.cells import Trials

Flags = NDArray[np.bool_]
Rule = Callable[[Trials, float], tuple[Flags, Flags]]
ALPHA = 0.05
TASK_MARGIN = 0.03


def z_of(p: float) -> float:
    return NormalDist().inv_cdf(p)


def loss_p(trials: Trials) -> Array:
    """Our one-sided test of a task: mid-p McNemar, or t over the units."""
    if trials.kind == "binary":
        return mid_p(trials.wins, trials.losses)
    mean, variance = trials.moments()
    error = np.sqrt(variance)
    return t_cdf(np.where(error > 0, mean / np.where(error > 0, error, 1.0), 0.0), trials.units - 1.0)


def excluded(trials: Trials, margin: float) -> Flags:
    """Our test that a loss of the margin is excluded: Tango, or its generalisation with a t quantile; enough units."""
    if trials.units < max(n_min(margin), FEW_CLUSTERS):
        return np.zeros(len(trials.wins), dtype=np.bool_)
    if trials.kind == "binary":
        return np.asarray(tango_z(trials.wins, trials.losses, trials.n, margin) > z_of(1 - ALPHA))
    return np.asarray(
        score_z(trials.values, np.float64(margin), np.float64(1.0), trials.counts) > t_quantile(1 - ALPHA, trials.units - 1.0)
    )


def ours(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """The gate over one task, margin on the aggregate, three points on the task."""
    mean, variance = trials.moments()
    p_total = t_cdf(mean / np.sqrt(variance + 1 / trials.units**2), trials.units - 1.0)
    held = excluded(trials, margin)
    none = np.zeros((len(mean), 1), dtype=np.bool_)
    verdict = gate_verdicts(p_total, held, loss_p(trials)[:, None], excluded(trials, TASK_MARGIN)[:, None], none)
    return verdict == REGRESSED, verdict == PASS


def our_test(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """The two tests alone, each at 5 %."""
    return loss_p(trials) <= ALPHA, excluded(trials, margin)


def wald(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """Wald test with the sample standard error, which is 0 where no item differs."""
    mean, variance = trials.moments()
    half = z_of(1 - ALPHA) * np.sqrt(variance)
    return mean + half < 0, mean - half > -margin


def pseudo_t(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """t test with one discordant unit added to the variance, and a least number of units."""
    mean, variance = trials.moments()
    half = t_quantile(1 - ALPHA, trials.units - 1.0) * np.sqrt(variance + 1 / trials.units**2)
    enough = trials.units >= n_min(margin)
    return mean + half < 0, (mean - half > -margin) & enough


def items_as_independent(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """Mid-p and Tango on single items, ignoring their passages."""
    passed = tango_z(trials.wins, trials.losses, trials.n, margin) > z_of(1 - ALPHA)
    return mid_p(trials.wins, trials.losses) <= ALPHA, np.asarray(passed) & (trials.n >= n_min(margin))


def t_interval(level: float) -> Rule:
    """t interval of the differences; regressed only if the loss exceeds the margin (NeMo Evaluator's gate)."""

    def rule(trials: Trials, margin: float) -> tuple[Flags, Flags]:
        mean, variance = trials.moments()
        half = t_quantile((1 + level) / 2, trials.units - 1.0) * np.sqrt(variance)
        return mean + half < -margin, mean - half > -margin

    return rule


def t_or_mcnemar(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """Two-sided t interval against zero (errorbars, deltagate); passes if its lower limit is above -margin."""
    mean, variance = trials.moments()
    half = t_quantile(0.975, trials.units - 1.0) * np.sqrt(variance)
    return mean + half < 0, mean - half > -margin


def bootstrap(kind: str, level: float, against: float = 0.0, draws: int = 1000, seed: int = 1) -> Rule:
    """Percentile (evalsig, one-sided) or BCa (statgate, deltagate) interval;
    with `against` 1, regressed only if the loss exceeds the margin."""

    def rule(trials: Trials, margin: float) -> tuple[Flags, Flags]:
        rng = np.random.default_rng(seed)
        pieces = [slice(start, start + 200) for start in range(0, len(trials.wins), 200)]
        found = [resampled(trials.values[piece], trials.counts[piece], kind, (1 - level) / 2, draws, rng) for piece in pieces]
        low, high = (np.concatenate(ends) for ends in zip(*found, strict=True))
        return high < -against * margin, low > -margin

    return rule


def resampled(values: Array, counts: Array, kind: str, tail: float, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Interval ends [T] of the means of counted values [T, K] from `draws` bootstrap samples each."""
    size = counts.sum(axis=1)
    mean = (values * counts).sum(axis=1) / size
    drawn = rng.multinomial(int(size[0]), counts / size[:, None], size=(draws, len(counts)))
    means = np.sort((drawn * values).sum(axis=2) / size, axis=0)
    tails = np.broadcast_to(np.array([[tail], [1 - tail]]), (2, len(mean)))
    if kind == "bca":
        share = np.clip(((means < mean).mean(axis=0) + (means <= mean).mean(axis=0)) / 2, 1 / draws, 1 - 1 / draws)
        bias = ndtri(share)
        centred = mean[:, None] - values
        spread = (counts * centred**2).sum(axis=1)
        skew = np.where(spread > 0, (counts * centred**3).sum(axis=1) / (6 * np.where(spread > 0, spread, 1.0) ** 1.5), 0.0)
        z = ndtri(tails)
        tails = z_cdf(bias + (bias + z) / (1 - skew * (bias + z)))
    low, high = np.take_along_axis(means, np.clip(np.round(tails * (draws - 1)).astype(int), 0, draws - 1), axis=0)
    return low, high


def newcombe(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """Newcombe's paired interval at an accuracy of .65; "regression" unless non-inferior is shown (invarlock)."""
    n, wins, losses = float(trials.n), trials.wins, trials.losses
    both = np.round(0.65 * n - (wins + losses) / 2)
    neither = n - both - wins - losses
    base, candidate = (both + losses) / n, (both + wins) / n
    l1, u2 = wilson_ends(candidate, n)[0], wilson_ends(base, n)[1]
    top = both * neither - wins * losses
    top = np.where(top > 0, np.maximum(top - n / 2, 0.0), top)
    bottom = np.sqrt(np.maximum((both + wins) * (losses + neither) * (both + losses) * (wins + neither), 1e-300))
    phi = top / bottom
    delta = candidate - base
    d1, e2 = candidate - l1, u2 - base
    low = delta - np.sqrt(np.maximum(d1**2 - 2 * phi * d1 * e2 + e2**2, 0.0))
    passed = low > -margin
    return ~passed, passed


def wilson_ends(share: Array, n: float, z: float = 1.959964) -> tuple[Array, Array]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def unpaired(trials: Trials, margin: float) -> tuple[Flags, Flags]:
    """Unpaired z test on two means with their standard errors (lm-eval's comparison script)."""
    n = trials.n
    base = np.full(len(trials.wins), 0.65)
    candidate = base + (trials.wins - trials.losses) / n
    half = z_of(0.975) * np.sqrt((base * (1 - base) + np.clip(candidate * (1 - candidate), 0, None)) / (n - 1))
    return candidate - base + half < 0, candidate - base - half > -margin


MISTAKES: dict[str, Rule] = {
    "Wald": wald,
    "t with one pseudo-discordance": pseudo_t,
    "items of a passage as independent": items_as_independent,
    "BCa bootstrap, one-sided 5 %": bootstrap("bca", 0.9),
    "percentile bootstrap, one-sided 5 %": bootstrap("percentile", 0.9),
}
OTHERS: dict[str, Rule] = {
    "NeMo Evaluator gate: t interval, loss beyond the margin": t_interval(0.95),
    "statgate: BCa, block beyond the margin": bootstrap("bca", 0.95, 1.0),
    "evalsig: percentile bootstrap, 5 %": bootstrap("percentile", 0.9),
    "deltagate: z and BCa": bootstrap("bca", 0.95),
    "errorbars, abeval: t interval": t_or_mcnemar,
    "invarlock: Newcombe, regression unless non-inferior": newcombe,
    "lm-eval: unpaired z": unpaired,
}
SLOW = {name for name in (*MISTAKES, *OTHERS) if "bootstrap" in name or "BCa" in name}
