"""Data and weights that are damaged, change, or are not there: each is one clear error, and no wrong number.

Run: pytest tests/faults/test_inputs.py
"""

from __future__ import annotations

import hashlib
import http.server
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Fault, Scripted, faulty, hashed
from assay.harness.errors import Incomplete, Invalid
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef, find_model
from assay.harness.run.evaluate import resume
from assay.harness.store import check, find_run, list_runs, query

ROOT = Path(__file__).parents[2]
TASK = """from assay import Choose, Doc, Task, accuracy, hub


def doc(row):
    return Doc(row["question"], choices=("yes", "no"), gold=row["label"])


TASKS = (Task("asked", hub("org/asked"), doc, Choose(), (accuracy,)),)
"""


class Mirror:
    """A data folder with one data set, its manifest, and a task that reads it."""

    def __init__(self, folder: Path, rows: int = 30) -> None:
        self.folder = folder
        self.file = folder / "data" / "org__asked" / "default" / "test.parquet"
        self.file.parent.mkdir(parents=True)
        self.task = folder / "asked.py"
        self.task.write_text(TASK)
        self.write([{"question": f"Is {n} even?", "label": n % 2} for n in range(rows)])

    def write(self, rows: list[dict[str, object]], complete: bool = True) -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), self.file)
        entry = {"file": "org__asked/default/test.parquet", "rows": len(rows), "rows_on_hub": 30, "complete": complete}
        entry["sha256"] = hashlib.sha256(self.file.read_bytes()).hexdigest()
        (self.folder / "data" / "MANIFEST.json").write_text(json.dumps([entry]))

    def place(self) -> Surroundings:
        from assay.harness.task.hub import manifest, mirror_table

        manifest.cache_clear()  # a new process reads the files anew
        mirror_table.cache_clear()
        return Surroundings(self.folder / "results", self.folder / "cache", self.folder / "data", True)

    def plan(self, **changes: object) -> Plan:
        return Plan(model=str(make_model(self.folder / "model")), tasks=(str(self.task),), engine="scripted", **changes)  # type: ignore[arg-type]


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


