"""Runs that are killed, for the tests of the store. As a script: `store_child.py kills COUNT SEED`, `boundaries`, `index_boundaries`,
`full FOLDER`, `limit FOLDER`, `index ROOT COUNT`; each prints one JSON object.

Children are forked, so that a kill costs milliseconds and not an import.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 (before any fork)
import pyarrow.parquet  # noqa: F401

from assay.harness.errors import AssayError, Incomplete
from assay.harness.store import check, create_bundle, index, open_writer, query, read_run
from assay.harness.store.record import Item, Record

TASK = "capitals@own"
BATCH = 4
PAUSE = 0.002
"""Seconds that a batch takes where kills are meant to meet it."""
SHORTEST, LONGEST = 0.002, 2.0
"""Seconds from the first sign of work to a kill: a part of a batch, or a whole run with its indexing."""


def make_items(count: int = 40, task: str = TASK) -> list[Item]:
    return [
        Item(
            task,
            f"i{n}",
            f"g{n // 2}",
            f"c{n // 4}",
            f"Q: {n} é?\nA:",
            ("yes", "no"),
            "no",
            {"gold": 1, "meta": {"n": n}},
            ("s1",),
            f"k{n}",
        )
        for n in range(count)
    ]


def make_record(item: Item, padding: int = 0) -> Record:
    """What a model said, as a function of the item alone."""
    seed = random.Random(item.id)
    right = float(seed.random() < 0.5)
    output = {"loglikelihoods": [-seed.random(), -seed.random()], "tokens": [1, 1], "pick": int(right), "note": "x" * padding}
    return Record(item.task, item.id, "scored", output, {"accuracy": (right,), "pair": (right, seed.random())}, right, logical=7)


def make_manifest(name: str = "tiny", **changes: Any) -> dict[str, Any]:
    facts = {
        "model": {"name": name, "path": "/models/tiny", "digest": f"digest of {name}", "parameters": 1},
        "engine": {"name": "scripted"},
        "tasks": [make_facts(**{name: changes[name] for name in ("purpose", "evidence") if name in changes})],
        "purpose": "release",
        "evidence": "complete",
        "plan": {"model": name, "tasks": [TASK], "seed": 0, "dtype": "auto"},
    }
    return facts | changes


def make_facts(name: str = TASK, **changes: Any) -> dict[str, Any]:
    """What a manifest says of a task."""
    facts = {"name": name, "version": 1, "split": "test", "data": "d1", "shots": 0, "shots_order": "", "ask": "Choose()"}
    more = {"metrics": ["accuracy", "pair"], "evidence": "complete", "purpose": "release", "labelled": True, "fingerprint": "f1"}
    return facts | more | {"boundary_moved": 0, "shots_dropped": 0} | changes


def make_summary(records: Sequence[Record], **changes: Any) -> dict[str, Any]:
    """Results as a run computes them, from the records alone."""
    value = sum(record.correct or 0.0 for record in records) / len(records)
    row = {"task": TASK, "metric": "accuracy", "value": value, "low": 0.0, "high": 1.0, "n": len(records), "shots": 0, "signature": "s"}
    more = {"main": True, "better": "higher", "evidence": "complete", "purpose": "release"}
    return {"results": [row | more | changes], "engine": {}, "tokens": {}, "seconds": {}}


def complete_run(root: Path, manifest: Mapping[str, Any] | None = None, count: int = 6, **changes: Any) -> Path:
    items = make_items(count)
    bundle = create_bundle(root, manifest or make_manifest(), items)
    with open_writer(bundle) as writer:
        writer.append([make_record(item) for item in items])
        writer.finish(make_summary(writer.records(), **changes))
    return bundle


def work(bundle: Path, log: int, pause: float = 0.0) -> None:
    """Asks what is not done, in small batches, and closes the run; notes in `log` what was asked, what was acknowledged, and the end."""
    with open_writer(bundle) as writer:
        done = writer.done()
        pending = [item for item in read_run(bundle).items() if (item.task, item.id) not in done]
        for start in range(0, len(pending), BATCH):
            batch = pending[start : start + BATCH]
            note(log, "asked", batch)
            time.sleep(pause)
            writer.append([make_record(item) for item in batch])
            note(log, "kept", batch)
        REAL_WRITE(log, b"closing run\n")
        writer.finish(make_summary(writer.records()))


def work_and_index(root: Path, bundle: Path, log: int) -> None:
    work(bundle, log, PAUSE)
    REAL_WRITE(log, b"indexing run\n")
    index(root)


def note(log: int, what: str, items: Sequence[Item]) -> None:
    REAL_WRITE(log, "".join(f"{what} {item.id}\n" for item in items).encode())


REAL_WRITE = os.write


def fork(action: Callable[[], object]) -> int:
    """Runs an action in a child; gives its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def tally(log: Path) -> tuple[Counter[str], set[str]]:
    lines = [line.split() for line in log.read_text().splitlines()]
    return Counter(item for what, item in lines if what == "asked"), {item for what, item in lines if what == "kept"}


