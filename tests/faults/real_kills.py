"""SIGKILL in the middle of runs of a real model, each followed by a resume.

Run: PYTHONPATH=.:tests python tests/faults/real_kills.py MODEL --kills 20

A kill comes only after the process at work has stored something new. Prints one JSON object. Answers are compared with an uninterrupted
run: the same picks and scores, log-probabilities within 1e-3 nats (a resumed run packs other items together).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # noqa: F401 (once, before the forks; nothing is computed here)
from fakes import place, write_task
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from assay import Plan, evaluate, read_run
from assay.harness.checking.rerun import reproduction
from assay.harness.engines.hf.engine import open_engine
from assay.harness.run.evaluate import resume
from assay.harness.store import check, index, list_runs


class Noting:
    """An engine that notes each answer in a file before it gives it."""

    def __init__(self, inner: Any, log: Path) -> None:
        self.inner, self.log = inner, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def score(self, groups: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        with self.log.open("a") as file:
            for index, reply in self.inner.score(groups):
                file.write(f"{groups[index].key} {time.monotonic():.3f}\n")
                file.flush()
                yield index, reply


def fork(action: Any) -> int:
    child = os.fork()
    if child:
        return child
    try:
        action()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def largest_batch(log: Path) -> int:
    """Most answers that come at once, from one pack."""
    times = [float(line.split()[1]) for line in log.read_text().splitlines()]
    return max(sum(start <= moment <= start + 0.6 for moment in times) for start in times)


@dataclass(frozen=True)
class Scene:
    """A store in which processes are killed, and one with the same run in peace."""

    root: Path
    plan: Plan

    @property
    def log(self) -> Path:
        return self.root / "answers"

    def opener(self, name: str, ref: Any, settings: Any) -> Any:
        return Noting(open_engine(ref, settings), self.log)

    def bundles(self, status: str) -> list[Path]:
        runs = place(self.root).results
        return [info.path for info in list_runs(runs) if info.status == status] if runs.exists() else []

    def attempt(self) -> int:
        """A process that starts a run, or resumes the one that was killed."""
        running = self.bundles("running")
        if running:
            return fork(lambda: resume(running[0], place(self.root), opener=self.opener))
        return fork(lambda: evaluate(self.plan, place(self.root), opener=self.opener))


def kill_at_work(scene: Scene, dice: random.Random) -> bool:
    """Kills an attempt up to three seconds after it stored something new; False where it was done before."""
    before = sum(lines(bundle / "journal.jsonl") for bundle in scene.bundles("running"))
    child = scene.attempt()
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if sum(lines(bundle / "journal.jsonl") for bundle in scene.bundles("running")) > before:
            time.sleep(dice.uniform(0, 3))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.05)
    return False


def judge(scene: Scene, kills: int, batch: int) -> dict[str, Any]:
    index(place(scene.root).results)  # a kill may fall between a run's end and its indexing
    whole = read_run(list_runs(place(scene.root / "whole").results)[0].path)
    runs = [read_run(info.path) for info in list_runs(place(scene.root).results)]
    records = [run.records() for run in runs]
    compared = [reproduction(whole, run) for run in runs]
    values = [[row["value"] for row in run.summary()["results"]] for run in (whole, *runs)]
    asked = scene.log.read_text().split()[::2]
    return {
        "kills": kills,
        "runs": len(runs),
        "complete": sum(run.status == "complete" for run in runs),
        "items": sum(map(len, records)),
        "lost": sum(len(whole.records()) - len({record.item for record in each}) for each in records),
        "duplicated": sum(len(each) - len({record.item for record in each}) for each in records),
        "picks_changed": sum(len(each.changed) for each in compared),
        "largest_drift_nats": max(each.drift for each in compared),
        "scores_equal": all(value == values[0] for value in values),
        "answers": len(asked),
        "answered_again": len(asked) - len(set(asked)) * len(runs),
        "largest_batch": batch,
        "allowed": batch * kills,
        "problems": [str(problem) for problem in check(place(scene.root).results)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--seed", type=int, default=4)
    asked = parser.parse_args()
    dice, kills = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory(prefix="assay-kills-") as folder:
        root = Path(folder)
        plan = Plan(model=asked.model, tasks=(str(write_task(root, asked.items)),), engine="hf", budget=256 << 20)
        scene = Scene(root, plan)
        os.waitpid(fork(lambda: evaluate(plan, place(root / "whole"), opener=scene.opener)), 0)
        batch = largest_batch(scene.log)
        scene.log.unlink()
        while kills < asked.kills:
            kills += kill_at_work(scene, dice)
        for bundle in scene.bundles("running"):
            os.waitpid(fork(lambda: resume(bundle, place(root), opener=scene.opener)), 0)  # noqa: B023
        print(json.dumps(judge(scene, kills, batch)))


if __name__ == "__main__":
    main()
