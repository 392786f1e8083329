"""Queries, paired comparisons, exports, safe text and studies."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_store import HOSTILE, Made, make_run

from assay import accuracy
from assay.harness.decide.compare import Side, compare
from assay.harness.store import index, read_run
from assay.leaderboard.charts.matrix import html
from assay.leaderboard.data import bundles, paired, queries, studies
from assay.leaderboard.data.assembly import Filters, assemble, with_columns
from assay.leaderboard.data.difficulty import discrimination, kinds
from assay.leaderboard.data.formats import duration
from assay.leaderboard.data.frames import DataFrame
from assay.leaderboard.data.matrix import Cell, Head, Matrix, Row
from assay.leaderboard.data.ranking import pareto_front
from assay.leaderboard.data.safe_text import family, labels, plain, visible
from assay.leaderboard.data.words import shared_start, word_difference
from assay.leaderboard.documents import export


def side(path: Path) -> Side:
    run = read_run(path)
    tables = run.stats()
    model = run.manifest["model"]
    tasks = {task["name"]: task for task in run.manifest["tasks"]}
    return Side(run.id, model["name"], model["digest"], "release", "complete", tasks, tables, dict.fromkeys(tables, accuracy))


def test_malformed_gate_lines_are_skipped(store: Path, tmp_path: Path) -> None:
    whole = (store / "gates.jsonl").read_bytes().split(b"\n")[0]
    odd = [
        b"7",
        b"{}",
        b"[" * 100_000,
        whole.replace(b'"delta": ', b'"delta": ' + b"9" * 400 + b', "was": '),
        whole.replace(b'"attempt": 1', b'"attempt": 1e999'),
    ]
    assert whole not in odd
    (tmp_path / "gates.jsonl").write_bytes(b"".join(line + b"\n" for line in [*odd, whole]))
    assert len(bundles.gates(tmp_path)) == 1
    (tmp_path / "gates.jsonl").unlink()
    os.mkfifo(tmp_path / "gates.jsonl")
    assert len(bundles.gates(tmp_path)) == 0


def bundles_of(store: Path, *models: str) -> list[dict[str, str]]:
    """The side of a whole run for each model."""
    runs = queries.cells(store).drop_duplicates("model").set_index("model").run_id
    return [{"": f"runs/{runs[name]}"} for name in models]


def test_comparisons_agree_with_assay_compare(store: Path) -> None:
    sides = bundles_of(store, "acme/Otter-7B", "beta/Heron-3B")
    own = paired.pairing(store, *sides)
    gate = compare(*(side(store / each[""]) for each in sides))
    assert [(row.task, row.difference, row.gained, row.lost) for row in own.rows] == [
        (row.task, row.difference, row.gained, row.lost) for row in gate.rows
    ]
    assert [row.p_holm for row in own.rows] == pytest.approx([row.p_holm for row in gate.rows])
    assert own.decision is not None and own.decision.verdict in ("pass", "inconclusive", "regressed")


def test_a_model_is_compared_on_the_runs_of_its_scores(store: Path) -> None:
    """One task from each of two runs gives the same differences as both runs as a whole."""
    first, second = bundles_of(store, "acme/Otter-7B", "beta/Heron-3B")
    whole = paired.pairing(store, first, second)
    parts = {"letters/first@own": first[""], "numbers/add@own": first[""]}
    found = paired.pairing(store, parts, second)
    assert {row.task: row.difference for row in found.rows} == {row.task: row.difference for row in whole.rows if row.task in parts}


def test_runs_on_other_items_are_blocked_with_the_reason(store: Path) -> None:
    (one,) = bundles_of(store, "acme/Otter-7B")
    (other,) = bundles_of(store, "beta/Old-3B")
    found = paired.pairing(store, one, other)
    assert found.comparison is None and found.decision is None
    assert list(found.blocked) == ["numbers/add@own"]
    assert "fingerprint" in found.blocked["numbers/add@own"] or "prompts" in found.blocked["numbers/add@own"]


def test_a_score_that_is_no_mean_is_not_compared_without_its_task(store: Path, tmp_path: Path) -> None:
    run = read_run(store / bundles_of(store, "acme/Otter-7B")[0][""])
    side = paired.stored_side(run)
    assert set(side.metrics) == set(run.stats())
    results = [each | {"value": each["value"] / 2} for each in run.summary()["results"]]

    class Changed:
        id, manifest, status = run.id, run.manifest, run.status

        def stats(self) -> object:
            return run.stats()

        def summary(self) -> dict[str, object]:
            return {**run.summary(), "results": results}

    assert not paired.stored_side(Changed()).metrics  # type: ignore[arg-type]


def test_a_difference_has_a_direction_only_if_it_is_significant(store: Path) -> None:
    rows = paired.pairing(store, *bundles_of(store, "acme/Otter-7B", "beta/Wren-300M")).rows
    worst = min(rows, key=lambda row: row.p_holm or 0.0)
    assert paired.direction(worst) == "worse"
    assert paired.direction(replace(worst, p_holm=0.06)) == paired.direction(replace(worst, p_holm=None)) == "not significant"


def test_durations_have_units() -> None:
    assert [duration(each) for each in (42.0, 90.0, 91.0, 5400.0, 7560.0, None)] == ["42 s", "90 s", "1.5 min", "90.0 min", "2.1 h", "–"]


def test_words_that_differ_are_marked_and_texts_are_kept() -> None:
    left, right = word_difference("The answer is 12.", "The answer is 13.")
    assert "".join(text for _, text in left) == "The answer is 12." and "".join(text for _, text in right) == "The answer is 13."
    assert ("removed", "12") in left and ("same", "The answer is ") in right
    assert word_difference("a", "a") == ([("same", "a")], [("same", "a")])
    assert word_difference("", "b c") == ([], [("added", "b c")])


def test_the_shared_start_of_prompts_ends_at_a_blank_line() -> None:
    shots = "Answer each question.\n\nQ: 1 + 1?\nA: 2\n\n"
    prompts = [f"{shots}Q: {number} + 3?\nA:" for number in (2, 4, 5)]
    assert prompts[0][: shared_start(prompts[0], prompts[1:])] == shots
    assert shared_start("Q: 2?", ["Q: 3?"]) == shared_start("Q: 2?", []) == 0


def test_items_can_be_filtered_by_how_many_models_are_right(store: Path) -> None:
    counts = {each: queries.item_page(store, queries.ItemFilter(agreement=each))[0] for each in ("all", "some", "none")}
    assert sum(counts.values()) == queries.item_page(store, queries.ItemFilter())[0] and counts["some"]
    _, rows = queries.item_page(store, queries.ItemFilter(agreement="none", task="numbers/add@own"))
    assert not rows.correct.any()


def test_search_text_never_becomes_sql(store: Path) -> None:
    everything, _ = queries.item_page(store, queries.ItemFilter())
    assert queries.item_page(store, queries.ItemFilter(text="'; DROP TABLE run; --"))[0] == 190  # the hostile model's responses
    assert queries.item_page(store, queries.ItemFilter(task="' OR '1'='1"))[0] == 0
    assert queries.item_page(store, queries.ItemFilter(text="%"))[0] == 0
    assert queries.item_page(store, queries.ItemFilter())[0] == everything
    right, wrong = (queries.item_page(store, queries.ItemFilter(outcome=each))[0] for each in ("right", "wrong"))
    assert right + wrong == everything
    assert len(queries.item_page(store, queries.ItemFilter(), page=2)[1]) == queries.PAGE


def test_the_board_changes_when_a_run_is_indexed(tmp_path: Path) -> None:
    make_run(tmp_path, Made("a/one", 0.7, {"t": 30}))
    index(tmp_path)
    before = queries.stamp(tmp_path)
    assert len(with_columns(queries.cells(tmp_path)).label.unique()) == 1
    make_run(tmp_path, Made("a/two", 0.5, {"t": 30}))
    assert queries.stamp(tmp_path) == before
    index(tmp_path)
    assert queries.stamp(tmp_path) != before
    board = assemble(tmp_path, with_columns(queries.cells(tmp_path)), Filters(), "chance-normalised mean")
    assert board.ranked == 2


def test_an_open_reader_does_not_block_a_writer(tmp_path: Path) -> None:
    from assay.harness.store import connect

    make_run(tmp_path, Made("a/one", 0.7, {"t": 10}))
    index(tmp_path)
    reader = connect(tmp_path)
    try:
        make_run(tmp_path, Made("a/two", 0.5, {"t": 10}))
        assert len(index(tmp_path).indexed) == 1
        assert reader.execute("SELECT count(*) FROM runs").fetchone()[0] == 1  # the index as it was when opened
    finally:
        reader.close()
    assert len(queries.runs(tmp_path)) == 2


def test_progress_of_a_half_written_run(tmp_path: Path) -> None:
    from assay.harness.store import list_runs

    make_run(tmp_path, Made("a/one", 0.7, {"t": 10}), finish=False, part=0.3)
    (run,) = list_runs(tmp_path)
    assert (run.status, bundles.progress(run)) == ("running", 3)


def test_item_record_comes_from_the_bundle(store: Path) -> None:
    run = queries.cells(store).run_id.iloc[-1]
    found = bundles.item_record(store / "runs" / run, "letters/first@own", "i0002")
    assert found is not None
    assert found.choices == ("ant", "bee", "cat", "dog")
    assert found.key == "k2"
    assert bundles.item_record(store / "runs" / run, "letters/first@own", "none") is None


def test_exports_hold_no_formula_and_no_markup() -> None:
    table = DataFrame({"model": ["=1+1", "@cmd", "a|b*c", "x_y & 50 %"], "score": [-1.5, math.nan, 2.0, 3.0]})
    rows = list(csv.reader(io.StringIO(export.to_csv(table).decode())))
    assert rows[1] == ["'=1+1", "-1.5"]
    assert rows[2] == ["'@cmd", ""]
    assert "a\\|b\\*c" in export.to_markdown(table).decode()
    assert "x\\_y \\& 50 \\%" in export.to_latex(table).decode()
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(io.BytesIO(export.to_parquet(table))).column_names == ["model", "score"]
    assert b"\x1b" not in export.to_csv(DataFrame({"m": [HOSTILE]}))


def test_a_tooltip_has_a_line_per_fact_and_no_line_or_markup_of_a_name() -> None:
    cell = Cell("12.3", 12.3, ("a\nb<i> on glue/rte", "12.3 (10.0 – 14.0), 20 items"), 0)
    row = Row("a\nb<i>", "", "1", 1.0, 1, "12.3", 12.3, "", "", (cell,), (cell,))
    shown = html(Matrix((Head("glue/rte", "rte", "glue", 50.0, False),), (("glue", 1),), (row,)))
    assert 'data-tip="a↵b&lt;i&gt; on glue/rte&#10;12.3 (10.0 – 14.0), 20 items"' in shown
    assert 'data-tip="glue/rte&#10;chance 50&#10;click: sort"' in shown
    two = Matrix((Head("glue/rte", "rte", "glue", 50.0, False),) * 2, (("glue", 2),), (replace(row, cells=(cell, cell)),))
    assert 'data-head="glue mean, chance 0"' in html(two)  # a mean has another scale than the scores of its tasks


def test_safe_text() -> None:
    assert visible("a\x1b[31m\u202eb\nc") == "a\\x1b[31m\\x202eb↵c"
    assert visible("a\nb", lines=True) == "a\nb"
    assert visible("x" * 100, 5) == "xxxxx…"
    for text in ("http://evil.example", "www.evil.example", "a@evil.example", "mailto:a"):
        assert "\u2060" in plain(text)
    assert plain("boolq@lm-eval") == "boolq@lm\\-eval"
    assert len(set(labels(["a", "a", "b" * 4096], ["d1", "d2", "d3"]))) == 3
    assert labels(["/some/where/ckpt", "org/name", "/"], ["d1", "d2", "d3"]) == ["ckpt", "org/name", "/"]
    assert labels(["/some/ckpt+tuned/lora-0/result", "org/name+lora"], ["d1", "d2"]) == ["ckpt+lora-0/result", "org/name+lora"]
    assert family("org/smol-1b+tuned/lora-0/result") == "smol"
    assert labels(["/here/ckpt", "/there/ckpt"], ["d1", "d2"]) == ["ckpt · d1", "ckpt · d2"]


def test_two_versions_of_a_task_never_share_a_column(store: Path) -> None:
    cells = with_columns(queries.cells(store))
    columns = set(cells[cells.task == "numbers/add@own"].column)
    assert len(columns) == 2
    per = cells.groupby("column").fingerprint.nunique()
    assert per.max() == 1


def test_discrimination_finds_the_item_with_the_wrong_gold() -> None:
    skill = np.linspace(0.1, 0.9, 12)
    rng = np.random.default_rng(0)
    values = (rng.random((60, 12)) < skill).astype(float)
    values[7] = (skill < 0.5).astype(float)  # only weak models are "right"
    found = discrimination(values)
    assert np.nanargmin(found) == 7
    assert kinds(values, found)[7] == "suspicious"
    assert np.isnan(discrimination(values[:, :3])).all()


def test_pareto_front() -> None:
    assert pareto_front(-np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 6.0])).tolist() == [True, False, True]
    assert pareto_front(np.array([1.0, 2.0, 0.5]), np.array([0.0, -1.0, -2.0])).tolist() == [True, True, False]


def test_seeds_and_items_both_widen_an_interval(store: Path) -> None:
    whole = studies.trials(store, ())
    points = studies.points(whole)
    lora = points[(points.method == "lora") & (points.lr == 1e-4)].iloc[0]
    assert lora.runs == 2
    assert lora.gain == pytest.approx(12, abs=1.5)
    assert lora.gain_high - lora.gain_low >= 6 - 1e-9  # the width from items alone
    assert lora.kept == pytest.approx(-2, abs=0.1)
    assert "ia3" not in set(points.method)  # diverged: not counted as zero


def test_loglikelihoods_are_read_from_sums_and_from_tokens() -> None:
    from assay.leaderboard.data.bundles import choice_pieces, loglikelihoods

    assert loglikelihoods({"pick": 0, "logprobs": [[-1.0, -0.5], [-2.0]]}) == [-1.5, -2.0]
    assert loglikelihoods({"loglikelihoods": [-0.4, -2.0]}) == [-0.4, -2.0]
    assert loglikelihoods({"text": "Paris"}) == []
    assert choice_pieces(Path("/nowhere"), "Paris", 1) == ["Paris"]
    assert choice_pieces(Path("/nowhere"), "New York", 2) == ["token 1", "token 2"]


def test_a_recorded_gate_by_smoothed_accuracy_is_known_to_the_page_that_decides_by_plain_accuracy(tmp_path: Path) -> None:
    sides = {name: {"run": run, "model": "m", "digest": "d"} for name, run in (("baseline", "r1"), ("candidate", "r2"))}
    entry = {"key": "k", "at": "2026-11-30", "verdict": "pass", "attempt": 1, **sides}
    runs = {"a": ("r1", "r2")}
    assert not paired.judged_smoothed(tmp_path, runs)
    for estimator, smoothed in (("accuracy", False), ("smoothed", True)):
        with (tmp_path / "gates.jsonl").open("a") as file:
            file.write(json.dumps({**entry, "policy": {"estimator": estimator}}) + "\n")
        assert paired.judged_smoothed(tmp_path, runs) is smoothed
    assert not paired.judged_smoothed(tmp_path, {"a": ("r2", "r1")})
    (tmp_path / "gates.jsonl").write_text("damaged\n")
    assert not paired.judged_smoothed(tmp_path, runs)


def test_verdicts_along_the_runs_are_read_with_full_tuning_second(tmp_path: Path) -> None:
    pair = {"seeds": 3, "gain": 0.2, "verdict_over_range": "cannot tell", "band": []}
    found = [
        {"method": "full", "other": "ia3", "factor": [0.5, 0.25, 0.8], "verdict": "dominates", **pair},
        {"method": "lora", "other": "full", "factor": [0.5, 0.25, 0.8], "verdict": "dominates", **pair},
        {"method": "lora", "other": "ia3", "factor": [0.5, 0.25, 0.8], "verdict": "dominates", **pair},
        {"method": "dora", "other": "full", "factor": None, "verdict": "cannot tell", **pair, "gain": None, "seeds": 0},
    ]
    (tmp_path / "frontiers.json").write_text(json.dumps([{"target": "other", "verdicts": []}, {"target": "t", "verdicts": found}]))
    rows = studies.frontier_verdicts(tmp_path, "t").to_numpy().tolist()
    assert rows == [
        ["ia3", "+20.0", "2x [1.25, 4]", "3", "dominated"],
        ["lora", "+20.0", "0.5x [0.25, 0.8]", "3", "dominates"],
        ["dora", "–", "–", "0", "cannot tell"],
    ]
    assert not len(studies.frontier_verdicts(tmp_path, "absent"))
    (tmp_path / "frontiers.json").write_text('[{"target": "t", "verdicts": [{}]}]')
    assert not len(studies.frontier_verdicts(tmp_path, "t")) and not len(studies.frontier_verdicts(tmp_path / "absent", "t"))
