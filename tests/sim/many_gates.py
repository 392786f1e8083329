"""The gate's rule on thousands of simulated suites at once, where one gate's code takes one suite: tasks that share items, blocks of a
corpus metric. A test compares it with the gate's own code, suite by suite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.harness.stats.distributions import t_cdf, t_quantile
from assay.harness.stats.paired import mid_p, score_z, t_loss
from assay.harness.stats.rule import FEW_CLUSTERS, gate_verdicts, loss_excluded, n_min
from assay.harness.task.metric import Array
from tests.sim.gate_tasks import MARGIN, TASK_MARGIN, Suite, evidence
from tests.sim.rules import ALPHA, Flags

BLOCKS = 60


@dataclass(frozen=True, slots=True)
class Joint:
    """Unit values [T, K], each seen `counts` times [T, K]; `worst` [T], the largest loss of a unit; the number of independent clusters."""

    values: Array
    counts: Array
    worst: Array
    clusters: int

    @property
    def units(self) -> float:
        return float(self.counts[0].sum())

    def excluded(self, margin: float) -> Flags:
        """Whether a loss of the margin is excluded at ALPHA."""
        z = score_z(self.values, np.full(len(self.values), margin), self.worst, self.counts)
        enough = self.units >= FEW_CLUSTERS and self.clusters >= n_min(margin)
        return np.asarray((z > t_quantile(1 - ALPHA, self.units - 1.0)) & enough)

    def p_loss(self) -> Array:
        """One-sided p of the aggregate: t with one unobserved worst loss."""
        mean = (self.values * self.counts).sum(axis=1) / self.units
        spread = ((self.values - mean[:, None]) ** 2 * self.counts).sum(axis=1) / (self.units - 1)
        return t_cdf(mean / np.sqrt(spread / self.units + (self.worst / self.units) ** 2), self.units - 1.0)


@dataclass(frozen=True, slots=True)
class SharedSuite:
    """T suites of m tasks of n items: `common` [T, 3] counts of wins, losses and ties of the items that all tasks share, `own` [T, m, 3] of
    each task's other items."""

    common: Array
    own: Array

    @property
    def tasks(self) -> Suite:
        counts = self.common[:, None] + self.own
        return Suite(counts[..., 0], counts[..., 1], counts[0].sum(axis=1))

    def joint(self) -> Joint:
        """The equally weighted change, one unit per distinct item (see aligned_units)."""
        size, m = float(self.tasks.sizes[0]), self.own.shape[1]
        clusters = float(self.common[0].sum() + self.own[0].sum())
        share, signs, delta = clusters / size, np.array([1.0, -1.0, 0.0]), self.tasks.delta
        mean = delta.mean(axis=1)[:, None]
        together = mean + share * (signs - mean)
        alone = mean[..., None] + share / m * (signs - delta[..., None])
        values = np.concatenate([together, alone.reshape(len(alone), -1)], axis=1)
        counts = np.concatenate([self.common, self.own.reshape(len(self.own), -1)], axis=1)
        kept = counts.any(axis=0)
        values, counts = values[:, kept], counts[:, kept]
        return Joint(values, counts, np.maximum(share, np.abs(values).max(axis=1)), round(clusters))


def draw_shared(rng: np.random.Generator, trials: int, m: int, same: float, delta: float, n: int = 1000, churn: float = 0.1) -> SharedSuite:
    """`m` tasks of n items each, of which a share `same` occurs in all of them with the same results."""
    odds, common = [(churn + delta) / 2, (churn - delta) / 2, 1 - churn], round(same * n)
    return SharedSuite(rng.multinomial(common, odds, trials).astype(float), rng.multinomial(n - common, odds, (trials, m)).astype(float))


def shared_verdicts(suite: SharedSuite, margin: float = MARGIN) -> Array:
    """The gate's verdicts [T] where it knows which items are shared."""
    tasks, joint = suite.tasks, suite.joint()
    _, columns = evidence(tasks)
    held = loss_excluded(columns.low, TASK_MARGIN, tasks.sizes)
    p, none = mid_p(tasks.wins, tasks.losses), np.zeros(held.shape, dtype=np.bool_)
    return np.asarray(gate_verdicts(joint.p_loss(), joint.excluded(margin), p, held, none))


def f1_of(hits: Array, marks: Array) -> Array:
    """F1 from the number of true positives, and of positives in gold and picks together."""
    return np.asarray(2 * hits / np.maximum(marks, 1.0))


def block_sums(values: Array, block: Array) -> Array:
    """Sums [T, BLOCKS] of values [T, n] by block."""
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], np.arange(BLOCKS))
    return np.asarray(np.add.reduceat(values[:, order].astype(np.float64), starts, axis=1))


def corpus_joint(gold: Array, picks: tuple[Array, Array], block: Array) -> Joint:
    """The jackknife of the change in F1 over blocks, from gold and both runs' picks [T, n]."""
    value, effects = [], []
    for picked in picks:
        hits, marks = block_sums(gold & picked, block), block_sums(gold, block) + block_sums(picked, block)
        whole = f1_of(hits.sum(axis=1), marks.sum(axis=1))
        left = f1_of(hits.sum(axis=1)[:, None] - hits, marks.sum(axis=1)[:, None] - marks)
        value.append(whole)
        effects.append((whole[:, None] - left) * np.sqrt((BLOCKS - 1) / BLOCKS))
    moved, scale = effects[1] - effects[0], np.sqrt(BLOCKS * (BLOCKS - 1.0))
    values = (value[1] - value[0])[:, None] + scale * (moved - moved.mean(axis=1, keepdims=True))
    worst = scale * np.maximum(*(np.ptp(each, axis=1) for each in effects)) * np.sqrt(BLOCKS / gold.shape[1])
    worst = np.maximum(np.where(worst > 0, worst, 1.0), np.abs(values).max(axis=1))
    return Joint(values, np.ones_like(values), worst, gold.shape[1])


def corpus_verdicts(joint: Joint, margin: float) -> Array:
    """The gate's verdicts [T] on one task with a corpus metric."""
    p, held = t_loss(joint.values), joint.excluded(TASK_MARGIN)
    none = np.zeros((len(p), 1), dtype=np.bool_)
    return np.asarray(gate_verdicts(joint.p_loss(), joint.excluded(margin), p[:, None], held[:, None], none))
