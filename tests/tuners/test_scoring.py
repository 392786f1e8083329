"""The measurements of a trial: sign and interval of any metric, format versus knowledge, and parity with the trained model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import Access, AssayError, Choose, Completion, Doc, Generate, Layout, Metric, ModelRef, Perplexity, Task, accuracy, inline
from assay.harness.files.places import Surroundings
from assay.harness.metrics.choice import f1, mcc
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
from assay.harness.metrics.text import bleu, final_number, ter
from assay.harness.model.find import find_model
from assay.harness.stats.difference import Levels
from assay.harness.stats.difference import paired_difference as of_harness
from assay.harness.stats.interval import Part
from assay.harness.store.read import read_run
from assay.harness.store.tables import StatTable
from assay.tuners import toy
from assay.tuners.study import forgetting
from assay.tuners.study.design import Study, choose_rates
from assay.tuners.study.prepare import base_scores, find_few_shot_tasks
from assay.tuners.study.run_trial import engine_parity
from assay.tuners.study.scoring import EngineLogprobs, PipelineScorer, Score, difference, drops_row, invalid_share, recovered, score_of
from assay.tuners.study.study import run_study
from assay.tuners.study.trial import Row, open_base
from assay.tuners.training.data import read_docs

IDS = tuple(str(number) for number in range(60))
DRAW = np.random.default_rng(0)


def scored(metric: Metric[Any], stats: Any, **made: Any) -> Score:
    """A score as a finished run gives it."""
    whole = np.asarray(stats, dtype=np.float64).reshape(len(IDS), -1)
    value = metric.combine(whole, np.arange(len(IDS)))
    return score_of("t", metric, StatTable(IDS, IDS, IDS, whole), {"value": value, "chance": made.pop("chance", 0.0)}, made)


def outputs(metric: Metric[Any], response: Callable[[int], Any], doc: Callable[[int], Doc]) -> list[tuple[float, ...]]:
    return [metric.measure(doc(number), response(number)) for number in range(len(IDS))]


NATS, TOKENS = DRAW.uniform(8, 12, len(IDS)), DRAW.integers(4, 9, len(IDS))


@pytest.mark.parametrize("metric", [bits_per_byte, perplexity, ter()], ids=lambda metric: metric.name)
def test_for_metrics_where_lower_is_better_a_fall_is_a_gain_and_a_rise_is_a_drop(metric: Metric[Any]) -> None:
    base, worse, better = (scored(metric, np.stack([factor * NATS, TOKENS], axis=1)) for factor in (1.0, 1.3, 0.8))
    assert worse.value < base.value < better.value < 0
    lost, won = difference(base, worse, metric), difference(base, better, metric)
    assert lost.low < lost.value < lost.high < 0 < won.low < won.value < won.high
    assert won.value == pytest.approx(better.value - base.value) and lost.p_drop < 0.01 < 0.99 < won.p_drop
    found = drops_row({"t": base}, {"t": worse}, lambda score: metric)
    assert found["average_drop"] == pytest.approx(-lost.value) and found["worst_drop"] > 0 and found["significant_drops"] == 1
    assert found["not_measurable"] == [] and found["retention"] == {}, "chance is not known"
    assert json.dumps(found)


def cells(right: Callable[[int], bool]) -> Any:
    """MCC's or F1's statistics: gold is the number's parity, and the pick is right or not."""
    rows = np.zeros((len(IDS), 4))
    for number in range(len(IDS)):
        gold = number % 2
        rows[number, 2 * gold + (gold if right(number) else 1 - gold)] = 1
    return rows


@pytest.mark.parametrize("metric", [mcc(), f1], ids=lambda metric: metric.name)
def test_a_correlation_uses_the_harness_interval_and_error(metric: Metric[Any]) -> None:
    rows = {share: cells(lambda number, share=share: number % 10 < 10 * share) for share in (0.5, 0.8, 1.0)}
    half, most, whole = (scored(metric, rows[share]) for share in (0.5, 0.8, 1.0))
    found = difference(most, whole, metric)
    expected = of_harness(Part(metric, rows[0.8], np.arange(len(IDS)), np.arange(len(IDS))), rows[1.0], levels=Levels(0.025))
    assert (found.value, found.low, found.high, found.p_drop) == (expected.delta, expected.low, expected.high, expected.p_loss)
    assert found.value == pytest.approx(whole.value - most.value)
    items = {item: float(int(item) % 10 < 8) for item in IDS}
    assert scored(metric, rows[0.8]).error > 0.04 and most.error != Score("t", "m", 0.8, 0.5, items, {i: i for i in IDS}).error
    if metric.name == "mcc":
        assert drops_row({"t": half}, {"t": whole}, lambda score: metric)["not_measurable"] == ["t"], "as good as chance"
    assert drops_row({"t": most}, {"t": half}, lambda score: metric)["average_drop"] > 0


