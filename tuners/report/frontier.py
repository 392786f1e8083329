"""Methods compared along their runs: KL at equal gain, paired by seed, with a simultaneous band over the gains that both reach.

A run is a path of (gain, KL) points, one after 2, 4, 8, ... steps. Its frontier is KL as a function of gain, interpolated on a log scale
where the run first reaches the gain. A method's frontier is the mean over seeds, two methods' contrast the mean of the differences of runs
with one seed, whose batches and scored items are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import t_quantile
from assay.tuners.report.claims import Row, cells_of, main_rows, methods_of, pick
from assay.tuners.report.paired import FACTOR, Contrast, RunPath, Verdict, log_kl_at, matched_log_kl, p_of_factor, verdict_from

Points = Mapping[str, Sequence[Row]]
"""By trial the points of its run, from `points.parquet`."""
MEASURES = ("kl_text", "kl_base")
"""KL on neutral text; without text, on the prompts of the retention tasks."""
SHARES = tuple(np.linspace(0.2, 1.0, 9).tolist())
"""Shares of the largest common gain at which two frontiers are compared."""
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class BandPoint:
    """KL in nats per token at a gain, with its simultaneous 95% band over all gains of the frontier. Factors for contrasts."""

    gain: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MatchedMethods:
    """KL of a method over that of another at equal gain. `gain`: where they are compared, the mean over seeds; `band`: the same factor over
    the common range of gains. `p` by verdict. Without `log_kl` fewer than two seeds have a common gain."""

    gain: float | None
    log_kl: Contrast | None
    band: tuple[BandPoint, ...] = ()
    p: Mapping[Verdict, float] | None = None

    @property
    def verdict(self) -> Verdict:
        return verdict_from(self.p) if self.p else "cannot tell"

    @property
    def factor(self) -> tuple[float, float, float] | None:
        """With its 95% confidence interval over seeds."""
        found = self.log_kl
        return (math.exp(found.value), math.exp(found.low), math.exp(found.high)) if found else None

    @property
    def verdict_over_range(self) -> Verdict:
        """From the band: whether KL is within a factor of 1.5, lower, or higher, at every common gain."""
        if self.band and all(point.low > 1 / FACTOR and point.high < FACTOR for point in self.band):
            return "no difference"
        if self.band and all(point.high < 1 for point in self.band):
            return "dominates"
        return "dominated" if self.band and all(point.low > 1 for point in self.band) else "cannot tell"


def paths_of(rows: Sequence[Row], points: Points, target: str, method: str, measure: str = "") -> dict[int, RunPath]:
    """By seed the path (gain, KL) of the method's run at its chosen learning rate, from the base at (0, 0) unless the method changes the
    model before its first step."""
    scored = [row for row in main_rows(rows, target, method) if str(row.get("trial")) in points]
    return {int(row["seed"]): path for row in scored if (path := path_of(row, points, measure))}


def path_of(row: Row, points: Points, measure: str = "") -> RunPath:
    """The path of one run. Of one that was scored at its end alone, as with `wise_ft`, the straight line from the base to its end."""
    own = points.get(str(row.get("trial"))) or [{**row, "step": row.get("steps") or 1}]
    name = measure or next((each for each in MEASURES if own[0].get(each) is not None), "")
    path = [(float(point["gain"]), float(point[name])) for point in own if name and point.get(name) is not None]
    return path if not path or own[0]["step"] == 0 else [(0.0, 0.0), *path]


def frontier_band(paths: Mapping[int, RunPath]) -> tuple[BandPoint, ...]:
    """A method's frontier: the geometric mean of KL over seeds, at the gains that all of its runs reach. Without a band for one seed."""
    if not paths:
        return ()
    high = min(max(gain for gain, _ in path) for path in paths.values())
    gains = [share * high for share in SHARES] if high > 0 else []
    table = [[log_kl_at(path, gain) for path in paths.values()] for gain in gains]
    return band_over([(gain, values) for gain, values in zip(gains, table, strict=True) if None not in values])


def contrast_band(one: Mapping[int, RunPath], other: Mapping[int, RunPath]) -> tuple[BandPoint, ...]:
    """KL of one method over the other's at each share of the seed's largest common gain; only shares that all common seeds reach."""
    seeds = sorted(one.keys() & other.keys())
    largest = {seed: min(max(gain for gain, _ in path) for path in (one[seed], other[seed])) for seed in seeds}
    seeds = [seed for seed in seeds if largest[seed] > 0]
    found = []
    for share in SHARES if seeds else ():
        pairs = [[log_kl_at(side[seed], share * largest[seed]) for side in (one, other)] for seed in seeds]
        if all(value is not None for pair in pairs for value in pair):
            gain = share * float(np.mean([largest[seed] for seed in seeds]))
            found.append((gain, [float(mine or 0.0) - float(theirs or 0.0) for mine, theirs in pairs]))
    return band_over(found)


