"""Hours of runs, kills and resumes in one store while a board reads it. Run: PYTHONPATH=.:tests python tests/faults/soak.py --minutes 120

Runs of different models start side by side, are killed at random moments (SIGKILL, now and then SIGTERM) and resumed, at a modest pace;
a reader asks what the leaderboard's pages ask. Every five minutes, and at the end when all is resumed, the store is checked against
uninterrupted runs of the same plans. The report goes to --report, also when the soak is stopped early with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 (before any fork)
import pyarrow.parquet  # noqa: F401
from fakes import make_model, place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed, slow
from assay.harness.errors import Incomplete
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.evaluate import OpenEngine, resume
from assay.harness.run.scoring.results import rescore
from assay.harness.store import check, index, list_runs, query
from assay.leaderboard.data import queries

MODELS, SIZES = 3, (40, 120, 300)
DELAY = 0.01
BATCH = 2
"""Requests that a kill may cost: the newest that is finished, and the one on its way."""
LOOK = 300.0
READ_PAUSE = 2.0


@dataclass(frozen=True)
class Scene:
    """One store, its models and tasks, and the same plans run without a kill in stores of their own."""

    folder: Path
    plans: tuple[Plan, ...]

    @property
    def here(self) -> Surroundings:
        return place(self.folder)

    @property
    def calls(self) -> Path:
        return self.folder / "calls"

    def whole(self, number: int) -> Surroundings:
        return place(self.folder / f"whole-{number}")


def in_child(action: Callable[[], Any]) -> int:
    """Fork; the child runs the action and ends with 0, 13 for a resumable stop, or 1 for anything else, told on stderr."""
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        action()
        code = 0
    except Incomplete:
        code = 13
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


def told(action: Callable[[], Any]) -> Any:
    """The JSON that an action gives in a child, so that this process stays fit to fork."""
    read, write = os.pipe()
    child = in_child(lambda: os.write(write, json.dumps(action()).encode()))
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def opening(log: Path | None, delay: float) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        answer = hashed(int(ref.digest[:6], 16))
        return Scripted(slow(answer, delay) if delay else answer, log=log)

    return opener


def set_scene(folder: Path) -> Scene:
    plans = []
    for number in range(MODELS):
        model = make_model(folder / f"model-{number}", seed=number)
        for size in SIZES:
            (folder / str(size)).mkdir(exist_ok=True)
            plans.append(Plan(model=str(model), tasks=(str(write_task(folder / str(size), size)),), engine="scripted"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    open_tokenizer(Path(plans[0].model))  # the libraries, once: a fork then costs milliseconds, and kills meet work instead of imports
    scene = Scene(folder, tuple(plans))
    for number, plan in enumerate(plans):
        os.waitpid(in_child(lambda: evaluate(plan, scene.whole(number), opener=opening(None, 0))), 0)  # noqa: B023
    return scene


def turn(scene: Scene, dice: random.Random, count: Counter[str]) -> None:
    """One or two processes start or resume runs; most are killed."""
    crew = []
    waiting = [info.path for info in list_runs(scene.here.results) if info.status == "running"] if scene.here.results.exists() else []
    dice.shuffle(waiting)
    for _ in range(dice.choice((1, 1, 2))):
        if waiting and dice.random() < 0.7:
            bundle = waiting.pop()
            count["resumes"] += 1
            crew.append(in_child(lambda: resume(bundle, scene.here, opener=opening(scene.calls, DELAY))))  # noqa: B023
        else:
            plan = dice.choice(scene.plans)
            count["starts"] += 1
            crew.append(in_child(lambda: evaluate(plan, scene.here, opener=opening(scene.calls, DELAY))))  # noqa: B023
    for child in crew:
        fate = dice.random()
        time.sleep(dice.uniform(0.02, 4.0))
        if fate < 0.8:
            number = signal.SIGKILL if fate < 0.65 else signal.SIGTERM
            os.kill(child, number)
            count[number.name] += 1
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        count[f"ended with {code}"] += 1
        # A signal between two handlers may also end Python itself.
        if code not in (0, 13, -signal.SIGKILL, -signal.SIGTERM):
            count["failures"] += 1


def read_board(root: Path, report: Path) -> None:
    """What the pages ask, again and again; anything but a whole published index is counted."""
    count: Counter[str] = Counter()
    while True:
        started = time.monotonic()
        try:
            cells, runs = queries.cells(root), queries.runs(root)
            complete = runs[runs["status"] == "complete"]
            rows = dict(query(root, "SELECT run_id, count(*) FROM samples GROUP BY run_id"))
            count["reads"] += 1
            count["scores seen"] = max(count["scores seen"], len(cells))
            count["torn runs"] += sum(row.run_id in rows and rows[row.run_id] != row.items for row in complete.itertuples())
            count["not a number"] += int(cells["value"].isna().sum())
            if len(complete) < count["runs seen"]:
                count["vanished"] += 1
            count["runs seen"] = len(complete)
        except Exception as error:
            count[f"error: {error}"[:120]] += 1
        count["slowest ms"] = max(count["slowest ms"], round(1000 * (time.monotonic() - started)))
        part = report.with_suffix(".part")
        part.write_text(json.dumps(count))
        part.replace(report)
        time.sleep(READ_PAUSE)


def judge(scene: Scene) -> dict[str, int]:
    """Every complete run against the uninterrupted one of its plan; every hash, every score, the index."""
    root, found = scene.here.results, Counter[str]()
    index(root)
    wholes = {plan.digest: read_run(list_runs(scene.whole(number).results)[0].path) for number, plan in enumerate(scene.plans)}
    kept = {}
    for info in list_runs(root):
        run = read_run(info.path)
        whole = wholes[Plan.from_json(run.manifest["plan"]).digest]
        if whole.id not in kept:
            kept[whole.id] = {record.item: (record.status, record.output, record.stats, record.correct) for record in whole.records()}
        records = run.records()
        found["runs"] += 1
        found["complete"] += info.status == "complete"
        found["damaged"] += info.status == "damaged"
        found["duplicated"] += len(records) - len({record.item for record in records})
        found["different"] += sum(
            kept[whole.id][record.item] != (record.status, record.output, record.stats, record.correct) for record in records
        )
        if info.status == "complete":
            found["items"] += len(records)
            found["lost"] += len(kept[whole.id]) - len(records)
            found["different"] += run.summary()["results"] != whole.summary()["results"]
    rows = query(root, "SELECT count(*), count(DISTINCT (run_id, item_id)) FROM samples")[0]
    found["index wrong"] = abs(rows[0] - found["items"]) + abs(rows[1] - found["items"])
    found["problems"] = len(check(root, lambda run: rescore(run, scene.here.access())))
    return dict(found)


WRONG = ("damaged", "duplicated", "different", "lost", "index wrong", "problems")


def soak(scene: Scene, minutes: float, pause: float, seed: int) -> dict[str, Any]:
    dice, count, looks = random.Random(seed), Counter[str](), list[dict[str, int]]()
    started, wall = time.monotonic(), time.time()
    index_of = scene.here.results
    os.waitpid(in_child(lambda: evaluate(scene.plans[0], scene.here, opener=opening(scene.calls, 0))), 0)
    reader = in_child(lambda: read_board(index_of, scene.folder / "reads.json"))
    looked = started
    try:
        while time.monotonic() - started < 60 * minutes:
            turn(scene, dice, count)
            count["turns"] += 1
            if time.monotonic() - looked > LOOK:
                looks.append(told(lambda: judge(scene)) or {"failures": 1})
                looked = time.monotonic()
                print(f"{(looked - started) / 60:.0f} min {dict(count)} {looks[-1]}", file=sys.stderr, flush=True)
            time.sleep(dice.uniform(0, 2 * pause))
    except KeyboardInterrupt:
        count["stopped early"] += 1
    seconds = time.monotonic() - started
    for info in list_runs(scene.here.results):
        if info.status != "complete":
            count["resumed at the end"] += 1
            os.waitpid(in_child(lambda: resume(info.path, scene.here, opener=opening(scene.calls, 0))), 0)  # noqa: B023
    last = told(lambda: judge(scene)) or {"failures": 1}
    os.kill(reader, signal.SIGTERM)
    os.waitpid(reader, 0)
    calls = len(scene.calls.read_text().split())
    kills = count["SIGKILL"] + count["SIGTERM"]
    return {
        "minutes": seconds / 60,
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(wall)),
        "count": dict(count),
        "looks": looks,
        "last": last,
        "reads": json.loads((scene.folder / "reads.json").read_text()),
        "calls": calls,
        "again": calls - last.get("items", 0),
        "allowed": round(kills * BATCH),
        "cpu": sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))),
        "leftovers": sum(path.name.startswith(".new-") for path in (scene.here.results / "runs").iterdir()),
    }


def sound(found: dict[str, Any]) -> bool:
    reads = found["reads"]
    return (
        not any(look.get(name, 0) for look in (*found["looks"], found["last"]) for name in (*WRONG, "failures"))
        and not found["count"].get("failures")
        and found["last"]["runs"] == found["last"]["complete"]
        and not any(reads.get(name, 0) for name in ("torn runs", "not a number", "vanished"))
        and not any(name.startswith("error") for name in reads)
        and found["again"] <= found["allowed"]
    )


def write_report(found: dict[str, Any], asked: float, command: str) -> str:
    count, last, reads = found["count"], found["last"], found["reads"]

    def bad(name: str) -> int:
        return sum(value for key, value in reads.items() if key.startswith(name))

    rows = [
        ("requested, ran", f"{asked:.0f} min, {found['minutes']:.1f} min (from {found['began']})"),
        ("rounds; runs started, resumed", f"{count.get('turns', 0)}; {count.get('starts', 0)}, {count.get('resumes', 0)}"),
        ("killed with SIGKILL, SIGTERM", f"{count.get('SIGKILL', 0)}, {count.get('SIGTERM', 0)}"),
        ("runs at the end, complete", f"{last.get('runs')}, {last.get('complete')}"),
        ("items of complete runs", f"{last.get('items')}"),
        *((f"items or runs {name}", str(last.get(name, 0))) for name in WRONG),
        ("processes that failed for other reasons", str(count.get("failures", 0))),
        ("requests sent, repeated, allowed to repeat (a batch per kill)", f"{found['calls']}, {found['again']}, {found['allowed']}"),
        ("board reads, slowest", f"{reads.get('reads', 0)}, {reads.get('slowest ms', 0)} ms"),
        (
            "reads that were inconsistent, NaN, missing, in error",
            ", ".join(str(bad(name)) for name in ("torn runs", "not a number", "vanished", "error")),
        ),
        ("checks of the whole store during the test", str(len(found["looks"]))),
        ("incomplete run folders left", str(found["leftovers"])),
        ("processor time", f"{found['cpu']:.0f} s ({100 * found['cpu'] / (60 * found['minutes']):.0f} % of a core)"),
        ("machine", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    verdict = "Passed: nothing lost, duplicated, changed or inconsistent." if sound(found) else "**Failed: see the table.**"
    real = "The engine is scripted; the store, the processes and the kills are real."
    return f"# Soak\n\n`{command}`\n\n{verdict} {real}\n\n| | |\n|---|---|\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--pause", type=float, default=12, help="mean seconds between turns")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("results/trust/SOAK.md"))
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with Ctrl-C ignored
    command = f"PYTHONPATH=.:tests python tests/faults/soak.py --minutes {asked.minutes:g} --pause {asked.pause:g} --seed {asked.seed}"
    with tempfile.TemporaryDirectory(prefix="assay-soak-") as folder:
        found = soak(set_scene(Path(folder)), asked.minutes, asked.pause, asked.seed)
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    asked.report.write_text(write_report(found, asked.minutes, command))
    print(json.dumps({**found, "sound": sound(found)}))
    sys.exit(0 if sound(found) else 14)


if __name__ == "__main__":
    main()
