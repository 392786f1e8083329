"""Gates end to end through the command line: python -m tests.sim.gates.command_line [gates] writes results/gate/command_line.md.

Each gate has its own model and its own run, made by a scripted engine; half of the models lost nothing, half lost the margin.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from assay import Plan, evaluate
from assay.harness.cli import main as assay
from assay.harness.engines.scripted import Scripted, draw, oracle
from assay.harness.files.places import Surroundings
from tests.fakes import make_model
from tests.sim.gate_size import limit

OUT = Path("results/gate/command_line.md")
TASKS = """
from assay import Choose, Doc, Task, accuracy, inline


def doc(row):
    return Doc(f"{row['s']}/{row['n']}?", choices=(" A", " B"), gold=0)


TASKS = tuple(Task(f"own/t{s}", inline(test=[{"s": s, "n": n} for n in range(300)]), doc, Choose(), (accuracy,)) for s in range(2))
"""
RIGHT, CHURN, MARGIN = 0.65, 0.1, 0.03
CODES = {"pass": 0, "regressed": 10, "inconclusive": 11}


def run(home: Path, name: str, seed: int, lost: float) -> str:
    """The run of a model; items and picks depend on the seed alone, of the baseline on its gate."""
    model = make_model(home / name, seed=seed)

    def pick(request, seed: int = seed) -> int:  # type: ignore[no-untyped-def]
        right, level = draw(seed // 2, request.key) < RIGHT, draw(("moved", seed // 2), request.key)
        if seed % 2 == 0:
            return int(not right)
        flip = level < (CHURN + lost) / 2 / RIGHT if right else level < (CHURN - lost) / 2 / (1 - RIGHT)
        return int(right == flip)

    place = Surroundings(results=home / "results", cache=home / "cache", data=None, offline=True)
    engine = Scripted(oracle(pick))
    plan = Plan(model=str(model), tasks=(str(home / "own.py"),), engine="scripted")
    return evaluate(plan, place, opener=lambda *_, engine=engine: engine).name


def gate(number: int) -> tuple[float, str, int]:
    """The true loss, the verdict and the exit code of one gate in a store of its own."""
    lost = MARGIN if number % 2 else 0.0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "own.py").write_text(TASKS)
        base, new = (run(home, f"m{side}", 2 * number + side, lost) for side in (0, 1))
        options = ["--margin", str(100 * MARGIN), "--task-margin", "5", "--results", str(home / "results"), "--json"]
        command("check", str(home / "own.py"))  # trusts the file
        printed, code = command("gate", new, "--baseline", base, *options)
        return lost, json.loads(printed)["verdict"], code


def command(*arguments: str) -> tuple[str, int]:
    """What `assay` with these arguments prints, and its exit code."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()), patch.object(sys, "argv", ["assay", *arguments]):
        try:
            assay()
        except SystemExit as end:
            return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


def main(gates: int = 300, workers: int = 2) -> None:
    with ProcessPoolExecutor(workers) as pool:
        found = list(pool.map(gate, range(gates)))
    write(found)


def write(found: Sequence[tuple[float, str, int]]) -> None:
    """Writes the table of the gates; every exit code must be that of its verdict."""
    gates = len(found)
    assert all(CODES[verdict] == code for _, verdict, code in found)
    lines = ["| truth | gates | pass | inconclusive | regressed |", "|---|---|---|---|---|"]
    for lost, truth in ((0.0, "nothing lost"), (MARGIN, "the margin lost")):
        counts = Counter(verdict for each, verdict, _ in found if each == lost)
        total = sum(counts.values())
        rates = " | ".join(f"{counts[name] / total:.3f}" for name in ("pass", "inconclusive", "regressed"))
        lines.append(f"| {truth} | {total} | {rates} |")
    OUT.write_text(HEAD.format(gates=gates, limit=limit(gates // 2)) + "\n".join(lines) + "\n")
    print("\n".join(lines))


HEAD = """# Gates end to end through the command line

`python -m tests.sim.gates.command_line {gates}`: two runs each (two tasks of 300 items, scripted engine, 10 % of the items changed), then
`assay gate --margin 3 --task-margin 5 --json`. A true 5 % shows at most {limit:.3f}. Every exit code was that of its verdict.

"""

if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