def test_bleu_is_scaled_by_its_unit_and_can_be_unmeasurable() -> None:
    metric = bleu()

    def run(length: int) -> list[tuple[float, ...]]:
        """Texts of which only the first words are right; at length 0 nothing is."""
        whole = [f"w{number}" for number in range(8)]
        text = " ".join(whole[:length] + ["x"] * (8 - length))
        return outputs(
            metric, lambda number: Completion(text if number % 6 else "x y z"), lambda number: Doc("p", references=(" ".join(whole),))
        )

    none, some, more = (scored(metric, run(length)) for length in (0, 5, 8))
    assert 0 < some.value < more.value <= 1 and more.unit == 100
    assert difference(some, more, metric).low > 0 and difference(some, more, metric).high < 1
    assert drops_row({"t": none}, {"t": none}, lambda score: metric)["not_measurable"] == ["t"]
    assert drops_row({"t": some}, {"t": none}, lambda score: metric)["average_drop"] == pytest.approx(some.value - none.value, abs=1e-6)


def test_means_of_items_are_what_they_were_and_old_files_load() -> None:
    """The base's scores as published studies hold them, and the numbers that they had."""
    first, second = ((DRAW.random(len(IDS)) < share).astype(float) for share in (0.8, 0.5))
    after = scored(accuracy, second, chance=0.25)
    old = {"task": "t", "metric": "accuracy", "value": float(first.mean()), "chance": 0.25, "run": "r"}
    before = Score(**json.loads(json.dumps(old | {"items": dict(zip(IDS, first, strict=True)), "clusters": {i: i for i in IDS}})))
    assert before == Score(**json.loads(json.dumps(scored(accuracy, first, chance=0.25, run="r").as_json())))
    assert after.items == dict(zip(IDS, second, strict=True)) and after.value == second.mean() and after.chance == 0.25
    assert after.error == float(np.std(second, ddof=1) / math.sqrt(len(IDS)))
    assert difference(before, after) == difference(before, after, accuracy) == forgetting.paired_difference(first, second, IDS)


def test_scores_that_cannot_be_paired_are_refused() -> None:
    rows = cells(lambda number: number % 3 > 0)
    whole = scored(mcc(), rows)
    old = Score("t", "mcc", whole.value, 0.0, dict.fromkeys(IDS, 1.0), {i: i for i in IDS})
    with pytest.raises(AssayError, match="another form") as caught:
        difference(old, whole, mcc())
    assert "base.json" in str(caught.value)
    surprise = scored(perplexity, np.stack([NATS, TOKENS], axis=1))
    with pytest.raises(AssayError, match="another form"):
        difference(replace(surprise, unit=1.0), surprise, perplexity)
    with pytest.raises(AssayError, match="is not a mean of items"):
        difference(whole, whole)
    fewer = replace(whole, clusters={i: i for i in IDS[1:]})
    with pytest.raises(AssayError, match="not the base's"):
        difference(whole, fewer, mcc())


def test_a_diverged_run_is_never_the_best_where_scores_are_below_zero() -> None:
    rows = [{"role": "grid", "target": "t", "method": "m", "lr": lr, "validation_score": score} for lr, score in ((1.0, -2.0), (3.0, -1.0))]
    assert choose_rates([*rows, {"role": "grid", "target": "t", "method": "m", "lr": 9.0}]) == {("t", "m"): 3.0}


def test_the_drop_that_few_shot_examples_recover() -> None:
    plain = {"drops": {"a": 0.4, "b": 0.2}, "average_drop": 0.3, "not_measurable": ["c"]}
    found = recovered(plain, {"drops": {"a": 0.1, "b": 0.1, "c": 0.7}, "not_measurable": []})
    assert found["average_drop_shots"] == pytest.approx(0.1) and found["recovered_drop"] == pytest.approx(0.3 - 0.1)
    only = recovered(plain, {"drops": {"a": 0.1}, "not_measurable": ["b", "c"]})
    assert only["recovered_drop"] == pytest.approx(0.4 - 0.1) and only["not_measurable_shots"] == ["b", "c"]
    assert "recovered_drop" not in recovered({"not_measurable": ["a"]}, {"not_measurable": ["a"]})


LINES = [{"id": str(number), "prompt": f"add {number % 10} {number // 10} =", "gold": number % 2} for number in range(48)]


def make_task(name: str, doc: Callable[[Any], Doc], ask: Any, metric: Metric[Any]) -> Task:
    return Task(f"own/{name}", inline(train=LINES[:24], test=LINES[24:]), doc, ask, (metric,), split="test", layout=Layout())


def choice(row: Any) -> Doc:
    return Doc(row["prompt"], choices=("0", "1"), gold=row["gold"], id=row["id"])


