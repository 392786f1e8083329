"""The gate on suites that break its assumptions: shared items, many candidates, corpus metrics, chance, losses hidden in one task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.harness.decide.compare import Side, compare
from assay.harness.decide.decision import Decision, gate
from assay.harness.decide.policy import Policy
from assay.harness.decide.shared_items import Shared, groups_of, shared_clusters
from assay.harness.decide.stored_gate import append_gate, candidates_of, now
from assay.harness.decide.verdict import Rule, verdict_of
from assay.harness.errors import AssayError
from assay.harness.stats.difference import Levels, aligned_units, paired_difference
from assay.harness.stats.influence import blocks
from assay.harness.stats.interval import Part
from assay.harness.stats.rule import NAMES
from assay.harness.task.metric import Array, Metric
from assay.harness.task.task import Term, Total
from tests.sim.coverage import MEAN
from tests.sim.hostile import LOOPED, gated, labelled, pair
from tests.sim.many_gates import corpus_joint, corpus_verdicts, draw_shared, shared_verdicts
from tests.sim.sides import facts, flipped, right, side

PASSAGE = "The committee published its full report on the state of the northern fisheries in March."


def decide(one: Side, two: Side, policy: Policy | None = None, candidates: int = 1) -> Decision:
    return gate(compare(one, two, candidates=candidates), policy or Policy())


def protocols(scores: Array, moved: Array, count: int) -> tuple[Side, Side]:
    """The same items under several protocols: the tasks read the same data."""
    data = {f"t{number}": facts(len(scores)) for number in range(count)}
    return side(dict.fromkeys(data, scores), tasks=data), side(dict.fromkeys(data, moved), "v2", tasks=data)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(("losses", "wins"), [(0, 0), (30, 12), (12, 4)])
def test_tasks_of_the_same_items_count_once(count: int, losses: int, wins: int) -> None:
    base = right(2000)
    once = decide(side({"t0": base}), side({"t0": flipped(base, losses, wins)}, "v2"))
    many = decide(*protocols(base, flipped(base, losses, wins), count))
    for name in ("delta", "low", "high"):
        assert getattr(many, name) == pytest.approx(getattr(once, name), abs=1e-3)  # t instead of z
    assert any("share 2,000 items" in note for note in many.notes) and not any("share" in note for note in once.notes)


def test_a_total_of_the_same_items_counts_them_once() -> None:
    base = right(1000)
    total = Total("both", (Term("t0", "acc", 0.5), Term("t1", "acc", 0.5)))
    one, two = (replace(each, totals=(total,)) for each in protocols(base, flipped(base, 30, 20), 2))
    rows = {row.task: row.difference for row in compare(one, two).rows}
    assert rows["both"].low == pytest.approx(rows["t0"].low, abs=1e-4) and rows["both"].units == 1000


def test_shared_items_are_found_by_data_and_by_their_text() -> None:
    alone = {"a": {"data": "a", "split": "test"}, "b": {"data": "b", "split": "test"}, "c": {"data": "c", "split": "test"}}
    texts = [f"{PASSAGE} Page {number}." for number in range(3)] + [f"Topic {n}: {PASSAGE.lower()[:-9]} {n} {n} days" for n in range(9)]
    items = {
        "a": [(f"a{n}", f"Question: {text}\nTrue or False?") for n, text in enumerate(texts)],
        "b": [(f"b{n}", f"premise: {text}\nhypothesis: it was {n}") for n, text in enumerate(reversed(texts))],
        "c": [(f"c{n}", f"{n} + 1 =") for n in range(12)],
    }
    found = shared_clusters(items, alone)
    assert groups_of(found) == (("a", "b"),) and all(found["a"][f"a{n}"] == found["b"][f"b{11 - n}"] for n in range(3, 12))
    same = {**alone, "c": alone["a"]}
    assert groups_of(shared_clusters({"a": [("0", "")], "c": [("0", "")]}, same)) == (("a", "c"),)
    assert shared_clusters({"a": [("0", "")], "b": [("0", "")]}, alone) == {}


def test_a_passage_of_the_template_links_nothing() -> None:
    items = {task: [(f"{n}", f"{PASSAGE}\n{task}{n}?") for n in range(20)] for task in "ab"}
    assert shared_clusters(items, {"a": {"data": 1}, "b": {"data": 2}}) == {}


def test_one_of_many_candidates_must_exclude_the_loss_at_its_share_of_alpha() -> None:
    base = right(2000)
    one, two = side({"a": base}), side({"a": flipped(base, 18, 14)}, "v2")
    alone, chosen = decide(one, two), decide(one, two, candidates=30)
    assert (alone.verdict, chosen.verdict) == ("pass", "inconclusive")
    assert chosen.low == alone.low and chosen.pass_low is not None and chosen.low is not None and chosen.pass_low < chosen.low
    assert chosen.needed_unchanged is not None and chosen.needed_unchanged > 2000


def recorded(verdict: str, digest: str, attempt: int = 1) -> dict[str, object]:
    sides = {"candidate": {"run": "r", "model": "m", "digest": digest}, "baseline": {"run": "b", "model": "m", "digest": "digest-v1"}}
    return {"key": "k", "at": now(), "verdict": verdict, "attempt": attempt, **sides}


def test_candidates_are_counted_until_one_passes(tmp_path: Path) -> None:
    base, new = side({"a": right(10)}), side({"a": right(10)}, "v2")

    def counted(series: int | None = None) -> int:
        return candidates_of(tmp_path, base, new, ("a",), series)

    assert (counted(), counted(0), counted(8)) == (1, 2, 8)
    for number in range(3):
        append_gate(tmp_path, recorded("inconclusive", f"other{number}"))
        append_gate(tmp_path, recorded("inconclusive", f"other{number}", 2))  # the same model again is no new candidate
    append_gate(tmp_path, recorded("inconclusive", new.digest))
    assert (counted(), counted(8), counted(3)) == (20, 8, 20)
    append_gate(tmp_path, recorded("pass", "other1"))
    assert (counted(), counted(0)) == (1, 2)


def labels(n: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    gold = rng.random(n) < 0.4
    return np.stack([gold, np.where(rng.random(n) < 0.8, gold, ~gold)], axis=1).astype(float)


def test_a_corpus_metric_passes_with_as_many_items_as_any_other() -> None:
    few, many = labels(250), labels(1000)
    assert decide(side({"a": few}, metric=LOOPED), side({"a": few}, "v2", metric=LOOPED)).verdict == "inconclusive"
    found = decide(side({"a": many}, metric=LOOPED), side({"a": many}, "v2", metric=LOOPED))
    assert found.verdict == "pass" and found.tasks[0].row.difference.units == 1000


def test_a_baseline_at_chance_is_no_evidence_for_a_pass() -> None:
    guess, good = right(1000, 0.48), right(3000)
    known = {("guess", "acc"): {"chance": 0.5, "majority": 0.53}, ("good", "acc"): {"chance": 0.25}}
    one, two = side({"guess": guess, "good": good}), side({"guess": right(1000, 0.53, 7), "good": good}, "v2", baselines=known)
    found = decide(one, two)
    assert found.verdict == "pass" and found.no_signal == ("guess",) and "guess" in found.not_shown
    reason = next(reason for reason in found.reasons if "no signal" in reason)
    assert "chance 50.0" in reason and "always the most frequent answer 53.0" in reason
    assert decide(one, two, Policy(signal_tasks=2)).verdict == "inconclusive"
    only = decide(side({"guess": guess}), side({"guess": guess}, "v2", baselines=known))
    assert only.verdict == "inconclusive" and "the baseline is better than chance on no task" in only.reasons
    assert decide(side({"guess": guess}), side({"guess": guess}, "v2", baselines=known), Policy(signal_tasks=0)).verdict == "pass"
    hidden = flipped(good, 45)  # a gain of a guess does not pay for a loss
    assert decide(one, side({"guess": right(1000, 0.6, 7), "good": hidden}, "v2", baselines=known)).verdict != "pass"


def test_a_pass_names_the_tasks_that_it_does_not_show() -> None:
    tasks = {f"t{n}": right(400, seed=n) for n in range(10)}
    moved = {**tasks, "t3": flipped(tasks["t3"], 14, 5)}
    found = decide(side(tasks), side(moved, "v2"))
    assert found.verdict == "pass" and "t3" in found.not_shown and "t4" not in found.not_shown
    assert any("t3 (up to " in reason for reason in found.reasons)
    assert decide(side(tasks), side(moved, "v2"), Policy(every_task=True)).verdict == "inconclusive"
    assert decide(side(tasks), side(tasks, "v2"), Policy(every_task=True)).verdict == "pass"


def test_the_number_of_items_asked_for_passes_an_unchanged_model() -> None:
    rng, passed, asked, trials = np.random.default_rng(5), 0, [], 40
    while len(asked) < trials:
        base, new = pair(rng, 400, 0.1, 0.0)
        found = decide(side({"a": base}), side({"a": new}, "v2"), Policy(margin=2.0))
        if found.needed_unchanged is None:
            continue
        asked.append(found.needed_unchanged)
        base, new = pair(rng, asked[-1], 0.1, 0.0)
        part = Part(MEAN, base[:, None], np.arange(len(base)), np.arange(len(base)))
        passed += paired_difference(part, new[:, None], levels=Levels()).low > -0.02
    assert max(asked) < 2.5 * min(asked) and passed >= trials * 0.65


def test_recovery_is_a_share_of_the_baselines_score() -> None:
    base = np.repeat([1.0, 0.0], [1600, 400])
    one, two = side({"a": base}), side({"a": flipped(base, 12, 8)}, "v2")
    found = decide(one, two, Policy(recovery=0.98))
    assert found.verdict == "pass" and found.margin == pytest.approx(1.6)
    assert (
        found.recovered is not None
        and found.recovered[0] == pytest.approx(1 - 0.002 / 0.8)
        and 0.98 < found.recovered[1] < found.recovered[0]
    )
    assert decide(one, two, Policy(recovery=0.995)).verdict == "inconclusive"
    assert decide(one, side({"a": flipped(base, 100)}, "v2"), Policy(recovery=0.98)).verdict == "regressed"
    lower = Metric("error", lambda doc, out: (0.0,), better="lower")
    with pytest.raises(AssayError, match="lower is better"):
        decide(side({"a": base}, metric=lower), side({"a": base}, "v2", metric=lower), Policy(recovery=0.98))


def suite_of(common: Array, own: Array) -> dict[str, tuple[Array, Array]]:
    """Correctness of both runs from counts of wins, losses and ties: the shared items [3] first, then each task's own [m, 3]."""

    def sides(counts: Array) -> Array:
        wins, losses, ties = (int(count) for count in counts)
        return np.repeat([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [wins, losses, ties], axis=0).T

    found = [np.concatenate([sides(common), sides(each)], axis=1) for each in own]
    return {f"t{task}": (one, two) for task, (one, two) in enumerate(found)}


@pytest.mark.parametrize(("count", "same"), [(2, 1.0), (2, 0.5), (3, 0.8)])
def test_the_simulation_of_shared_items_decides_like_the_gate(count: int, same: float) -> None:
    suite = draw_shared(np.random.default_rng(count), 12, count, same, -0.005, n=400)
    found = [NAMES[code] for code in shared_verdicts(suite, margin=0.02)]
    for common, own, verdict in zip(suite.common, suite.own, found, strict=True):
        pairs = suite_of(common, own)
        shared = int(common.sum())
        codes = {task: np.arange(400) + (np.arange(400) >= shared) * 400 * (at + 1) for at, task in enumerate(pairs)}
        parts = [(Part(MEAN, one[:, None], codes[task], codes[task]), two[:, None]) for task, (one, two) in pairs.items()]
        rule = Rule(Policy(margin=2.0), shared=(Shared(tuple(pairs), aligned_units(parts), shared),))
        assert verdict_of(gated(pairs, rule), rule) == verdict
    assert len(set(found)) > 1


def test_the_simulation_of_a_corpus_metric_decides_like_the_gate() -> None:
    rng, rule = np.random.default_rng(5), Rule(Policy(margin=2.0))
    pairs = [labelled(rng, 400, 0.1, 0.01) for _ in range(12)]
    one, two = (np.stack([each[at] for each in pairs]) > 0.5 for at in (0, 1))
    joint = corpus_joint(one[..., 0], (one[..., 1], two[..., 1]), blocks(np.arange(400)))
    found = [NAMES[code] for code in corpus_verdicts(joint, 0.02)]
    assert found == [verdict_of(gated({"a": each}, rule, LOOPED), rule) for each in pairs] and len(set(found)) > 1
