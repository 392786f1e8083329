from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pytest
from faults.store_child import TASK, complete_run, make_items, make_manifest, make_record, make_summary

from assay.harness.errors import AssayError, Incomplete
from assay.harness.store import Run, check, connect, create_bundle, index, indexing, open_writer, query, read_run

CONTRACT = {
    "scores": "run_id model model_digest task metric value low high n shots engine status created_at",
    "samples": "run_id task item_id item_group prompt output gold correct error",
    "item_stats": "run_id task metric item_id item_group stats",
}


def test_the_views_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    bundle = complete_run(tmp_path, count=3)
    assert index(tmp_path).indexed == (bundle.name,)
    for view, columns in CONTRACT.items():
        assert [row[0] for row in query(tmp_path, f"DESCRIBE {view}")] == columns.split()
    tuning = [row[0] for row in query(tmp_path, "DESCRIBE tuning")]
    assert tuning[:9] == ["study", "run_id", "method", "family", "seed", "lr", "task", "role", "gain"]
    assert query(tmp_path, "SELECT count(*) FROM tuning") == [(0,)]
    records = read_run(bundle).records()
    (score,) = query(tmp_path, "SELECT * FROM scores")
    value = sum(record.correct or 0 for record in records) / 3
    assert score[:12] == (bundle.name, "tiny", "digest of tiny", TASK, "accuracy", value, 0.0, 1.0, 3, 0, "scripted", "complete")
    item = make_items(1)[0]
    answer = item.choices[records[0].output["pick"]]
    sample = (bundle.name, TASK, "i0", "g0", item.prompt, answer, "no", records[0].correct, "")
    assert query(tmp_path, "SELECT * FROM samples WHERE item_id = ?", ["i0"]) == [sample]
    stats = query(tmp_path, "SELECT stats FROM item_stats WHERE metric = 'pair' ORDER BY item_id")
    assert [tuple(row[0]) for row in stats] == [record.stats["pair"] for record in records]


def test_indexing_is_idempotent_and_updates_changed_runs(tmp_path: Path) -> None:
    first = complete_run(tmp_path)
    running = create_bundle(tmp_path, make_manifest(), make_items(4))
    assert set(index(tmp_path).indexed) == {first.name, running.name}
    before = (tmp_path / "assay.duckdb").stat()
    again = index(tmp_path)
    assert (again.indexed, set(again.unchanged)) == ((), {first.name, running.name})
    assert (tmp_path / "assay.duckdb").stat().st_mtime_ns == before.st_mtime_ns
    status = dict(query(tmp_path, "SELECT run_id, status FROM runs"))
    assert status == {first.name: "complete", running.name: "running"}
    assert query(tmp_path, "SELECT count(*) FROM scores WHERE run_id = ?", [running.name]) == [(0,)]
    with open_writer(running) as writer:
        writer.append([make_record(item) for item in make_items(4)])
        writer.finish(make_summary(writer.records()))
    assert index(tmp_path, [running]).indexed == (running.name,)
    assert query(tmp_path, "SELECT count(*) FROM samples") == [(6 + 4,)]
    shutil.rmtree(first)
    assert index(tmp_path).removed == (first.name,)
    for view in ("runs", "scores", "samples", "item_stats"):
        assert query(tmp_path, f"SELECT DISTINCT run_id FROM {view}") == [(running.name,)]


def test_the_index_is_rebuilt_with_the_same_rows(tmp_path: Path) -> None:
    for name in ("x'); DROP TABLE run; --", 'quo"te', "per%s cent", "nul\0"):
        complete_run(tmp_path, make_manifest(name))
    index(tmp_path)
    views = ("runs", "scores", "samples", "item_stats", "leaderboard")
    before = [query(tmp_path, f"SELECT * FROM {view} ORDER BY ALL") for view in views]
    assert len(before[4]) == 4
    (tmp_path / "assay.duckdb").unlink()
    index(tmp_path)
    assert [query(tmp_path, f"SELECT * FROM {view} ORDER BY ALL") for view in views] == before
    (tmp_path / "assay.duckdb").write_bytes(b"torn")
    index(tmp_path)
    assert [query(tmp_path, f"SELECT * FROM {view} ORDER BY ALL") for view in views] == before


