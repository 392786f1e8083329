from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from faults.store_child import TASK, complete_run, make_items, make_manifest, make_record, make_summary

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.parquet import read_table
from assay.harness.store import check, create_bundle, find_run, index, list_runs, open_writer, read_run, stats_of
from assay.harness.store.record import Record
from assay.harness.store.tables import to_parquet


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_run_is_a_folder_with_manifest_and_items(tmp_path: Path) -> None:
    items = make_items(5)
    bundle = create_bundle(tmp_path, make_manifest("../../evil", run="mine"), items)
    assert bundle.parent == tmp_path / "runs"
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", bundle.name)
    assert names(bundle) == {"manifest.json", "items.parquet"}
    assert names(tmp_path / "runs") == {bundle.name}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["run"], manifest["items"], manifest["schema"], manifest["model"]["name"]) == (bundle.name, 5, 1, "../../evil")
    assert manifest["created_at"].endswith("+00:00")
    run = read_run(bundle)
    assert (run.status, run.items(), run.records()) == ("running", tuple(items), ())


def test_the_item_set_does_not_depend_on_rendering_or_order(tmp_path: Path) -> None:
    items = make_items(5)

    def hashed(changed: list[object]) -> str:
        return str(read_run(create_bundle(tmp_path, make_manifest(), changed)).manifest["item_set"])  # type: ignore[arg-type]

    same = hashed([replace(item, prompt="chat: " + item.prompt, key="other tokenizer") for item in reversed(items)])
    assert hashed(list(items)) == same
    assert hashed([replace(items[0], gold="yes"), *items[1:]]) != same
    assert hashed(list(items[1:])) != same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "i1"}, "'i1' is planned 2 times"),
        ({"doc": {"value": math.nan}}, "value is not a finite number"),
        ({"doc": {"meta": {1, 2}}}, "cannot be written as JSON"),
        ({"prompt": "\ud800"}, "cannot be written as text"),
    ],
)
def test_invalid_items_are_refused_before_anything_is_written(tmp_path: Path, change: dict[str, object], message: str) -> None:
    items = make_items(3)
    with pytest.raises(AssayError, match=message):
        create_bundle(tmp_path, make_manifest(), [replace(items[0], **change), *items[1:]])  # type: ignore[arg-type]
    assert names(tmp_path) == set()


def test_an_unwritable_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(AssayError, match=r"runs: cannot be written: .*--results"):
        create_bundle(tmp_path, make_manifest(), make_items(1))
    with pytest.raises(AssayError, match="at least one item"):
        create_bundle(tmp_path, make_manifest(), [])


def test_two_writers_never_write_one_run(tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(2))
    code = (
        f"from pathlib import Path; from assay.harness.store import open_writer\nwith open_writer(Path({str(bundle)!r})): print('got it')"
    )
    with open_writer(bundle) as writer:
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"in use by process {os.getpid()} on {socket.gethostname()}" in other.stderr
        assert "Incomplete" in other.stderr
        with pytest.raises(Incomplete, match=f"process {os.getpid()}"), open_writer(bundle):
            pass
        assert list_runs(tmp_path)[0].owner.startswith(f"process {os.getpid()} ")
        writer.append([make_record(item) for item in make_items(2)])
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "got it\n"
    assert list_runs(tmp_path)[0].owner == ""


@pytest.mark.parametrize("content", ["dead", "recycled", "", "{", '{"pid": "x"}'])
def test_a_lock_of_the_dead_is_taken_over(tmp_path: Path, content: str) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(1))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    dead = {"pid": gone.pid, "host": host, "started": "x"}
    recycled = {"pid": os.getppid(), "host": host, "started": "another boot:1"}
    text = {"dead": json.dumps(dead), "recycled": json.dumps(recycled)}.get(content, content)
    (bundle / "lock.json").write_text(text)
    with open_writer(bundle):
        assert json.loads((bundle / "lock.json").read_text())["pid"] == os.getpid()
    assert not (bundle / "lock.json").exists()