def verdict(bundle: Path, log: Path) -> dict[str, int]:
    """Compares a run that was killed and resumed with what an uninterrupted one gives."""
    asked, kept = tally(log)
    run = read_run(bundle)
    records = run.records()
    expected = [make_record(item) for item in run.items()]
    return {
        "runs": int(run.status == "complete"),
        "lost": len(kept - {record.item for record in records}),
        "duplicated": len(records) - len({record.item for record in records}),
        "different": sum(one != other for one, other in zip(records, expected, strict=False)) + abs(len(records) - len(expected)),
        "asked_again": sum(asked.values()) - len(asked),
        "leftovers": sum(path.name == "journal.jsonl" or path.name.startswith(".") for path in bundle.iterdir()),
    }


def close_run(bundle: Path, log_path: Path) -> Counter[str]:
    """Resumes without a kill, then judges."""
    with log_path.open("ab") as log:
        _, status = os.waitpid(fork(lambda: work(bundle, log.fileno())), 0)
    found = Counter(_in_child(lambda: verdict(bundle, log_path)))
    found["failed"] = int(status != 0)
    return found


def kills(count: int, seed: int) -> dict[str, int]:
    """SIGKILLs at seeded random moments of a run or of its indexing, each after the process at work noted something new; a run that got
    done is followed by a new one."""
    chance = random.Random(seed)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root, log_path, bundle = Path(folder), Path(folder) / "log", None
        while total["killed"] < count and not total["failed"]:
            if bundle is None:
                bundle = create_bundle(root, make_manifest(), make_items())
                log_path.unlink(missing_ok=True)
                log_path.touch()
            with log_path.open("ab") as log:
                run, number = bundle, log.fileno()
                status = kill_at_work(lambda run=run, number=number: work_and_index(root, run, number), log_path, chance)
            if os.WIFSIGNALED(status):
                total.update(["killed", f"killed_{log_path.read_text().split()[-2]}"])  # by what it noted last
            else:
                total["failed"] += status != 0
            if (bundle / "DONE").exists():
                total.update(close_run(bundle, log_path))
                bundle = None
        if bundle is not None:
            total.update(close_run(bundle, log_path))
        total.update(_in_child(lambda: judge_index(root)))
        total["excess"] = max(0, total["asked_again"] - BATCH * total["killed"])
    return dict(total)


def kill_at_work(action: Callable[[], object], log: Path, chance: random.Random) -> int:
    """Kills a child at a random moment after its log grew; gives its exit status, as it may have ended before. Moments are spread evenly
    over the orders of magnitude, for a batch is a hundred times shorter than indexing."""
    before, pid = log.stat().st_size, fork(action)
    while log.stat().st_size == before:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(PAUSE / 2)
    time.sleep(SHORTEST * (LONGEST / SHORTEST) ** chance.random())
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def judge_index(root: Path) -> dict[str, int]:
    """Brings the index up to date and compares its rows with the bundles."""
    index(root)
    rows = query(root, "SELECT count(*), count(DISTINCT (run_id, item_id)) FROM samples")[0]
    planned = sum(len(read_run(path).items()) for path in (root / "runs").iterdir() if not path.name.startswith("."))
    leftovers = [path for path in root.iterdir() if path.name.startswith(".assay-")]
    return {"index_wrong": abs(rows[0] - planned) + abs(rows[1] - planned) + len(leftovers), "problems": len(check(root))}


def _in_child(action: Callable[[], dict[str, int]]) -> dict[str, int]:
    """The result of an action, without its threads in this process, which goes on forking."""
    read, write = os.pipe()
    pid = fork(lambda: REAL_WRITE(write, json.dumps(action()).encode()) and None)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def kill_at(boundary: int) -> None:
    """From here on, dies at the n-th system call that changes a file: before it, or, for a write, half way through it."""
    left = [boundary]
    write = os.write

    def step() -> bool:
        left[0] -= 1
        return left[0] == 0

    def torn_write(fd: int, data: Any) -> int:
        if step():
            write(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(fd, data)

    os.write = torn_write
    for name in ("fsync", "ftruncate", "replace", "unlink"):
        setattr(os, name, _dying(getattr(os, name), step))


def _dying(call: Callable[..., Any], step: Callable[[], bool]) -> Callable[..., Any]:
    def wrapped(*args: Any, **names: Any) -> Any:
        if step():
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **names)

    return wrapped