def test_only_the_latest_complete_release_run_is_ranked(tmp_path: Path) -> None:
    old = complete_run(tmp_path, make_manifest("a"))
    index(tmp_path)
    assert query(tmp_path, "SELECT run_id FROM leaderboard") == [(old.name,)]
    new = complete_run(tmp_path, make_manifest("renamed", model={"name": "renamed", "digest": "digest of a"}))
    complete_run(tmp_path, make_manifest("a", purpose="smoke"))
    complete_run(tmp_path, make_manifest("a", evidence="limited"))
    complete_run(tmp_path, make_manifest("a"), evidence="partial")
    complete_run(tmp_path, make_manifest("a"), purpose="smoke")
    complete_run(tmp_path, make_manifest("a"), main=False)
    create_bundle(tmp_path, make_manifest("a"), make_items(1))
    other = complete_run(tmp_path, make_manifest("b"))
    index(tmp_path)
    assert set(query(tmp_path, "SELECT model, run_id FROM leaderboard")) == {("renamed", new.name), ("b", other.name)}


def test_a_run_with_items_in_error_is_not_ranked(tmp_path: Path) -> None:
    items = make_items(3)
    bundle = create_bundle(tmp_path, make_manifest(), items)
    with open_writer(bundle) as writer:
        writer.append([make_record(item) for item in items[:2]])
        writer.append([type(make_record(items[2]))(TASK, "i2", "error", error="nonfinite")])
        writer.finish(make_summary(writer.records()[:2]))
    index(tmp_path)
    assert query(tmp_path, "SELECT item_id, correct, error FROM samples WHERE correct IS NULL") == [("i2", None, "nonfinite")]
    assert query(tmp_path, "SELECT count(*) FROM leaderboard") == [(0,)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["value", "low", "high"])
def test_score_columns_reject_numbers_that_are_not_finite(tmp_path: Path, column: str, number: float) -> None:
    connection = indexing.open_copy(tmp_path / "x.duckdb", fresh=True)
    row: dict[str, Any] = {"run_id": "r", "task": "t", "metric": "m", "value": 0.5, "low": 0.4, "high": None, "main": True, "result": "{}"}
    indexing.insert(connection, "score", **row)
    with pytest.raises(duckdb.ConstraintException):
        indexing.insert(connection, "score", **(row | {column: number}))
    connection.close()


def test_an_index_of_a_newer_assay_is_refused_and_left_alone(tmp_path: Path) -> None:
    bundle = complete_run(tmp_path)
    index(tmp_path)
    connection = duckdb.connect(str(tmp_path / "assay.duckdb"))
    connection.execute("INSERT INTO schema_migrations VALUES (99, now()::TIMESTAMP)")
    connection.close()
    before = (tmp_path / "assay.duckdb").read_bytes()
    for action in (lambda: index(tmp_path), lambda: index(tmp_path, [bundle]), lambda: query(tmp_path, "SELECT 1")):
        with pytest.raises(AssayError, match=r"has schema 99, this assay knows \d+.*upgrade assay"):
            action()
    assert (tmp_path / "assay.duckdb").read_bytes() == before


def test_an_index_of_an_older_schema_is_made_again(tmp_path: Path) -> None:
    complete_run(tmp_path)
    connection = duckdb.connect(str(tmp_path / "assay.duckdb"))
    connection.execute("CREATE TABLE schema_migrations AS SELECT 0 AS version; CREATE TABLE run AS SELECT 'r' AS run_id")
    connection.close()
    with pytest.raises(AssayError, match="update it with: assay store index"):
        query(tmp_path, "SELECT 1")
    index(tmp_path)
    assert query(tmp_path, "SELECT count(*) FROM scores") == [(1,)]


def test_the_file_has_the_storage_version_that_every_supported_duckdb_reads(tmp_path: Path) -> None:
    complete_run(tmp_path)
    index(tmp_path)
    (tags,) = query(tmp_path, "SELECT tags FROM duckdb_databases() WHERE NOT internal")[0]
    assert "v1.5.0" in str(tags)


def test_rows_that_are_inserted_are_not_held_until_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = create_bundle(tmp_path, make_manifest(items=6000), [replace(item, prompt=item.id + "x" * 2000) for item in make_items(6000)])
    with open_writer(bundle) as writer:
        writer.append([make_record(item) for item in read_run(bundle).items()])
        writer.finish(make_summary(writer.records()))
    held, insert_tasks = [], indexing.insert_tasks

    def measured(connection: Any, run: Run) -> None:
        held.append(pyarrow.total_allocated_bytes() - before)
        insert_tasks(connection, run)

    monkeypatch.setattr(indexing, "insert_tasks", measured)
    before = pyarrow.total_allocated_bytes()
    index(tmp_path, [bundle])
    assert held and held[0] < 2_000_000  # of 12 MB
    assert query(tmp_path, "SELECT count(*), count(DISTINCT prompt) FROM samples") == [(6000, 6000)]