CORRELATED = make_task("mcc", choice, Choose(), mcc())
SURPRISING = make_task("text", lambda row: Doc(row["prompt"], references=("w1 w2 w3",), id=row["id"]), Perplexity(), bits_per_byte)
SPOKEN = make_task("spoken", lambda row: Doc(row["prompt"], references=("1",), id=row["id"]), Generate(2), final_number)
UNSHOWN = replace(CORRELATED, name="own/unshown", rows=inline(test=LINES[24:]))
"""Without rows to show."""
TASKS = {"mcc": CORRELATED, "text": SURPRISING, "spoken": SPOKEN, "unshown": UNSHOWN}


OWN = Study(
    "own", ("assay.tuners.toy:MAX",), tuple(f"{__name__}:{task}" for task in ("CORRELATED", "SURPRISING", "SPOKEN", "UNSHOWN")),
    ("lora", "full"), 48, rates=(10.0,), seeds=(0,), mitigations=("wise_ft=0.5",), shots=(), controls=False, limit=40, probes=8,
    examples=64, held=16, retain_shots=2, options={"lora": {"rank": 2}},
)  # fmt: skip


@pytest.fixture(scope="module")
def base(toy_folder: Path) -> ModelRef:
    return find_model(str(toy_folder), cache=toy_folder, offline=True)