def band_over(rows: Sequence[tuple[float, Sequence[float | None]]]) -> tuple[BandPoint, ...]:
    """The exponential of the mean of each row's values, one per seed, with a simultaneous 95% band over the rows."""
    if not rows:
        return ()
    table = np.array([values for _, values in rows], dtype=np.float64)
    means, seeds = table.mean(axis=1), table.shape[1]
    reach = simultaneous_t(table) * table.std(axis=1, ddof=1) / math.sqrt(seeds) if seeds > 1 else np.full(len(rows), math.inf)
    return tuple(
        BandPoint(gain, math.exp(mean), math.exp(mean - half), math.exp(mean + half) if half < math.inf else math.inf)
        for (gain, _), mean, half in zip(rows, means.tolist(), reach.tolist(), strict=True)
    )


def simultaneous_t(table: NDArray[np.float64]) -> float:
    """The 95% quantile of the largest |t| over the rows of [gains, seeds], by a multivariate t with their estimated correlations.

    With a few seeds the correlations are rough; the bound is never below Student's t of one row, nor above Bonferroni's.
    """
    gains, seeds = table.shape
    one, every = (float(t_quantile(1 - 0.025 / count, seeds - 1)) for count in (1, gains))
    spread = table.std(axis=1, ddof=1, keepdims=True)
    if gains == 1 or not bool((spread > 0).all()):
        return every
    random = np.random.default_rng(0)
    residuals = (table - table.mean(axis=1, keepdims=True)) / spread / math.sqrt(seeds - 1)
    normal = random.standard_normal((DRAWS, seeds)) @ residuals.T
    scale = np.sqrt(random.chisquare(seeds - 1, (DRAWS, 1)) / (seeds - 1))
    return min(every, max(one, float(np.quantile(np.abs(normal / scale).max(axis=1), 0.95))))


def compare_along(one: Mapping[int, RunPath], other: Mapping[int, RunPath]) -> MatchedMethods:
    """Two methods by the paths of their runs."""
    found = matched_log_kl(one, other)
    if found is None:
        return MatchedMethods(None, None)
    common = [min(path[-1][0] for path in (one[seed], other[seed])) for seed in one.keys() & other.keys()]
    return MatchedMethods(float(np.mean(common)), found, contrast_band(one, other), p_of_factor(found))


def along_table(rows: Sequence[Row], points: Points, target: str) -> dict[tuple[str, str], MatchedMethods]:
    """Every pair of methods of a target, the one with more gain second; p values after Holm's correction over the pairs that compare."""
    paths = {name: paths_of(rows, points, target, name) for name in methods_of(rows, target)}
    names = [name for name, own in paths.items() if own]
    return corrected({(low, high): compare_along(paths[low], paths[high]) for at, high in enumerate(names) for low in names[at + 1 :]})


def mitigated_table(rows: Sequence[Row], points: Points, target: str) -> dict[tuple[str, str], MatchedMethods]:
    """By method and mitigation its runs against those of the same method, learning rate and seed without it; p values after Holm's
    correction over the mitigations and methods of the target."""
    found = {}
    for mitigation in sorted({row["mitigation"] for row in pick(rows, target=target, role="mitigation")}):
        for (place, method), (own, plain) in cells_of(rows, mitigation).items():
            if place == target:
                sides = [{int(row["seed"]): path for row in side if (path := path_of(row, points))} for side in (own, plain)]
                found[method, mitigation] = compare_along(*sides)
    return corrected(found)


def corrected(found: dict[tuple[str, str], MatchedMethods]) -> dict[tuple[str, str], MatchedMethods]:
    """The comparisons with p values after Holm's correction over all that have one."""
    known = {pair: each for pair, each in found.items() if each.p}
    adjusted = holm([min((each.p or {}).values()) for each in known.values()]).tolist() if known else []
    return found | {
        pair: replace(each, p={verdict: max(p, after) for verdict, p in (each.p or {}).items()})
        for (pair, each), after in zip(known.items(), adjusted, strict=True)
    }


def frontier_json(rows: Sequence[Row], points: Points, target: str) -> dict[str, Any]:
    """What a page needs to show a target without further statistics: every run's path, every method's frontier with its band, and the
    verdict on every pair and on every mitigation. JSON values only; KL in nats per token, gains as shares, factors of KL."""
    paths = {name: paths_of(rows, points, target, name) for name in methods_of(rows, target)}
    return {
        "target": target,
        "runs": [{"method": name, "seed": seed, "points": path} for name, own in paths.items() for seed, path in own.items()],
        "frontiers": {name: [point_json(point) for point in frontier_band(own)] for name, own in paths.items()},
        "verdicts": [
            {"method": pair[0], "other": pair[1], **verdict_json(each)} for pair, each in along_table(rows, points, target).items()
        ],
        "mitigations": [
            {"method": pair[0], "mitigation": pair[1], **verdict_json(each)} for pair, each in mitigated_table(rows, points, target).items()
        ],
    }


def verdict_json(each: MatchedMethods) -> dict[str, Any]:
    return {
        "gain": each.gain,
        "factor": each.factor,
        "seeds": each.log_kl.seeds if each.log_kl else 0,
        "verdict": each.verdict,
        "verdict_over_range": each.verdict_over_range,
        "band": [point_json(point) for point in each.band],
    }


def point_json(point: BandPoint) -> dict[str, float | None]:
    values = {"gain": point.gain, "value": point.value, "low": point.low, "high": point.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