def test_a_lock_of_another_host_is_never_broken(tmp_path: Path) -> None:
    bundle = create_bundle(tmp_path, make_manifest(), make_items(1))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()  # that number means nothing there
    (bundle / "lock.json").write_text(json.dumps({"pid": gone.pid, "host": "elsewhere", "started": "boot:1"}))
    with pytest.raises(Incomplete, match=rf"process {gone.pid} on elsewhere.*delete this file"), open_writer(bundle):
        pass


def test_a_run_is_resumed_from_where_it_stopped_and_finished_once(tmp_path: Path) -> None:
    items = make_items(6)
    records = [make_record(item) for item in items]
    bundle = create_bundle(tmp_path, make_manifest(), items)
    with open_writer(bundle) as writer:
        writer.append([records[4], records[1]])
        writer.append([Record(TASK, "i0", "error", error="engine died")])
        with pytest.raises(Incomplete, match=f"3 of 6 items have no result.*assay resume {bundle.name}"):
            writer.finish({})
    with pytest.raises(Incomplete, match=r"no summary\.json yet"):
        read_run(bundle).summary()
    with open_writer(bundle) as writer:
        assert writer.done() == {(TASK, "i1"), (TASK, "i4")}
        writer.append([record for record in records if (TASK, record.item) not in writer.done()])
        running = stats_of(bundle)
        writer.finish(make_summary(writer.records()))
    assert names(bundle) == {"manifest.json", "items.parquet", "samples.parquet", "item_stats.parquet", "summary.json", "DONE"}
    run = read_run(bundle)
    assert (run.status, run.records(), run.items()) == ("complete", tuple(records), tuple(items))
    assert run.summary() == make_summary(records)
    table = stats_of(bundle)[TASK, "pair"]
    assert (table.item_ids, table.groups) == (tuple(f"i{n}" for n in range(6)), tuple(f"g{n // 2}" for n in range(6)))
    assert table.clusters == ("c0", "c0", "c0", "c0", "c1", "c1")
    np.testing.assert_array_equal(table.stats, np.array([record.stats["pair"] for record in records]))
    np.testing.assert_array_equal(table.stats, running[TASK, "pair"].stats)
    with open_writer(bundle) as writer:
        assert len(writer.done()) == 6
        writer.finish({"results": "ignored: the run is complete"})
        with pytest.raises(AssayError, match="complete; no records can be added"):
            writer.append(records[:1])
    assert read_run(bundle).summary() == make_summary(records)


def test_a_summary_with_nan_is_refused_and_the_run_stays_open(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"results\[0\]\.value is not a finite number"):
        complete_run(tmp_path, value=math.nan)
    (info,) = list_runs(tmp_path)
    assert info.status == "running"
    with open_writer(info.path) as writer:
        writer.finish(make_summary(writer.records()))
    assert read_run(info.path).status == "complete"


@pytest.mark.parametrize("name", ["manifest.json", "items.parquet", "samples.parquet", "item_stats.parquet", "summary.json"])
def test_a_changed_byte_in_any_file_of_a_run_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    bundle = complete_run(tmp_path)
    data = bytearray((bundle / name).read_bytes())
    at = data.index(b"scripted") if name == "manifest.json" else len(data) // 2
    data[at] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(AssayError, match=name):
        run = read_run(bundle)
        run.items(), run.records(), run.summary()


def test_a_run_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    bundle = complete_run(tmp_path)
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(AssayError, match=r"schema 2, this assay knows 1.*upgrade"):
        read_run(bundle)


def test_a_run_is_found_by_id_prefix_model_or_folder(tmp_path: Path) -> None:
    first = complete_run(tmp_path, make_manifest("org/model"))
    second = complete_run(tmp_path, make_manifest("org/model"))
    running = create_bundle(tmp_path, make_manifest("org/model"), make_items(1))
    only = create_bundle(tmp_path, make_manifest("ckpt/"), make_items(1))
    assert find_run(tmp_path, first.name) == first
    assert find_run(tmp_path, running.name[:-1]) == running or running.name[:-1] == only.name[:-1]
    assert find_run(tmp_path, str(second)) == second
    assert find_run(tmp_path, "org/model") == second
    with pytest.raises(AssayError, match=f"no run of 'ckpt' is complete.*assay resume {only.name}"):
        find_run(tmp_path, "ckpt")
    with pytest.raises(AssayError, match="matches 4 runs"):
        find_run(tmp_path, "20")
    with pytest.raises(AssayError, match=r"no run or model 'org/modle'.*did you mean org/model\?"):
        find_run(tmp_path, "org/modle")
    for text in ("", "..", "../..", "nothing like it", "\0"):
        with pytest.raises(AssayError, match="no run or model"):
            find_run(tmp_path, text)


