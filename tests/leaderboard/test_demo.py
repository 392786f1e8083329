"""The generated store of `assay board --demo`: what it holds, and every page on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_pages import opened, texts

from assay.harness.store import check, query
from assay.leaderboard import commands
from assay.leaderboard.data import bundles, paired, profile, queries, studies
from assay.leaderboard.data.assembly import ALL, Board, Filters, assemble, with_columns
from assay.leaderboard.data.matrix import LEVELS
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.demo import cached


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield cached.demo_store(tmp_path_factory.mktemp("cache"))


def board(root: Path, filters: Filters) -> Board:
    return assemble(root, with_columns(queries.cells(root)), filters, AGGREGATORS[0])


def test_the_store_is_valid_and_written_once(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check(demo)
    monkeypatch.setattr(cached.subprocess, "run", lambda *_, **__: pytest.fail("written again"))
    assert cached.demo_store(demo.parent) == demo
    assert query(demo, "SELECT count(DISTINCT model_digest), count(DISTINCT task) FROM leaderboard") == [(12, 14)]
    assert studies.trials(demo, ()).study.nunique() == 3
    assert not query(demo, "SELECT task FROM leaderboard WHERE NOT (low < value OR value < high)")  # no interval has the width 0
    assert {"pass", "inconclusive", "regressed"} == set(bundles.gates(demo).verdict)


def test_the_default_set_ranks_every_model(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 of 12 models lack three tasks: the default set leaves these out, and all models have a rank on it."""
    found = board(demo, Filters())
    assert len(found.tasks) == 11 and found.ranked == 12
    assert "11 of 14 tasks" in found.about and "11 of 12 models" in found.about
    assert "All models are scored" not in texts(opened(demo, "board", monkeypatch))  # kite-large lacks two of these tasks
    every = board(demo, Filters(group=ALL))
    assert len(every.tasks) == 14 and every.ranked == 12
    assert sum(bool(row.partial) for row in every.matrix.rows) == 8  # type: ignore[union-attr]
    other = assemble(demo, with_columns(queries.cells(demo)), Filters(group=ALL), "Bradley-Terry")
    assert other.ranked == 4 and any("this rule ranks only models with all scores" in note for note in other.notes)


def test_cells_share_the_lead_only_where_no_score_is_significantly_better(demo: Path) -> None:
    matrix = board(demo, Filters(group=ALL)).matrix
    assert matrix is not None
    place = next(number for number, head in enumerate(matrix.heads) if head.short == "chain")
    cells = {row.label: row.cells[place] for row in matrix.rows}
    assert cells["acme/otter-1b"] is None  # not scored: a gap, not a zero
    leaders = {label for label, cell in cells.items() if cell and cell.tint == LEVELS}
    assert leaders == {"delta/wren-4b-thinking"}
    first = next(number for number, head in enumerate(matrix.heads) if head.short == "first")
    assert matrix.heads[first].ceiling and sum(row.cells[first].tint == LEVELS for row in matrix.rows) > 6  # type: ignore[union-attr]
    weak = next(row for row in matrix.rows if row.label == "finch-2b/step-1000")
    assert any(cell is not None and cell.guessing for cell in weak.cells)


def test_gates_and_compare_agree(demo: Path) -> None:
    gates = bundles.gates(demo)
    row = gates[gates.verdict == "regressed"].iloc[0]
    found = paired.pairing(demo, {"": f"runs/{row.baseline_run}"}, {"": f"runs/{row.candidate_run}"})
    assert found.decision is not None and found.decision.verdict == "regressed"
    assert found.decision.delta == pytest.approx(row.delta)


