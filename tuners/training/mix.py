"""Multi-task mixtures: the number of examples per task, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from assay import AssayError
from assay.tuners.training.batches import Example


def mixture(sizes: Mapping[str, int], temperature: float = 1.0) -> dict[str, float]:
    """Each task's share: proportional to size ** (1 / temperature).

    1 is proportional to size, a large temperature gives equal shares. Source: Raffel et al. 2019 (T5), section 3.5.2.
    """
    if temperature <= 0 or not sizes or min(sizes.values()) < 1:
        raise AssayError(
            f"cannot mix tasks of sizes {dict(sizes)} at temperature {temperature}", do="use tasks with rows and a temperature above 0"
        )
    weights = {name: size ** (1 / temperature) for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def apportion(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Integers that sum to `count`, each within one of its share (largest remainder method)."""
    exact = {name: share * count for name, share in shares.items()}
    whole = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
    for name in by_remainder[: count - sum(whole.values())]:
        whole[name] += 1
    return whole


def mix(pools: Mapping[str, Sequence[Example]], temperature: float, count: int, seed: int) -> list[Example]:
    """`count` examples with exact shares, shuffled; the examples of small tasks are repeated equally often."""
    wanted = apportion(mixture({name: len(pool) for name, pool in pools.items()}, temperature), count)
    draw = np.random.default_rng(seed)
    chosen: list[Example] = []
    for name, pool in pools.items():
        order = np.concatenate([draw.permutation(len(pool)) for _ in range(-(-wanted[name] // len(pool)) or 1)])
        chosen += [pool[index] for index in order[: wanted[name]]]
    return [chosen[index] for index in draw.permutation(len(chosen))]
