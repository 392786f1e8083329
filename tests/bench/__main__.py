"""Compare with lm-eval 0.4.13: accuracy item by item, computed tokens, seconds, memory; writes results/speed/.

    python -m tests.bench --peer PATH/TO/lm_eval/bin/python --vllm PATH/TO/vllm/bin/python

Every measurement is a process of its own whose result is kept in --work: an interrupted comparison goes on where it stopped, and
`--steps N` ends after N of them. Both sides of a slice run one after the other, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cells import CELLS, Cell
from tests.bench.table import write_results

HERE = Path(__file__).parent
ROUNDS = 2
"""How often the start of vLLM is measured, both ways in turn."""
SAMPLE = 8
"""Requests of a slice that are really sent to vLLM as lm-eval sends them."""


@dataclass(frozen=True, slots=True)
class Job:
    """One process and the file that it leaves."""

    out: Path
    python: str
    script: str
    arguments: tuple[str, ...]


def jobs(cells: tuple[Cell, ...], wanted: argparse.Namespace) -> Iterator[Job]:
    """All measurements in order. A generator: later ones read what earlier ones left."""
    model, work, where = str(wanted.model), wanted.work, (wanted.device, wanted.dtype)
    for cell in cells:
        limit, batch = str(wanted.limit or cell.limit or 0), "0"
        for part in cell.slices:
            stem = work / cell.name / part.theirs
            peer = stem.with_suffix(".peer.json")
            yield Job(peer, wanted.peer, "peer.py", (model, str(peer), part.theirs, str(cell.shots), limit, batch, *where))
            batch = str(json.loads(peer.read_text())["batch"])
            for engine, python in (("hf", sys.executable), ("vllm", wanted.vllm)):
                out = stem.with_suffix(f".{engine}.json")
                if python:
                    ours = (model, str(out), part.ours, str(cell.shots), limit, engine, str(int(cell.partial)), *where)
                    yield Job(out, python, "ours.py", ours)
            if wanted.vllm and part is cell.slices[0]:
                out = stem.with_suffix(".peer_vllm.json")
                yield Job(out, wanted.vllm, "peer_vllm.py", (model, str(out), str(peer), str(SAMPLE)))
    if wanted.vllm:
        for number in range(ROUNDS):
            for side in ("default", "assay"):
                out = work / "start" / f"{number}.{side}.json"
                yield Job(out, wanted.vllm, "start.py", (model, str(out), side))


def quiet(side: str) -> dict[str, str]:
    """The same environment for both sides, that of assay: waiting threads sleep. Only vLLM's own start is measured as it comes."""
    cores = str(len(os.sched_getaffinity(0)))
    calm = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": cores}
    return {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"} | ({} if side == "default" else calm)


def run(job: Job) -> None:
    print(f"{job.out.parent.name}/{job.out.stem}", file=sys.stderr, flush=True)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with job.out.with_suffix(".log").open("w") as log:
        command = [job.python, str(HERE / job.script), *job.arguments]
        done = subprocess.run(command, stdout=log, stderr=log, env=quiet(job.arguments[-1]), check=False)
    if done.returncode or not job.out.is_file():
        raise SystemExit(f"{' '.join(command)} failed: see {job.out.with_suffix('.log')}")


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay")
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default="", help="python of an environment with lm_eval[hf]==0.4.13")
    parser.add_argument("--vllm", default="", help="python of an environment with assay and vLLM; without it only hf is compared")
    parser.add_argument("--model", type=Path, default=cache / "models" / "smollm2-135m-instruct")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cells", default="", help=f"some of {', '.join(cell.name for cell in CELLS)}")
    parser.add_argument("--work", type=Path, default=cache / "bench", help="where results are kept between calls")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "results" / "speed")
    parser.add_argument("--limit", type=int, default=0, help="the first N items of every slice, instead of the cell's own limit")
    parser.add_argument("--steps", type=int, default=0, help="end after so many new measurements")
    parser.add_argument("--table", action="store_true", help="only write the tables from what is there")
    return parser.parse_args()


def main() -> None:
    wanted = arguments()
    names = [name for name in wanted.cells.split(",") if name]
    cells = tuple(cell for cell in CELLS if not names or cell.name in names)
    if not wanted.table:
        if not wanted.peer:
            raise SystemExit("--peer: name the python of an environment with lm_eval[hf]==0.4.13")
        done = 0
        for job in jobs(cells, wanted):
            if not job.out.is_file():
                run(job)
                done += 1
                if done == wanted.steps:
                    break
        else:
            print("all measured", file=sys.stderr)
    write_results(CELLS, wanted.work, wanted.out)


if __name__ == "__main__":
    main()