def test_a_damaged_run_is_listed_with_the_others(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == ()
    good, bad = complete_run(tmp_path), complete_run(tmp_path)
    (bad / "manifest.json").write_text("{")
    (tmp_path / "runs" / ".new-leftover").mkdir()
    by_status = {info.status: info for info in list_runs(tmp_path)}
    assert set(by_status) == {"complete", "damaged"}
    assert (by_status["complete"].path, by_status["complete"].model, by_status["complete"].tasks) == (good, "tiny", (TASK,))
    assert "manifest.json" in by_status["damaged"].trouble
    assert find_run(tmp_path, "tiny") == good


def test_importing_the_store_loads_nothing_heavy() -> None:
    code = "import assay.harness.store, sys; print(sorted({'duckdb', 'pyarrow', 'pandas', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


STRANGE = [None, True, -1, 1e308, "", "\0", "../..", "x" * 300, [], [1], {}, {"name": {}}, [{"task": 1}]]


def test_invalid_content_of_an_untrusted_run_is_one_error(tmp_path: Path) -> None:
    chance = random.Random(3)
    bundle = complete_run(tmp_path)
    whole = {path.name: path.read_bytes() for path in bundle.iterdir()}
    refused = 0
    rounds = 1000 if os.environ.get("ASSAY_SOAK") else 80
    for turn in range(rounds):
        for name, data in whole.items():
            (bundle / name).write_bytes(data)
        name = chance.choice(["manifest.json", "summary.json", "DONE", "items.parquet", "samples.parquet", "item_stats.parquet"])
        forge(bundle, name, strange(whole[name], chance))
        assert list_runs(tmp_path)
        try:
            run = read_run(bundle)
            run.items(), run.records(), run.stats(), run.summary()
            find_run(tmp_path, "tiny")
        except AssayError as error:
            refused += 1
            assert error.where
        if turn % 8 == 0:  # slower
            index(tmp_path)
            assert isinstance(check(tmp_path), tuple)
    assert refused > rounds // 3


def strange(data: bytes, chance: random.Random) -> bytes:
    """A file's content with one thing wrong: a value of another kind in JSON, a column gone or of another type in Parquet, or bytes."""
    kind = chance.random()
    if kind < 0.2:
        at = chance.randrange(len(data))
        return data[:at] + chance.randbytes(chance.randrange(4)) + data[at + chance.randrange(8) :]
    if data.startswith(b"{"):
        value = json.loads(data)
        place = value["results"][0] if "results" in value and chance.random() < 0.7 else value
        key = chance.choice(sorted(place))
        if kind < 0.4:
            del place[key]
        else:
            place[key] = chance.choice(STRANGE)
        return json.dumps(value).encode()
    table = read_table(data, "here")
    at = chance.randrange(table.num_columns)
    column = [pa.nulls(len(table)), pa.array(range(len(table))), pa.array([[]] * len(table), pa.list_(pa.float64()))][chance.randrange(3)]
    return to_parquet(table.remove_column(at) if kind < 0.4 else table.set_column(at, table.column_names[at], column))


def forge(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file and its hashes, as in a forged run."""
    (bundle / name).write_bytes(data)
    if name != "DONE":
        digest = hashlib.sha256(data).hexdigest()
        done = json.loads((bundle / "DONE").read_text())
        if name == "items.parquet":
            text = (bundle / "manifest.json").read_text().replace(done["files"][name], digest)
            (bundle / "manifest.json").write_text(text)
            done["files"]["manifest.json"] = hashlib.sha256(text.encode()).hexdigest()
        done["files"][name] = digest
        (bundle / "DONE").write_text(json.dumps(done))