@pytest.fixture(scope="module")
def rows(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    """A study through the same pipeline as `assay run`: retention tasks with a correlation, a likelihood and responses; 0 and 2 shots."""
    folder = tmp_path_factory.mktemp("study")
    place = Surroundings(folder / "results", folder / "cache", None, True)
    return run_study(OWN, base, place.access(), PipelineScorer(place, limit=OWN.limit), folder / "study"), folder


def only(rows: list[Row], method: str, mitigation: str = "none") -> Row:
    return next(row for row in rows if (row["method"], row["mitigation"]) == (method, mitigation))


def test_every_number_of_a_row_is_traced_to_its_run(rows: tuple[list[Row], Path]) -> None:
    """The drops are those of the stored runs, in their own sign and unit, with and without examples in the prompt."""
    found, folder = rows
    stored = json.loads((folder / "study" / "base.json").read_text())
    assert set(stored) == {"toy/max"} | {f"{shots}own/{name}" for shots in ("", "2-shot ") for name in TASKS} - {"2-shot own/unshown"}
    for method in ("lora", "full"):
        row = only(found, method)
        for shots, run, drops in (("", "retain_run_id", "drops"), ("2-shot ", "retain_shots_run_id", "drops_shots")):
            bundle = read_run(folder / "results" / "runs" / row[run])
            values = {result["task"]: result["value"] for result in bundle.summary()["results"]}
            assert (
                all(facts["shots"] == (2 if shots else 0) for facts in bundle.manifest["tasks"])
                and bundle.manifest["plan"]["dtype"] == "float32"
            )
            assert row[drops]["own/text"] == pytest.approx(values["own/text"] - -stored[f"{shots}own/text"]["value"], abs=1e-9)
            assert (row[drops]["own/text"] > 0) == (values["own/text"] > -stored[f"{shots}own/text"]["value"])
        assert "validation_run_id" not in row, "with one learning rate nothing is scored to choose it"
        assert row["recovered_drop"] == pytest.approx(row["average_drop"] - row["average_drop_shots"])
        assert set(row["not_measurable"]) == {"own/mcc", "own/spoken", "own/unshown"}, "an untrained model is at chance on both"
        assert row["retention_invalid_output_rates"].keys() == {"own/spoken"} and row["metric"] == "accuracy"


def test_what_is_served_is_what_was_trained(rows: tuple[list[Row], Path], base: ModelRef) -> None:
    found = rows[0]
    assert {only(found, method)["served"] for method in ("lora", "full")} == {"adapter", "own model"}
    assert all(only(found, method)["engine_parity"] < 1e-4 for method in ("lora", "full"))
    assert all("engine_parity" not in only(found, method, "wise_ft=0.5") for method in ("lora", "full"))


def test_an_engine_that_serves_another_model_is_seen(rows: tuple[list[Row], Path], base: ModelRef) -> None:
    from types import SimpleNamespace

    from assay.harness.run.stages import open_tokenizer

    setup: Any = SimpleNamespace(tokenizer=open_tokenizer(base.path))
    found, folder = rows
    place = Surroundings(folder / "results", folder / "cache", None, True)
    (score,) = PipelineScorer(place, limit=8)(base.path, None, ("assay.tuners.toy:MAX",)).values()
    assert len(score.engine_logprobs) == 4 and score.engine_logprobs[1].continuation.strip() == toy.DIGITS[1]
    assert engine_parity(setup, open_base(base.path), score.engine_logprobs) < 1e-4
    tuned = open_base(folder / "study" / "trials" / only(found, "full")["trial"] / "result")
    assert engine_parity(setup, tuned, score.engine_logprobs) > 1e-3
    assert engine_parity(setup, tuned, [EngineLogprobs("max 1 2 3 =", " 1 2", (0.0,))]) is None, "not the same tokens"


def test_few_shot_seeds_are_scored_on_the_same_items(rows: tuple[list[Row], Path], base: ModelRef) -> None:
    place = Surroundings(rows[1] / "results", rows[1] / "cache", None, True)
    scorer, tasks = PipelineScorer(place, limit=8), ("assay.tuners.toy:MAX",)
    shown = [next(iter(scorer(base.path, None, tasks, shots=1, seed=seed).values())) for seed in (0, 1)]
    assert shown[0].clusters == shown[1].clusters and len(shown[0].clusters) == 8


def test_an_interpolated_trial_takes_what_was_trained_and_equals_training_anew(
    rows: tuple[list[Row], Path], base: ModelRef, tmp_path: Path
) -> None:
    """Without the folder of the plain trial there is nothing to take, and the numbers are the same."""
    found, folder = rows
    alone = tmp_path / "study"
    alone.mkdir()
    for name in ("study.json", "base.json"):
        (alone / name).write_bytes((folder / "study" / name).read_bytes())
    kept = [row for row in found if row["mitigation"] == "none"]
    for row in kept:
        path = alone / "trials" / row["trial"] / "row.json"
        path.parent.mkdir(parents=True)
        path.write_bytes((folder / "study" / "trials" / row["trial"] / "row.json").read_bytes())
    place = Surroundings(tmp_path / "results", folder / "cache", None, True)
    again = run_study(OWN, base, place.access(), PipelineScorer(place, limit=OWN.limit), alone)
    free = ("seconds", "train_seconds", "tokens_per_second", "peak_memory", "trained_in", "run_id", "retain_run_id", "retain_shots_run_id")
    for method in ("lora", "full"):
        taken, anew = only(found, method, "wise_ft=0.5"), only(again, method, "wise_ft=0.5")
        assert taken["trained_in"] == only(found, method)["trial"] and "trained_in" not in anew
        assert taken["train_seconds"] == only(found, method)["train_seconds"] and taken["kl_target"] < only(found, method)["kl_target"]
        differ = {name for name in taken.keys() | anew.keys() if taken.get(name) != anew.get(name)}
        assert differ <= set(free), differ


def test_outputs_without_an_answer_are_counted() -> None:
    from types import SimpleNamespace

    def record(text: str, status: str = "scored") -> Any:
        return None, SimpleNamespace(status=status, output={"text": text})

    said = [record("7"), record(" "), record("none", "unparsed"), record("8", "truncated")]
    assert invalid_share(SPOKEN, said) == 0.5 and invalid_share(CORRELATED, said) is None


def test_a_base_without_examples_needs_no_further_runs(base: ModelRef, tmp_path: Path) -> None:
    calls: list[int] = []
    tasks = {name: replace(toy.MAX, name=name) for name in ("a", "b", "c")}
    full = {name: task.full_name for name, task in tasks.items()}

    def scorer(model: Path, adapter: Path | None, names: tuple[str, ...], *, shots: int = 0, **rest: Any) -> dict[str, Score]:
        calls.append(shots)
        return {full[name]: scored(accuracy, np.ones(len(IDS))) for name in names}

    study = Study("s", ("a",), ("b",), ("lora",), 8)
    assert set(base_scores(study, tasks, base, scorer, tmp_path / "plain")) == {full["a"], full["b"]} and calls == [0, 0]
    found = base_scores(replace(study, retain_shots=3), tasks, base, scorer, tmp_path / "shown", ("b",))
    assert set(found) == {full["a"], full["b"], f"3-shot {full['b']}"} and calls[2:] == [0, 0, 3]
    grown = base_scores(replace(study, targets=("a", "c")), tasks, base, scorer, tmp_path / "plain")
    assert set(grown) == set(full.values()) and calls[5:] == [0], "only the new target is scored"


def test_tasks_without_rows_to_show_are_not_asked_with_examples() -> None:
    access = Access(None, False, True)
    tasks = {name: task for name, task in TASKS.items() if name in ("mcc", "unshown")}
    scored_docs = [(task, read_docs(task, "test", access)) for task in tasks.values()]
    study = replace(OWN, retain=tuple(tasks))
    assert find_few_shot_tasks(study, tasks, scored_docs, access) == ("mcc",)
    assert find_few_shot_tasks(replace(study, retain_shots=0), tasks, scored_docs, access) == ()
    for refused in (replace(study, retain=("unshown",)), replace(study, retain_shots=25)):
        with pytest.raises(AssayError, match="no retention task has rows"):
            find_few_shot_tasks(refused, tasks, scored_docs, access)