def boundaries() -> dict[str, int]:
    """A kill at every boundary of a run in turn, each followed by a resume."""
    total: Counter[str] = Counter()
    alive = True
    while alive:
        with tempfile.TemporaryDirectory() as folder:
            bundle, log_path = create_bundle(Path(folder), make_manifest(), make_items(12)), Path(folder) / "log"
            with log_path.open("ab") as log:
                number, run, at = log.fileno(), bundle, total["killed"] + 1
                pid = fork(lambda run=run, number=number, at=at: (kill_at(at), work(run, number)))
            alive = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            total["killed"] += alive
            total.update(close_run(bundle, log_path))
    return dict(total)


def index_boundaries() -> dict[str, int]:
    """A kill at every boundary of indexing in turn; readers always find a whole index, and the next update completes it."""
    total: Counter[str] = Counter()
    alive = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _in_child(lambda: {"first": len(index(root, [complete_run(root)]).indexed)})
        while alive:
            at = total["killed"] + 1
            alive = os.WIFSIGNALED(os.waitpid(fork(lambda at=at: (complete_run(root), kill_at(at), index(root))), 0)[1])
            total["killed"] += alive
            total.update(_in_child(lambda: {"torn": query(root, "SELECT count(*) FROM samples")[0][0] % 6}))
        total.update(_in_child(lambda: judge_index(root)))
    return dict(total)


def fill(root: Path, limit: bool) -> dict[str, Any]:
    """Appends until the disk is full (or a file too large), makes room, and goes on."""
    ballast = root / "ballast"
    ballast.write_bytes(b"x" * 2_000_000)
    items = make_items(2000)
    bundle = create_bundle(root, make_manifest(), items)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    acknowledged, report = 0, {"first": "", "code": 0}
    try:
        with open_writer(bundle) as writer:
            for start in range(0, len(items), 10):
                writer.append([make_record(item, 1000) for item in items[start : start + 10]])
                acknowledged += 10
    except Incomplete as error:
        report = {"first": str(error), "code": error.exit_code}
    before = sorted(path.name for path in (root / "runs").iterdir())
    try:
        for _ in range(100):
            create_bundle(root, make_manifest(), [Item(TASK, "x", "", "", random.Random(1).randbytes(500_000).hex())])
        report["second"] = ""
    except AssayError as error:
        report["second"] = str(error)
    report["half_written"] = any(not (path / "items.parquet").exists() for path in (root / "runs").iterdir())
    for path in (root / "runs").iterdir():  # the small ones that still fitted
        if path.name not in before:
            for file in (*path.iterdir(), path):
                file.unlink() if file.is_file() else file.rmdir()
    ballast.unlink()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with open_writer(bundle) as writer:
        report |= {"acknowledged": acknowledged, "kept": len(writer.done())}
        writer.append([make_record(item) for item in items if (item.task, item.id) not in writer.done()])
        full = root / "ballast"
        room = os.statvfs(root)
        if not limit:
            full.write_bytes(b"x" * (room.f_bavail * room.f_frsize - 30_000))
            try:
                writer.finish(make_summary(writer.records()))
            except Incomplete as error:
                report["third"] = str(error)
            full.unlink()
        writer.finish(make_summary(writer.records()))
    report["status"] = read_run(bundle).status
    report["items"] = len(read_run(bundle).records())
    return report


def index_runs(root: Path, count: int) -> dict[str, int]:
    """Many small runs, each indexed as soon as it is complete."""
    for _ in range(count):
        index(root, [complete_run(root, count=5)])
    return {"runs": count}


def main(command: str, *args: str) -> None:
    actions: dict[str, Callable[[], dict[str, Any]]] = {
        "kills": lambda: kills(int(args[0]), int(args[1])),
        "boundaries": boundaries,
        "index_boundaries": index_boundaries,
        "full": lambda: fill(Path(args[0]), limit=False),
        "limit": lambda: fill(Path(args[0]), limit=True),
        "index": lambda: index_runs(Path(args[0]), int(args[1])),
    }
    print(json.dumps(actions[command]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
