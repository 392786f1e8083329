"""assay fetch: published files and data sets of the hub become a mirror, with the hub's real clients against a server of our own."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, HubServer, serving

from assay import Access, AssayError, Missing, hub
from assay.harness.files.download import Published, download
from assay.harness.task.fetch import data_sets, fetch_data_set, hubs_in
from assay.harness.task.hub import Original
from assay.tasks import bbh, bigbench
from assay.tasks._helm.text import IMDB_CONTRAST, contrast_rows
from assay.tasks._helm.translation import MULTI30K, image_rows

CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.parquet}
  - {split: test, path: main/test.parquet}
---
"""
TASK = """from assay import Doc, Generate, Task, exact_match, hub

def read(row):
    return Doc(row["question"], references=(row["answer"],))

TASKS = (Task("{name}", hub("{repo}", "{config}", revision="{revision}"), read, Generate(4), (exact_match,), split="test"),)
"""
DRIVER = """import json, sys
from assay.harness.cli import main
for name in sys.argv[1].split(","):
    sys.argv[1:] = ["fetch", f"{name}.py", "--to", "data", "--json"]
    try:
        main()
    except SystemExit as end:
        print(json.dumps({"name": name, "code": end.code or 0}), flush=True)
"""


def parquet(count: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(count)]), file)
    return file.getvalue()


@pytest.fixture
def server() -> Any:
    with serving(HubServer()) as hub_server:
        yield hub_server


def published(server: HubServer, name: str, content: bytes) -> Published:
    server.files[f"/{name}"] = content
    return Published(f"{server.url}/{name}", hashlib.sha256(content).hexdigest())


def test_a_cut_download_is_continued_where_it_ended(tmp_path: Path, server: HubServer) -> None:
    content = os.urandom(100_000)
    source = published(server, "a.bin", content)
    server.cut["a.bin"] = 2
    assert download(source, tmp_path / "deep" / "a.bin", pause=0)
    assert (tmp_path / "deep" / "a.bin").read_bytes() == content
    assert server.sent["/a.bin"] == len(content), "no byte is sent twice"
    assert not download(source, tmp_path / "deep" / "a.bin") and server.asked["GET /a.bin"] == 3, "what is there is not fetched again"


def test_a_part_of_an_earlier_process_is_continued(tmp_path: Path, server: HubServer) -> None:
    source = published(server, "a.bin", b"x" * 1000)
    (tmp_path / ".a.bin.part").write_bytes(b"x" * 600)
    download(source, tmp_path / "a.bin")
    assert server.sent["/a.bin"] == 400
    (tmp_path / ".b.bin.part").write_bytes(b"x" * 5000)  # longer than the file
    download(source, tmp_path / "b.bin")
    assert (tmp_path / "b.bin").read_bytes() == b"x" * 1000


def test_a_busy_server_is_asked_again_and_another_content_is_refused(tmp_path: Path, server: HubServer) -> None:
    source = published(server, "a.bin", b"right")
    server.busy["a.bin"] = 2
    download(source, tmp_path / "a.bin", pause=0)
    assert (tmp_path / "a.bin").read_bytes() == b"right"
    with pytest.raises(AssayError, match="has the SHA-256"):
        download(replace(source, sha256="0" * 64), tmp_path / "b.bin", pause=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    with pytest.raises(AssayError, match="404"):
        download(Published(f"{server.url}/none", "0" * 64), tmp_path / "c.bin", pause=0)
    server.busy["a.bin"] = 99
    with pytest.raises(AssayError, match=r"429.*what has arrived is kept"):
        download(source, tmp_path / "d.bin", pause=0)


def test_data_that_are_on_no_hub_come_from_their_publisher(tmp_path: Path, server: HubServer) -> None:
    tables = [
        f"Sentiment\tText\n{label}\t\"A {word}, 'quoted' film.\"\n".encode() for label, word in (("Positive", "fine"), ("Negative", "dull"))
    ]
    files = tuple(published(server, f"{n}.tsv", content) for n, content in enumerate(tables))
    source = hub("local/pairs", original=Original({"test": files}, contrast_rows))
    with pytest.raises(Missing, match=r"on no hub.*assay fetch"):
        source.load("test", Access(tmp_path))
    (made,) = fetch_data_set(source, tmp_path, lambda *_: None)
    assert (made.file, made.rows, made.new) == ("local__pairs/default/test.parquet", 1, True)
    expected = {"original": "A fine, 'quoted' film.", "original_label": 1, "contrast": "A dull, 'quoted' film.", "contrast_label": 0}
    assert source.load("test", Access(tmp_path, offline=True)).rows == (expected,)
    asked = sum(server.asked.values())
    assert [each.new for each in fetch_data_set(source, tmp_path, lambda *_: None)] == [False] and sum(server.asked.values()) == asked
    (tmp_path / made.file).write_bytes(b"broken")
    assert [each.new for each in fetch_data_set(source, tmp_path, lambda *_: None)] == [True]
    assert source.load("test", Access(tmp_path)).rows == (expected,)


def test_published_files_become_the_rows_of_our_tasks() -> None:
    lines = [gzip.compress(f"{word} \n{word} two\n".encode()) for word in ("en", "de", "fr")]
    assert list(image_rows(tuple(lines)))[1] == {"en": "en two", "de": "de two", "fr": "fr two"}
    assert MULTI30K.original is not None and all(len(files) == 3 for files in MULTI30K.original.files.values())
    assert [each.repo for each in hubs_in(IMDB_CONTRAST.rows)] == ["local/imdb_contrast_sets", "stanfordnlp/imdb"]
    assert len(data_sets([IMDB_CONTRAST.rows, IMDB_CONTRAST.rows])) == 2
    assert len(bbh.find_files("bbh@bbh-paper")) == 27 and list(bbh.find_files("bbh/snarks")) == ["lukaemon__bbh/cot-prompts/snarks.txt"]
    lite, one = bigbench.find_files("bigbench-lite@bigbench"), bigbench.find_files("bigbench/logical_deduction/generate")
    assert {path.split("/")[1] for path in lite} == set(bigbench.LITE) and len(bigbench.find_files("bigbench")) == 165
    assert sorted(path.rpartition("logical_deduction/")[2] for path in one) == [
        *("five_objects/task.json", "seven_objects/task.json", "task.json", "three_objects/task.json")
    ]
    assert one["google__BIG-bench/logical_deduction/task.json"].url.endswith("/bigbench/benchmark_tasks/logical_deduction/task.json")
    assert not bbh.find_files("glue") and not bigbench.find_files("glue") and not bigbench.find_files("bigbench:file")


def test_a_mirror_with_another_config_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "own__sums" / "plain_text").mkdir(parents=True)
    with pytest.raises(Missing, match="the mirror has config plain_text, not default"):
        hub("own/sums").load("test", Access(tmp_path, offline=True))