def test_readers_block_no_writer_and_see_a_consistent_index(tmp_path: Path) -> None:
    complete_run(tmp_path)
    index(tmp_path)
    reader = connect(tmp_path)
    bundle = create_bundle(tmp_path, make_manifest(), make_items(4))
    with open_writer(bundle) as writer:
        writer.append([make_record(item) for item in make_items(4)])
        writer.finish(make_summary(writer.records()))
    assert index(tmp_path, [bundle]).indexed == (bundle.name,)
    assert reader.execute("SELECT count(*) FROM samples").fetchall() == [(6,)]
    reader.close()
    assert query(tmp_path, "SELECT count(*) FROM samples") == [(10,)]


def test_an_index_in_use_names_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_run(tmp_path)
    monkeypatch.setattr(indexing, "WAIT_SECONDS", 0.05)
    with (
        indexing.file_lock(tmp_path / ".index.lock"),
        pytest.raises(Incomplete, match=f"in use by process {os.getpid()} on {socket.gethostname()}"),
    ):
        index(tmp_path)
    assert len(index(tmp_path).indexed) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/hostname')",
        "ATTACH 'other.duckdb'",
        "COPY (SELECT 1) TO 'stolen.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
        "DELETE FROM run",
        "CREATE TABLE x (i INTEGER)",
    ],
)
def test_a_reader_reaches_nothing_but_the_index(tmp_path: Path, sql: str) -> None:
    complete_run(tmp_path)
    index(tmp_path)
    with pytest.raises(AssayError, match=r"the query failed: .*(disabled by configuration|locked|read-only)"):
        query(tmp_path, sql)


def test_no_index_and_no_store_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"there is no index.*assay store index"):
        query(tmp_path, "SELECT 1")
    with pytest.raises(AssayError, match="no such results folder"):
        index(tmp_path / "absent")
    assert index(tmp_path).indexed == ()
    assert query(tmp_path, "SELECT count(*) FROM leaderboard") == [(0,)]


def test_a_damaged_bundle_is_reported_or_raised_if_requested(tmp_path: Path) -> None:
    good, bad = complete_run(tmp_path), complete_run(tmp_path)
    (bad / "samples.parquet").write_bytes(b"rot")
    report = index(tmp_path)
    assert report.indexed == (good.name,)
    assert "SHA-256" in report.trouble[bad.name]
    with pytest.raises(AssayError, match=r"samples\.parquet"):
        index(tmp_path, [bad])
    assert query(tmp_path, "SELECT DISTINCT run_id FROM samples") == [(good.name,)]


def again(run: Run) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = make_summary(run.records())["results"]
    return results


def forge(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and its hash in DONE, as in a forged run."""
    done = json.loads((bundle / "DONE").read_text())
    done["files"][name] = hashlib.sha256(data).hexdigest()
    (bundle / name).write_bytes(data)
    (bundle / "DONE").write_text(json.dumps(done))


def test_check_finds_no_problem_in_a_valid_store(tmp_path: Path) -> None:
    assert check(tmp_path) == ()
    complete_run(tmp_path)
    create_bundle(tmp_path, make_manifest(), make_items(3))
    index(tmp_path)
    assert check(tmp_path, again) == ()


def test_check_finds_every_kind_of_problem(tmp_path: Path) -> None:
    def found() -> str:
        return "\n".join(map(str, check(tmp_path, again)))

    bundle = complete_run(tmp_path)
    assert "there is no index" in found()
    index(tmp_path)
    forged = json.loads((bundle / "summary.json").read_text())
    forged["results"][0]["value"] += 0.01
    forge(bundle, "summary.json", json.dumps(forged).encode())
    assert "value of accuracy on capitals@own is stored as" in found()
    assert "has changed since it was indexed" in found()
    forged["results"] = []
    forge(bundle, "summary.json", json.dumps(forged).encode())
    assert "follows from the items, but is not stored" in found()
    (bundle / "stranger.txt").write_text("x")
    assert "does not belong to the run" in found()
    other = complete_run(tmp_path, count=4)
    assert f"{other.name}: is not in the index" in found()
    index(tmp_path)
    forge(other, "samples.parquet", (bundle / "samples.parquet").read_bytes())
    assert "planned 4 items, but samples.parquet has 6" in found()
    (other / "item_stats.parquet").write_bytes(b"rot")
    assert f"{other / 'item_stats.parquet'}: was changed or is damaged" in found()
    shutil.rmtree(bundle)
    assert "its folder is not in the store" in found()