def test_gates_follow_their_runs_and_name_models_as_the_board_does(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict(query(demo, "SELECT run_id, created_at FROM runs"))
    gates = bundles.gates(demo)
    for row in gates.itertuples():
        assert max(str(made[row.candidate_run]), str(made[row.baseline_run]))[:10] < row.at[:10]
    assert "beta/heron-3b+lora-0/result" in opened(demo, "gates", monkeypatch).dataframe[0].value.candidate.tolist()
    costs = studies.points(studies.trials(demo, ())).groupby("method")[["peak_memory", "seconds"]].first()
    assert costs.peak_memory.nunique() == len(costs) and costs.seconds.nunique() == len(costs)  # no two methods cost the same


def test_the_command_serves_the_demo_and_no_other_folder(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from assay.harness.errors import AssayError

    served: list[dict[str, str]] = []
    monkeypatch.setenv("ASSAY_CACHE", str(demo.parent))
    monkeypatch.setattr(commands.os, "execve", lambda path, line, env: served.append(env))
    commands.board(demo=True)
    assert served[0]["ASSAY_RESULTS"] == str(demo)
    with pytest.raises(AssayError, match="--results"):
        commands.board(demo=True, results=demo)


def test_a_model_is_shown_beside_the_field_and_over_its_checkpoints(demo: Path) -> None:
    cells = with_columns(queries.cells(demo))
    found = profile.profile(cells, "beta/heron-3b+lora-0/result", "beta/heron-3b")
    assert list(found.difference.abs()) == sorted(found.difference.abs(), reverse=True)
    assert found.family.iloc[0] == "words" and found.difference.iloc[0] < -10
    assert len(profile.profile(cells, "acme/otter-1b")) == 11  # the median of the others, on its own tasks
    steps = profile.checkpoints(cells, "finch-2b/step-2000")
    assert sorted(set(steps.step)) == [1000, 2000, 3000]
    assert set(steps.family) == {"arithmetic", "clock", "letters", "words"}  # not the families that only the last one has
    assert not len(profile.checkpoints(cells, "acme/otter-1b"))


def test_an_item_names_the_run_of_the_shown_response(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(demo, "items", monkeypatch, task="letters/first@demo", item="000")
    text = texts(app)
    rows = query(demo, "SELECT run_id FROM run JOIN run_task USING (run_id) WHERE model = 'acme/otter-1b' AND task = 'letters/first@demo'")
    assert len(rows) == 2 and all(f"acme/otter-1b · {run}" in text for (run,) in rows)
    for run in (app.selectbox(key="run").options[-1], app.selectbox(key="run").options[0]):
        app.selectbox(key="run").select(run).run()
        assert f"**Response** of {run.split(' · ')[0]}" in texts(app).replace("\\", "") and app.selectbox(key="run").value in run


def test_health_has_scores_in_points(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [each.value for each in opened(demo, "health", monkeypatch).dataframe]
    assert next(each for each in tables if "reason" in each.columns).value.tolist() == ["100.0"]


def test_flips_count_the_items_of_all_compared_tasks(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(demo, "compare", monkeypatch, first="beta/heron-3b", second="beta/heron-3b+lora-0/result")
    items = next(each.value for each in app.dataframe if "MDE80" in each.value.columns).Items.sum()
    assert f"of {items:.0f} items" in texts(app)


@pytest.mark.parametrize(
    ("page", "state", "wanted"),
    [
        ("board", {}, "No significant difference between acme/otter-13b and beta/heron-8b: +2.9 points, 95 % interval -0.6 to +6.4."),
        (
            "compare",
            {"first": "beta/heron-8b", "second": "acme/otter-13b"},
            "No significant difference between acme/otter-13b and beta/heron-8b: +2.9 points, 95 % interval -0.6 to +6.4.",
        ),
        ("compare", {"first": "beta/heron-3b", "second": "beta/heron-3b+lora-0/result", "more": "acme/otter-1b"}, "regressed"),
        ("model", {"model": "finch-2b/step-3000"}, "Scores of the training run's checkpoints"),
        ("items", {"who": "acme/otter-13b", "task": "reasoning/chain@demo", "outcome": "wrong"}, "of 4 runs are right"),
        ("tuning", {"study": "studies/arithmetic-multiply"}, "full gains most"),
    ],
)
def test_pages_state_the_finding(demo: Path, page: str, state: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted in texts(opened(demo, page, monkeypatch, **state)).replace("\\", "")


def test_tuning_says_that_prompting_changes_nothing_only_where_the_study_has_it_so(
    demo: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = texts(opened(demo, "tuning", monkeypatch))
    assert "is 0 without an interval" in text and "No scores per retention task\\: in\\_context" in text
    assert "Against full tuning: undecided: 3, less change at a similar gain: 2" in text
    assert "is 0 without an interval" not in texts(opened(store, "tuning", monkeypatch))  # this study gives it an interval
