"""How long one gate over 70 tasks and 30,100 items takes through the command line, and what it imports.

`python -m tests.sim.gate_speed [times] [FOLDER]` writes results/gate/speed.md. A scripted engine makes the store in FOLDER, once;
without FOLDER it is made in a temporary one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from assay import Plan, evaluate
from assay.harness.engines.scripted import Scripted, draw, oracle
from assay.harness.files.places import Surroundings
from tests.fakes import make_model

OUT = Path("results/gate/speed.md")
HEAVY = ("torch", "transformers", "vllm", "streamlit", "datasets", "ray", "duckdb")
TASKS = """
from assay import Choose, Doc, Task, accuracy, inline


def doc(row):
    return Doc(f"{row['s']}/{row['n']}?", choices=(" A", " B", " C", " D"), gold=row["n"] % 4)


TASKS = tuple(
    Task(f"subjects/s{s}", inline(test=[{"s": s, "n": n} for n in range(430)]), doc, Choose(), (accuracy,)) for s in range(70)
)
"""
CODE = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr))
from assay.harness.cli import main
main()
"""


def make_store(home: Path) -> tuple[str, str]:
    """Two runs of 70 tasks in which a tenth of the picks differ; their ids."""
    if len(found := sorted(path.parent.name for path in (home / "results" / "runs").glob("*/DONE"))) == 2:
        return found[0], found[1]
    home.mkdir(parents=True, exist_ok=True)
    (home / "tasks70.py").write_text(TASKS)
    place = Surroundings(results=home / "results", cache=home / "cache", data=None, offline=True)
    found = []
    for seed in (0, 1):
        model = make_model(home / f"m{seed}", seed=seed)

        def pick(request: Any, seed: int = seed) -> int:
            own = seed if draw("moved", request.key) < 0.1 else 0
            return int(4 * draw(own, request.key))

        plan = Plan(model=str(model), tasks=(str(home / "tasks70.py"),), engine="scripted")
        engine = Scripted(oracle(pick))
        found.append(evaluate(plan, place, opener=lambda *_, engine=engine: engine).name)
    return found[0], found[1]


def once(home: Path, base: str, new: str) -> tuple[float, float, dict[str, Any], list[str]]:
    """Wall and processor seconds of one gate, its JSON, and which heavy modules it loaded."""
    arguments = [
        sys.executable,
        "-c",
        CODE.format(heavy=HEAVY),
        "gate",
        new,
        "--baseline",
        base,
        "--results",
        str(home / "results"),
        "--json",
    ]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(home / "compiled")}  # as where it is installed
    env["ASSAY_CACHE"] = str(home / "cache")  # the task file was trusted there when it was run
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=env)
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent, json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])


def main(times: str = "7", folder: str = "") -> None:
    home = Path(folder or tempfile.mkdtemp())
    base, new = make_store(home)
    once(home, base, new)
    rows = [once(home, base, new) for _ in range(int(times))]
    walls, spent = ([row[place] for row in rows] for place in (0, 1))
    found, heavy = rows[-1][2], rows[-1][3]
    load = os.getloadavg()[0]
    text = f"""# One gate over {len(found["tasks"])} tasks and {found["items"]:,} items

`python -m tests.sim.gate_speed {times}`: {times} calls of `assay gate`, from the start of the process to its end.

| | shortest | median |
|---|---|---|
| wall seconds | {min(walls):.2f} | {statistics.median(walls):.2f} |
| processor seconds | {min(spent):.2f} | {statistics.median(spent):.2f} |

{os.cpu_count()} cores, {load:.0f} other runnable threads meanwhile: where these are many, the wall is theirs, and the processor
seconds are the gate's own. Imported of {", ".join(HEAVY)}: {", ".join(heavy) or "none"}.
"""
    OUT.write_text(text)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
