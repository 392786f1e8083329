"""Seconds of CPU and peak memory of whole runs of more and more items, with an engine that answers at once.

    python -m tests.bench.growth [--sizes 1000,10000,100000] [--shots 5] [--plan-only]

The items are made by a task file: four choices after a question of 40 words and SHOTS worked examples. Each size is a process of its own; a
run of one item is taken off, so that the table says what an item costs. Writes results/speed/growth.csv unless it only plans.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.csv_file import write_rows
from tests.bench.overhead import timed

OUT = Path(__file__).parents[2] / "results" / "speed" / "growth.csv"
MODEL = "builtin:smollm2-135m"
TASK = '''
"""Made-up questions."""
import random

from assay import Choose, Doc, Shots, Task, accuracy, made

STEMS, ENDS = ("lo", "mi", "ra", "su", "te", "vo", "ka", "ne"), ("bel", "dor", "fin", "gat", "lum", "pir", "sten", "wer")
WORDS = [stem + end for stem in STEMS for end in ENDS]


def rows(split):
    draw = random.Random(split)
    for number in range(SIZE if split == "test" else 5):
        words = [draw.choice(WORDS) for _ in range(44)]
        yield {"q": f"{number} " + " ".join(words[:40]), "c": words[40:], "gold": number % 4}


def read(row):
    listed = "".join(f"\\n{letter}. {choice}" for letter, choice in zip("ABCD", row["c"]))
    return Doc(f"Question: {row['q']}?{listed}\\nAnswer:", choices=tuple("ABCD"), gold=row["gold"])


TASKS = (Task("made", made(rows, "train", "test"), read, Choose(), (accuracy,), shots=Shots(SHOTS)),)
'''
PLAN = """
import sys
from pathlib import Path
from assay import Plan
from assay.harness.files.places import surroundings
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import prepare
prepare(Plan({model!r}, (sys.argv[1],), engine="scripted:uniform"), surroundings(), NoProgress())
"""
"""A process that only plans a run."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run: what it took, and what each of its items took beyond a run of one item; `peak` in MB."""

    items: int
    what: str
    wall: float
    cpu: float
    peak: float
    microseconds: float
    kilobytes: float
    status: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--plan-only", action="store_true", help="prepare the run and end")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows: list[Row] = []
    what = "plan" if given.plan_only else "run"
    with tempfile.TemporaryDirectory() as folder:
        base = None
        for size in (1, *map(int, given.sizes.split(","))):
            task = Path(folder) / "made.py"
            task.write_text(TASK.replace("SIZE", str(size)).replace("SHOTS", str(given.shots)))
            run = [
                *("run", "--model", MODEL, "--tasks", str(task), "--engine", "scripted:uniform"),
                "--results",
                f"{folder}/{size}",
                "--json",
            ]
            command = ["-c", PLAN.format(model=MODEL), str(task)] if given.plan_only else ["-m", "assay", *run]
            cost = timed([sys.executable, *command])
            base = base or cost
            each = (1e6 * (cost.cpu - base.cpu) / size, 1024 * (cost.peak - base.peak) / size)
            rows.append(Row(size, what, cost.wall, cost.cpu, cost.peak, round(each[0]), round(each[1], 1), cost.status))
            print(*asdict(rows[-1]).values(), sep="\t", flush=True)
    if not given.plan_only:
        write_rows(given.out, rows)


if __name__ == "__main__":
    main()
