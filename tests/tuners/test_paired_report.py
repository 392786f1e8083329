"""Methods are compared by pairs of seeds and items: the published rows read again, and simulations whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.tuners.report.claims import difference, estimate, main_rows
from assay.tuners.report.paired import Contrast, compare_methods, contrast, matched_log_kl, p_of_factor, two_way, verdict_from
from assay.tuners.report.paired_text import against_full, paired_table
from assay.tuners.study.rows import read_items, read_rows, write_rows

PUBLISHED = Path(__file__).parents[2] / "results" / "studies" / "cpu-mini"
LANGUAGE = "assay.tuners.retention:LANGUAGE"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return read_rows(PUBLISHED / "trials.parquet")


def test_published_rows_are_decisive_once_their_pairs_are_used(rows: list[dict[str, Any]]) -> None:
    """On `language` full tuning gains no less than eight of nine methods with every seed, and moves neutral text 2.7 to 36 times less than
    all but prefix tuning, whose factor is hundreds."""
    found, full = against_full(rows, LANGUAGE), {row["seed"]: row["gain"] for row in main_rows(rows, LANGUAGE, "full")}
    not_above = [name for name in found if all(row["gain"] <= full[row["seed"]] for row in main_rows(rows, LANGUAGE, name))]
    assert len(found) == 9 and set(found) - set(not_above) == {"layernorm"}
    factors = sorted(round(each.factor[0], 1) for name, each in found.items() if name != "prefix_tuning")
    assert (factors[0], factors[-1]) == (2.7, 36.2) and found["prefix_tuning"].factor[0] > 300
    assert all(each.factor[1] > 1 for each in found.values()), "every interval of the factor is above 1"
    verdicts = {name: each.verdict for name, each in found.items()}
    assert {name for name, word in verdicts.items() if word == "dominated"} == {
        *("layernorm", "lora", "pfeiffer", "prompt_tuning", "pissa", "prefix_tuning")
    }
    assert set(verdicts.values()) == {"dominated", "cannot tell"}
    assert {each.verdict for each in against_full(rows, "glue/sst2").values()} == {"cannot tell"}, "one of three seeds failed there"


def test_the_pairing_of_seeds_makes_the_error_several_times_smaller(rows: list[dict[str, Any]]) -> None:
    lora, norms = main_rows(rows, LANGUAGE, "lora"), main_rows(rows, LANGUAGE, "layernorm")
    paired, sides = contrast(lora, norms, "gain"), [estimate(group, "gain") for group in (lora, norms)]
    assert paired is not None and sides[0] is not None and sides[1] is not None
    low, high = difference(sides[0], sides[1])[1:]
    assert paired.value == pytest.approx(sides[0].value - sides[1].value)
    assert 0.004 < paired.error < 0.012 and (high - low) / 2 / 1.96 > 5 * paired.error


def test_a_contrast_covers_the_truth_over_seeds_and_items() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(600):
        truth = 0.05
        matrix = truth + 0.03 * random.standard_normal((5, 1)) + 0.3 * random.standard_normal((1, 80)) + random.standard_normal((5, 80))
        found = two_way(matrix)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 600 <= 0.99
    lost = np.zeros((2, 48))
    lost[0, 0] = lost[1, 1] = -1.0  # seeds that agree on the number of lost items, and not on the items
    found = two_way(lost)
    assert found.value == pytest.approx(-1 / 48) and found.error >= math.sqrt(lost.mean(axis=0).var(ddof=1) / 48) > 0.01


def test_pairs_of_items_give_the_error_over_items(tmp_path: Path) -> None:
    """Two methods that are right on the same items but for one, whatever else the items are like."""
    random = np.random.default_rng(1)
    scores = {str(item): float(random.random() < 0.5) for item in range(100)}

    def row(method: str, seed: int, changed: dict[str, float]) -> dict[str, Any]:
        every = scores | changed
        gain = sum(every.values()) / 100
        facts = {"trial": f"{method}-{seed}", "method": method, "seed": seed, "gain": gain, "kl_text": 0.1, "items": 100}
        return {**facts, "gain_low": gain - 0.1, "gain_high": gain + 0.1, "item_scores": every}

    right = next(name for name, score in scores.items() if score)
    one, other = ([row(method, seed, changed) for seed in (0, 1, 2)] for method, changed in (("a", {}), ("b", {right: 0.0})))
    write_rows([*one, *other], tmp_path / "trials.parquet")
    items, stored = read_items(tmp_path / "items.parquet"), read_rows(tmp_path / "trials.parquet")
    assert items["b-1"] == scores | {right: 0.0} and "item_scores" not in stored[0]
    found = contrast([r for r in stored if r["method"] == "a"], [r for r in stored if r["method"] == "b"], "gain", items=items)
    assert found is not None and found.over_items and found.value == pytest.approx(0.01) and found.error == pytest.approx(0.01, rel=0.02)
    same = compare_methods(one, one, items)
    assert same is not None and same.verdict == "no difference" and same.gain.error > 0, "an unseen item may fall out otherwise"
    write_rows([r for r in stored if r["method"] == "a"], tmp_path / "trials.parquet")
    assert read_items(tmp_path / "items.parquet").keys() == items.keys(), "rows read from the file alone keep their items"


def test_methods_are_compared_at_the_same_gain_along_their_runs() -> None:
    """KL = c gain^2: a method that stops earlier on the same curve is no better; with a factor of 1.5, eight seeds mostly tell."""
    random = np.random.default_rng(2)

    def paths(factor: float, final: float, noise: float = 0.2) -> dict[int, list[tuple[float, float]]]:
        gains = [final * share for share in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
        return {seed: [(g, factor * math.exp(noise * random.standard_normal()) * 5 * g**2) for g in gains] for seed in range(8)}

    same = matched_log_kl(paths(1.0, 0.15, 0.01), paths(1.0, 0.30, 0.01))
    assert same is not None and abs(same.value) < 0.1 and verdict_from(p_of_factor(same)) == "no difference"
    words = [verdict_from(p_of_factor(found)) for _ in range(200) if (found := matched_log_kl(paths(1.5, 0.3), paths(1.0, 0.3)))]
    assert len(words) == 200 and words.count("dominated") > 150 and "dominates" not in words
    equal = [verdict_from(p_of_factor(found)) for _ in range(200) if (found := matched_log_kl(paths(1.0, 0.3), paths(1.0, 0.3)))]
    assert sum(word in ("dominates", "dominated") for word in equal) < 20
    tiny = Contrast(1e-6, 1e-9, 3, 4)
    assert verdict_from(p_of_factor(tiny)) == "no difference", "certain, and far too small to matter"
    assert matched_log_kl({0: [(0.1, 0.1), (0.2, 0.2)]}, {0: [(0.1, 0.1), (0.2, 0.2)]}) is None, "one seed has no error"


def test_the_report_tells_what_the_errors_are_over(rows: list[dict[str, Any]]) -> None:
    text = "".join(paired_table(rows))
    assert "Verdicts: cannot tell 12, dominated 6" in text and "The scores of single items are not stored" in text
    assert "| language | lora | -0.6 [-2.1, +0.9] | 2.69x [2.06, 3.52] | dominated |" in text
    assert not list(paired_table([row for row in rows if row["seed"] == 0]))
