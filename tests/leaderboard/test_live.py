"""Writers and open leaderboards do not block each other; a half-written run is shown as running."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_store import Made, make_run
from streamlit.testing.v1 import AppTest

from assay.harness.files.lock import file_lock
from assay.harness.store import connect, index, list_runs, open_writer, query
from assay.leaderboard.data import bundles, queries

ROOT = Path(__file__).parents[2]
RUNS = 4
WRITER = """
import sys, time
from pathlib import Path
sys.path[:0] = ["tests/leaderboard"]
from made_store import Made, items_of, manifest_of, record_of, results_of
from assay.harness.store import create_bundle, index, open_writer
root, waits = Path(sys.argv[1]), []
for number in range(int(sys.argv[2])):
    made = Made(f"lab/model-{number}", 0.4 + 0.05 * number, {"numbers/add@own": 40}, seed=number)
    items = items_of(made.tasks)
    start = time.monotonic()
    bundle = create_bundle(root, manifest_of(made), items)
    index(root, [bundle])
    with open_writer(bundle) as writer:
        for place, item in enumerate(items):
            if number == 1 and place == len(items) // 2:
                paused = time.monotonic()
                while not (root / "seen").exists() and time.monotonic() - paused < 120:
                    time.sleep(0.05)
                start += time.monotonic() - paused
            writer.append([record_of(item, made)])
        writer.finish({"results": results_of(made, writer.records()), "engine": {}, "tokens": {}, "seconds": {}})
    index(root, [bundle])
    waits.append(time.monotonic() - start)
print(max(waits))
"""


def shown(monkeypatch: pytest.MonkeyPatch, root: Path, name: str) -> AppTest:
    monkeypatch.setenv("ASSAY_RESULTS", str(root))
    app = AppTest.from_file(str(ROOT / "leaderboard" / "pages" / "app.py"), default_timeout=60)
    if name != "board":
        app.switch_page(f"{name}.py")
    app.run()
    assert not app.exception, [each.message for each in app.exception]
    return app


def test_runs_are_written_while_boards_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, Made("lab/first", 0.5, {"numbers/add@own": 40}))
    index(tmp_path)
    reader = connect(tmp_path)  # stays open
    line = [sys.executable, "-c", WRITER, str(tmp_path), str(RUNS)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        ranked, half = [], ""
        while writer.poll() is None:
            ranked.append(len(queries.cells(tmp_path)))
            shown(monkeypatch, tmp_path, "board")
            if any(run.status == "running" and bundles.progress(run) == 20 for run in list_runs(tmp_path)) and not half:
                half = " ".join(str(bar.proto.text) for bar in shown(monkeypatch, tmp_path, "runs").get("progress"))
                (tmp_path / "seen").touch()
        out, errors = writer.communicate()
    assert writer.returncode == 0, errors
    assert float(out) < 60.0  # far below the two minutes that a writer waits for a lock
    assert ranked == sorted(ranked)  # no score disappears
    assert "20 of 40 items · running" in half  # with its writer
    assert len(queries.cells(tmp_path)) == RUNS + 1
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (1,)  # the index as it was when opened
    reader.close()


def test_a_board_opens_while_the_index_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, Made("lab/first", 0.5, {"numbers/add@own": 40}))
    index(tmp_path)
    with file_lock(tmp_path / ".index.lock"):
        start = time.monotonic()
        assert len(queries.cells(tmp_path)) == 1
        assert time.monotonic() - start < 5.0
        assert shown(monkeypatch, tmp_path, "board").get("bidi_component"), "the matrix"


def test_a_half_written_run_shows_as_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, Made("lab/half", 0.5, {"numbers/add@own": 40}), finish=False, part=0.5)
    index(tmp_path)
    assert query(tmp_path, "SELECT status FROM runs") == [("running",)]
    assert not query(tmp_path, "SELECT * FROM leaderboard")
    app = shown(monkeypatch, tmp_path, "runs")
    words = " ".join(str(element.value) for element in [*app.markdown, *app.caption, *app.code])
    assert "lab/half" in words
    assert "assay resume" in words  # no process writes it
    (run,) = list_runs(tmp_path)
    assert bundles.progress(run) == 20


def test_a_tokenizer_that_panics_shows_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """Like pyo3's: not an Exception."""

    def panic(path: str) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    (tmp_path / "tokenizer.json").write_text("{}")
    assert bundles.token_pieces(tmp_path, "text") is None
    monkeypatch.setattr("tokenizers.Tokenizer.from_file", panic)
    assert bundles.token_pieces(tmp_path, "text") is None
    monkeypatch.setattr("tokenizers.Tokenizer.from_file", lambda path: sys.exit(1))
    with pytest.raises(SystemExit):
        bundles.token_pieces(tmp_path, "text")


def test_a_running_run_shows_progress_and_score_of_each_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"letters/first@own": 60, "numbers/add@own": 40}
    bundle = make_run(tmp_path, Made("lab/half", 0.5, tasks), finish=False, part=0.8)
    index(tmp_path)
    first, second = bundles.live_tasks(bundle)
    assert (first.done, first.items, second.done, second.items) == (60, 60, 20, 40)
    assert first.score and second.score and not first.errors
    score, low, high = first.score
    assert low < score < high and first.curve[-1] == (60, first.score)
    widths = [high - low for count, (_, low, high) in first.curve if count >= 10]
    assert widths[-1] < widths[0]  # the interval narrows
    (run,) = list_runs(tmp_path)
    with open_writer(bundle):  # its writer is this process
        app = shown(monkeypatch, tmp_path, "runs")
    table = app.dataframe[0].value
    assert table.Items.tolist() == ["60 of 60", "20 of 40"] and table["Score so far"][0] == f"{score:.1f}"
    words = " ".join(str(element.value) for element in app.markdown)
    assert "numbers/add" in words and "after 20 items" in words and run.model in words.replace("\\", "")


def test_the_pace_is_that_of_the_observations() -> None:
    assert bundles.pace([(0.0, 100)]) == 0.0
    assert bundles.pace([(0.0, 100), (5.0, 110), (10.0, 130)]) == 3.0
    assert bundles.pace([(0.0, 100), (10.0, 90)]) == 0.0  # a resumed run scored items again