@pytest.fixture
def hub_runs(tmp_path: Path, server: HubServer) -> Any:
    """Runs assay fetch for several tasks in one process with the real clients; returns the JSON of each and its exit code."""

    def run(*tasks: tuple[str, str, str, str]) -> list[tuple[dict[str, Any], int]]:
        for name, repo, config, revision in tasks:
            (tmp_path / f"{name}.py").write_text(TASK.format(name=name, repo=repo, config=config, revision=revision))
        (tmp_path / "driver.py").write_text(DRIVER)
        own = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "ASSAY_CACHE": str(tmp_path / "cache"),
        }
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "ASSAY_DATA", "HF_TOKEN")}
        done = subprocess.run(
            [sys.executable, "driver.py", ",".join(name for name, *_ in tasks)],
            cwd=tmp_path,
            env={**kept, **own},
            capture_output=True,
            text=True,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == 2 * len(tasks), done.stderr[-2000:]
        return [(lines[n], lines[n + 1]["code"]) for n in range(0, len(lines), 2)]

    return run


def test_the_hub_is_mirrored_with_its_manifest_and_its_faults_are_named(tmp_path: Path, server: HubServer, hub_runs: Any) -> None:
    files = {"README.md": CARD, "main/train.parquet": parquet(3000), "main/test.parquet": parquet(5)}
    server.repos = {"own/sums": files, "own/locked": files, "own/secret": files, "own/busy": files, "own/other": files}
    server.gated, server.private = {"own/locked"}, {"own/secret"}
    server.cut, server.busy = {"main/train.parquet": 1}, {"main/test.parquet": 1}
    runs = hub_runs(
        ("sums", "own/sums", "main", COMMIT),
        ("locked", "own/locked", "main", COMMIT),
        ("secret", "own/secret", "main", COMMIT),
        ("moved", "own/other", "main", "d" * 40),
        ("config", "own/other", "plain_text", COMMIT),
        ("again", "own/sums", "main", COMMIT),
    )
    (good, code), *bad, (again, again_code) = runs
    assert code == again_code == 0
    assert [(each["file"], each["rows"]) for each in good["files"]] == [
        ("own__sums/main/train.parquet", 3000),
        ("own__sums/main/test.parquet", 5),
    ]
    assert server.asked[f"GET /datasets/own/sums/resolve/{COMMIT}/main/train.parquet"] == 2, "the cut download is taken up"
    assert [each["new"] for each in again["files"]] == [False, False]
    assert [run[1] for run in bad] == [13, 13, 13, 13]
    told = [run[0]["failed"][0] for run in bad]
    assert told[0]["what"] == "its owner gives access on request" and "hf auth login" in told[0]["do"]
    assert told[1]["what"] == "is private, or does not exist on the hub"
    assert told[2]["what"] == f"has no revision {'d' * 40} any more"
    assert told[3]["what"] == "the hub has the configs main, not plain_text"
    entries = json.loads((tmp_path / "data" / "MANIFEST.json").read_text())
    assert [(each["file"], each["complete"], each["sources"]) for each in entries] == [
        (f"own__sums/main/{split}.parquet", True, [{"repo": "own/sums", "commit": COMMIT}]) for split in ("test", "train")
    ]
    rows = hub("own/sums", "main", revision=COMMIT).load("test", Access(tmp_path / "data", offline=True)).rows
    assert rows[3] == {"question": "3 + 3?", "answer": "6"}
