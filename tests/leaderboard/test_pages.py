"""Every page on a store with several models and a hostile name, without a browser; tests/browser uses one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_store import Made, make_run, results_of

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest

from assay.leaderboard.charts import charts
from assay.leaderboard.commands import ITEMS
from assay.leaderboard.data.assembly import Filters
from assay.leaderboard.data.safe_text import plain
from assay.leaderboard.pages import reading, shell, suites

APP = Path(__file__).parents[2] / "leaderboard" / "pages" / "app.py"
PAGES = ("board", "compare", "model", "task", "items", "tuning", "gates", "runs", "health")


def opened(root: Path, page: str, monkeypatch: pytest.MonkeyPatch, **state: str) -> AppTest:
    import streamlit as st

    st.cache_data.clear()
    monkeypatch.setenv("ASSAY_RESULTS", str(root))
    app = AppTest.from_file(str(APP), default_timeout=60)
    if page != "board":
        app.switch_page(f"{page}.py")
    for name, value in state.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, [(each.message, each.stack_trace) for each in app.exception]
    return app


def texts(app: AppTest) -> str:
    kinds = (app.title, app.caption, app.markdown, app.header, app.success, app.warning, app.error, app.code)
    shown = [str(each.value) for kind in kinds for each in kind]
    return "\n".join([*shown, *(each.proto.body for each in app.get("html")), *(str(each.proto) for each in app.get("bidi_component"))])


def ranks(app: AppTest) -> dict[str, str]:
    """The rank interval of each model in the matrix, in order."""
    (matrix,) = app.get("bidi_component")
    rows = re.findall(r'<tr data-label="([^"]*)">.*?<span class="tier c\d">([^<]*)</span>', json.loads(matrix.proto.json)["html"])
    return dict(rows)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(store: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page in opened(store, page, monkeypatch).title[0].value.lower()


@pytest.mark.parametrize(
    ("page", "command"), [("board", "assay demo"), ("items", "assay demo"), ("runs", "assay demo"), ("tuning", "assay study toy")]
)
def test_an_empty_store_shows_the_next_command(tmp_path: Path, page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    assert command in texts(opened(tmp_path, page, monkeypatch))


def test_runs_without_an_index_show_the_index_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, Made("a/b", 0.5, {"t": 4}), finish=False, part=0.5)
    assert "assay store index" in texts(opened(tmp_path, "board", monkeypatch))
    shown = texts(opened(tmp_path, "runs", monkeypatch))
    assert "assay resume" in shown  # half written, without a writer


def test_board_ranks_models_that_lack_a_score_apart(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "board", monkeypatch)
    shown = ranks(app)
    assert next(iter(shown)) == "acme/Otter-7B" and shown["acme/Otter-7B"].startswith("1–")
    assert shown["acme/Otter-1B-copy"] == shown["acme/Otter-1B · digest-a"]  # the same scores
    assert "beta/Old-3B" not in shown  # another version of the task
    assert not any("smoked" in name for name in shown)
    text = texts(app)
    assert "marks models that lack some of these tasks" in text and "2 of 3 tasks" in text
    assert "not scored" in text  # its missing cell


def test_board_state_comes_from_the_url(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "board", monkeypatch, set="letters", by="Bradley-Terry", kind="adapter")
    assert list(ranks(app).values()) == ["1"]  # it has all scores of this set
    assert "numbers" not in app.get("bidi_component")[0].proto.json
    app = opened(store, "board", monkeypatch, name="WREN", complete="true")
    assert list(ranks(app)) == ["beta/Wren-300M"]


def test_compare_shows_differences_flips_and_reasons(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "compare", monkeypatch, first="acme/Otter-7B", second="beta/Wren-300M", task="letters/last@own", side="lost")
    table = app.dataframe[0].value.set_index("Task")
    row = table.loc["letters/last@own"]
    assert row.Difference == pytest.approx(row.Candidate - row.Baseline)
    assert row.Low < row.Difference < row.High < 0
    assert row["p (Holm)"] < 0.05
    flips = app.dataframe[1].value
    assert len(flips) and set(flips.Task) == {"letters/last@own"}
    assert "regressed" in texts(app) and "<del>" in texts(app)  # the verdict, and the words that changed
    other = opened(store, "compare", monkeypatch, first="acme/Otter-7B", second="beta/Old-3B")
    assert "not comparable" in texts(other) and "prompts" in texts(other)


def test_an_item_shows_its_prompt_and_all_responses(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "items", monkeypatch, of="letters/first@own", item="i0003", deep="true", run="", text="")
    assert "Question 3 of letters/first@own: which word comes 3 places after 'ant'?" in texts(app)
    assert "of 7 runs are right" in texts(app)
    assert "Hash of the token ids" in texts(app)
    listed = opened(store, "items", monkeypatch, task="numbers/add@own", outcome="wrong", text="question 4")
    rows = listed.dataframe[0].value
    assert len(rows) and set(rows.Outcome) == {"✗ wrong"} and all("Question 4" in text for text in rows.Prompt)


def test_an_exposed_board_hides_item_texts(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(app: AppTest) -> str:
        return texts(app) + json.dumps([frame.value.astype(str).to_dict() for frame in app.dataframe])

    item = {"of": "letters/first@own", "item": "i0003", "deep": "true", "text": "question 4"}
    flip = {"first": "acme/Otter-7B", "second": "beta/Wren-300M", "task": "letters/last@own", "side": "lost"}
    for page, state in (("items", item), ("compare", flip)):
        assert "which word comes" in everything(opened(store, page, monkeypatch, **state))
    monkeypatch.setenv(ITEMS, "hidden")
    for page, state in (("items", item), ("compare", flip)):
        app = opened(store, page, monkeypatch, **state)
        shown = everything(app)
        assert "(hidden)" in shown and "Question" not in shown and "word comes" not in shown
        assert "Text" not in [each.label for each in app.text_input]  # a search would reveal hidden texts
    assert "of 7 runs are right" in texts(opened(store, "items", monkeypatch, **item))


def test_the_response_of_an_item_is_that_of_its_row(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = texts(opened(store, "items", monkeypatch, task="letters/first@own", of="letters/first@own", item="i0003", run=""))
    row = re.search(r"Row \d+ of \d+ on this page: item i0003, response of (.+)", text)
    response = re.search(r"\*\*Response\*\* of (.+) \(", text)
    assert row and response and row[1] == response[1]


def test_the_cost_chart_names_models_without_a_cost(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = shell.load_board(str(store), "", Filters(), "chance-normalised mean")
    unknown = [row.Model for row in board.table.itertuples() if row.Parameters != row.Parameters]
    said = next(each.value for each in opened(store, "board", monkeypatch).caption if "Pareto front" in each.value)
    assert ("No cost recorded" in said) == bool(unknown) and all(plain(name, 60) in said for name in unknown[:6])


def test_tokens_are_shaded_by_the_range_that_is_shown() -> None:
    def shares(*values: float) -> list[int]:
        return [int(each) for each in re.findall(r"#b8475b (\d+)%", reading.shaded([(["a"], [value]) for value in values]))]

    assert shares(-6.17, -11.65, -8.07) == [37, 70, 48]
    assert shares(-0.1, -0.2) == [2, 5]  # likely tokens are pale, though one is less likely than the other


def test_no_cell_of_a_table_is_a_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(shell.st, "dataframe", lambda table, **options: shown.append((table, options)))
    rows = {"Response": ["=1+1", " @SUM(A1)", "plain", None], "Score": [-1.0, 2.0, 3.0, 4.0], "+x": ["-2", "3", "4", "5"]}
    shell.table(rows, column_order=["Response", "+x"], column_config={"+x": "wide"}, alt="x")
    table, options = shown[0]
    assert table.Response.tolist()[:3] == ["\u2060=1+1", "\u2060 @SUM(A1)", "plain"] and table.Score.tolist() == [-1.0, 2.0, 3.0, 4.0]
    assert options == {"column_order": ["Response", "\u2060+x"], "column_config": {"\u2060+x": "wide"}, "alt": "x"}
    for line in table.to_csv(index=False).splitlines():
        assert not line.startswith(("=", "+", "-", "@")) and ",+" not in line


def test_a_number_is_rounded_once_for_all_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(shell.st, "dataframe", lambda table, **options: shown.append(table))
    monkeypatch.setattr(shell.st, "html", shown.append)
    number = shell.st.column_config.NumberColumn(format="%+.1f")
    shell.table({"task": ["a", "b"], "change": [76.25, float("nan")], "raw": [76.25, 1.0]}, column_config={"change": number}, alt="x")
    cards, table = shown
    assert table.change[0] == 76.2 and "+76.2" in cards  # a browser would show 76.3
    assert table.change.isna()[1] and table.raw[0] == 76.25
    assert '"text": "+1.2"' in charts.heatmap(shell.frames.DataFrame({"row": ["m"], "column": ["t"], "value": [1.25]}), "x").to_json()


def test_every_table_is_formula_safe() -> None:
    assert not [path.name for path in APP.parent.glob("*.py") if path.name != "shell.py" and "st.dataframe(" in path.read_text()]


def test_tuning_shows_every_method_and_names_failed_trials(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "tuning", monkeypatch)
    table = app.dataframe[0].value
    assert {"full", "lora", "bitfit", "bottleneck", "dora", "in_context 4-shot"} == set(table.method)
    assert "diverged" in texts(app) and "random labels" in texts(app)
    assert table[table.method == "full"].kept.max() < 0


def test_hostile_text_is_escaped_in_markdown_and_kept_in_code(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "model", monkeypatch)  # the hostile name sorts first
    name = next(each.value for each in app.caption if each.value.startswith("Name"))
    assert "\\<img src\\=x" in name or "\\<img src=x" in name
    assert "\\!\\[pixel\\]" in name and "://" not in name
    assert "\x1b" not in name and "\u202e" not in name


def test_gates_filter_by_verdict_and_health_gives_reasons(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = opened(store, "gates", monkeypatch, verdict="regressed").dataframe[0].value
    assert gates.verdict.tolist() == ["✗ regressed"]
    health = opened(store, "health", monkeypatch)
    assert "purpose is smoke" in json.dumps([frame.value.astype(str).to_dict() for frame in health.dataframe])


def test_a_run_scored_by_plain_forwards_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.harness.store import index, open_writer

    made = Made("slow", 0.5, {"anatomy": 20})
    bundle = make_run(tmp_path, made, finish=False)
    with open_writer(bundle) as writer:
        proof = {"way": "plain", "reason": "log-probabilities of anatomy differ by 4.9 nats"}
        tokens, seconds = {"logical": 1, "computed": 1, "cached": 0}, {"engine": 1.0, "last_attempt": 1.0}
        writer.finish({"results": results_of(made, writer.records()), "engine": {}, "tokens": tokens, "seconds": seconds, "proof": proof})
    index(tmp_path)
    app = opened(tmp_path, "runs", monkeypatch, run=bundle.name)
    assert any("the fast way was wrong for this model" in each.value and "of anatomy differ by" in each.value for each in app.warning)


def test_a_damaged_bundle_does_not_hide_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.harness.store import index

    make_run(tmp_path, Made("a/good", 0.7, {"t": 20}))
    bad = make_run(tmp_path, Made("a/bad", 0.4, {"t": 20}))
    index(tmp_path)
    (bad / "manifest.json").write_text("{")
    assert "damaged" in texts(opened(tmp_path, "runs", monkeypatch))
    assert len(ranks(opened(tmp_path, "board", monkeypatch))) == 2


def test_a_suite_is_saved_under_a_name_and_ranks_its_tasks(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(store, "board", monkeypatch, tasks="letters/first@own")
    app.text_input[-1].set_value("first letters")
    next(button for button in app.button if button.label == "Save").click().run()
    assert not app.exception and suites.saved(store) == {"first letters": ("letters/first@own",)}
    app = opened(store, "board", monkeypatch, set="first letters")
    (matrix,) = app.get("bidi_component")
    assert "letters/first" in matrix.proto.json and "letters/last" not in matrix.proto.json
    monkeypatch.setenv("ASSAY_BOARD_EXPOSED", "1")
    assert not [button for button in opened(store, "board", monkeypatch, tasks="letters/first@own").button if button.label == "Save"]
    (store / suites.SUITES).write_text("{")
    assert suites.saved(store) == {}
    (store / suites.SUITES).unlink()