def opening(fault: Fault | None = None, made: list[Scripted] | None = None) -> object:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        engine = Scripted(hashed(3) if fault is None else faulty(hashed(3), fault))
        if made is not None:
            made.append(engine)
        return engine

    return opener


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_data_file_is_refused_before_anything_is_written(mirror: Mirror, damage: str, listed: bool) -> None:
    plan, data = mirror.plan(), bytearray(mirror.file.read_bytes())
    if damage == "flip":
        data[len(data) // 2 if listed else -6] ^= 0x10
    mirror.file.write_bytes(data if damage == "flip" else data[: len(data) // 2] if damage == "truncate" else b"")
    if not listed:
        (mirror.folder / "data" / "MANIFEST.json").unlink()
    with pytest.raises(AssayError, match=r"test\.parquet: (differs from the hash|cannot be read as Parquet).*download .*again"):
        evaluate(plan, mirror.place(), opener=opening())  # type: ignore[arg-type]
    assert not (mirror.folder / "results").exists()


def test_rows_that_are_missing_need_leave_and_are_never_ranked(mirror: Mirror) -> None:
    mirror.write([{"question": f"Is {n} even?", "label": n % 2} for n in range(20)], complete=False)
    with pytest.raises(AssayError, match=r"has 20 of the data set's 30 rows.*--allow-partial"):
        evaluate(mirror.plan(), mirror.place(), opener=opening())  # type: ignore[arg-type]
    run = read_run(evaluate(mirror.plan(allow_partial=True), mirror.place(), opener=opening()))  # type: ignore[arg-type]
    assert run.manifest["evidence"] == "partial"
    assert query(mirror.folder / "results", "SELECT * FROM leaderboard") == []


def test_a_file_with_other_rows_than_the_manifest_says_is_refused(mirror: Mirror) -> None:
    """Also where the manifest has no hash of it."""
    mirror.write([{"question": "Is 1 even?", "label": 1}, {"question": "Is 2 even?", "label": 0}])
    entry = {"file": "org__asked/default/test.parquet", "rows": 30, "complete": True}
    (mirror.folder / "data" / "MANIFEST.json").write_text(json.dumps([entry]))
    for plan in (mirror.plan(), mirror.plan(allow_partial=True)):
        with pytest.raises(AssayError, match=r"test\.parquet: has 2 rows, MANIFEST\.json says 30\. download the file again"):
            evaluate(plan, mirror.place(), opener=opening())  # type: ignore[arg-type]
    assert not (mirror.folder / "results").exists()


def test_one_row_that_changed_upstream_stops_a_resume_and_tells_two_runs_apart(mirror: Mirror) -> None:
    plan = mirror.plan()
    with pytest.raises(Incomplete):
        evaluate(plan, mirror.place(), opener=opening(Fault("raise", at=9)))  # type: ignore[arg-type]
    mirror.write([{"question": f"Is {n} even?", "label": (n % 2) if n != 7 else 1 - n % 2} for n in range(30)])
    with pytest.raises(AssayError, match=r"asked: data was .*start a new run"):
        resume(find_run(mirror.folder / "results", "20"), mirror.place(), opener=opening())  # type: ignore[arg-type]
    now = read_run(evaluate(plan, mirror.place(), opener=opening()))  # type: ignore[arg-type]
    before = read_run(find_run(mirror.folder / "results", list_runs(mirror.folder / "results")[0].id))
    assert now.manifest["tasks"][0]["data"] != before.manifest["tasks"][0]["data"]
    assert now.manifest["item_set"] != before.manifest["item_set"]


def test_no_network_is_touched_where_everything_is_here(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert read_run(evaluate(mirror.plan(), mirror.place(), opener=opening())).status == "complete"  # type: ignore[arg-type]


def test_a_hub_that_is_not_there_is_one_line_and_writes_nothing(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssayError, match="not in the hub's cache, and the network is off"):
        evaluate(Plan(model="nobody/nothing", tasks=(str(mirror.task),)), mirror.place())
    assert not (mirror.folder / "results").exists()


class Away(http.server.BaseHTTPRequestHandler):
    """A hub that answers everything with 504."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(504)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def away() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_504_stops_no_run_of_what_is_in_its_cache(tmp_path: Path, away: http.server.ThreadingHTTPServer) -> None:
    cached, commit = tmp_path / "hf" / "hub" / "models--acme--tiny", "0123456789" * 4
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    make_model(cached / "snapshots" / commit)
    write_task(tmp_path, 4)
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{away.server_port}", "HF_HUB_OFFLINE": "0"}
    env = {name: value for name, value in env.items() if not name.lower().endswith("_proxy") and name not in ("HF_HUB_CACHE", "HF_TOKEN")}
    env |= {"ASSAY_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join((str(ROOT), env.get("PYTHONPATH", "")))}

    def run(model: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "assay", "run", "--model", model, "--tasks", "sums.py", "--engine", "scripted"]
        return subprocess.run(
            [*line, "--results", model.partition("/")[2]], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300
        )

    done = run("acme/tiny")
    assert done.returncode == 0, done.stderr
    asked = len(away.asked)  # type: ignore[attr-defined]
    assert 0 < asked <= 8, "it was asked, and not again and again"
    (manifest,) = (tmp_path / "tiny").rglob("manifest.json")
    assert json.loads(manifest.read_text())["model"]["revision"] == commit
    gone = run("acme/gone")
    assert gone.returncode == 2 and "not in the hub's cache, and the hub cannot be reached" in gone.stderr
    assert "Traceback" not in gone.stderr and not (tmp_path / "gone").exists()
    assert len(away.asked) - asked <= 8  # type: ignore[attr-defined]


def refuse(*args: object, **names: object) -> None:
    raise OSError("504: the network is down")


def test_a_flipped_byte_in_the_weights_is_another_model(tmp_path: Path) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path)
    plan = Plan(model=str(model), tasks=(str(task),), engine="scripted")
    before = find_model(str(model), cache=tmp_path)
    with pytest.raises(Incomplete):
        evaluate(plan, place(tmp_path), opener=opening(Fault("raise", at=9)))  # type: ignore[arg-type]
    weights = model / "model.safetensors"
    stat, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same path, same size, same time
    assert find_model(str(model), cache=tmp_path).digest != before.digest
    with pytest.raises(AssayError, match="the model's files are not those of this run"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening())  # type: ignore[arg-type]
    made: list[Scripted] = []
    run = read_run(evaluate(plan, place(tmp_path), opener=opening(made=made)))  # type: ignore[arg-type]
    assert made[0].calls.total() == 40, "nothing of the other weights' answers is used again"
    assert run.manifest["model"]["digest"] != before.digest


def test_another_models_folder_with_this_runs_bundle_is_refused(tmp_path: Path) -> None:
    """A resume after the model's folder was replaced by another model: nothing is asked, nothing keeps the old name."""
    model, task = make_model(tmp_path / "model"), write_task(tmp_path)
    with pytest.raises(Incomplete):
        evaluate(Plan(str(model), (str(task),), engine="scripted"), place(tmp_path), opener=opening(Fault("raise", at=40)))  # type: ignore[arg-type]
    make_model(model, seed=9)
    made: list[Scripted] = []
    with pytest.raises(AssayError, match="start a new run for the new weights"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(made=made))  # type: ignore[arg-type]
    assert not made and query(tmp_path / "results", "SELECT * FROM scores") == []


def test_one_nan_weight_makes_errors_of_its_items_and_reaches_no_score_and_no_rank(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model, task = make_model(tmp_path / "model"), write_task(tmp_path, 40)
    weights = load_file(model / "model.safetensors")
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].copy()
    weights["model.embed_tokens.weight"][vocabulary["7"], 3] = np.nan  # tied: every logit of this token is NaN too
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Invalid, match=r"NaN or infinity: 1 of [\d,]+ values of model.embed_tokens.weight") as caught:
        evaluate(Plan(model=str(model), tasks=(str(task),), engine="hf", device="cpu"), place(tmp_path))
    assert caught.value.exit_code == 14 and "assay resume" not in str(caught.value)
    results = tmp_path / "results"
    bundle = find_run(results, "20")
    records = read_run(bundle).records()
    assert records and all(not record.stats and record.correct is None for record in records if record.status == "error")
    assert query(results, "SELECT * FROM scores") == [] == query(results, "SELECT * FROM leaderboard")
    for file in bundle.glob("*.json*"):
        assert b"NaN" not in file.read_bytes() and b"Infinity" not in file.read_bytes()
    assert check(results) == ()


SCORES = {"score": ("value", "low", "high"), "sample": ("correct",), "trial": ("gain", "gain_low", "gain_high")}


def test_nan_breaks_a_rule_of_every_score_column(tmp_path: Path) -> None:
    evaluate(
        Plan(str(make_model(tmp_path / "model")), (str(write_task(tmp_path)),), engine="scripted"),
        place(tmp_path),
        opener=opening(),  # type: ignore[arg-type]
    )
    connection = duckdb.connect(str(tmp_path / "results" / "assay.duckdb"))
    try:
        connection.execute("INSERT INTO trial (study, gain, gain_low, gain_high) VALUES ('s', 0.1, 0.0, 0.2)")
        for table, columns in SCORES.items():
            for column in columns:
                assert connection.execute(f"SELECT count(*) FROM {table} WHERE {column} IS NOT NULL").fetchone() != (0,), (table, column)
                for number in (math.nan, math.inf, -math.inf):
                    with pytest.raises(duckdb.ConstraintException):
                        connection.execute(f"UPDATE {table} SET {column} = ?", [number])
    finally:
        connection.close()
