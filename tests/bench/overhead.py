"""What the harness itself costs: MMLU or GSM8K 5-shot with an engine that answers at once, here (scripted) and in lm-eval (dummy, samples
logged).

    ASSAY_DATA=DATA python -m tests.bench.overhead [--task mmlu] [--peer LM_EVAL/bin/python] [--limit 35]

Whole commands, from their start to the stored run, one after the other on one machine. assay cuts the prompts into tokens,
hashes the model and stores the run; lm-eval's dummy model has no tokenizer. LIMIT is the first items of each subject; 0 takes all.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MODEL = "builtin:smollm2-135m"
TASKS = {"mmlu": ("mmlu", "scripted:uniform"), "gsm8k": ("gsm8k@lm-eval", f"scripted:constant,text={180 * ' so'}")}
"""By lm-eval's name: the task here, and the engine; every text has 180 words."""
PEER = (
    "import sys; sys.path.insert(0, {folder!r}); import peer; peer.read_mirror(); from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
)
"""lm-eval's command line with the mirror in $ASSAY_DATA."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall and of CPU, and peak memory in MB, of a process and its children; `status` is "done" if it succeeded."""

    wall: float
    cpu: float
    peak: float
    status: str


def peer_command(python: str) -> list[str]:
    return [python, "-c", PEER.format(folder=str(HERE)), "run"]


def timed(command: list[str], seconds: float = 3600.0) -> Cost:
    """Run a command for at most `seconds`; what it prints is kept only for its last line if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            time.sleep(0.02)
            if time.monotonic() - started > seconds:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes of an engine
        _, code, used = found
        process.returncode = os.waitstatus_to_exitcode(code)
        log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
        last = (log.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1][:200]
    status = "done" if process.returncode == 0 else "too slow" if time.monotonic() - started > seconds else last
    return Cost(round(time.monotonic() - started, 1), round(used.ru_utime + used.ru_stime, 1), round(used.ru_maxrss / 1024), status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, default="mmlu")
    parser.add_argument("--peer", default="")
    parser.add_argument("--limit", type=int, default=35)
    given = parser.parse_args()
    part = ["--limit", str(given.limit)] if given.limit else []
    with tempfile.TemporaryDirectory() as out:
        ours, engine = TASKS[given.task]
        run = [sys.executable, "-m", "assay", "run", "--model", MODEL, "--tasks", ours, "--shots", "5", "--engine", engine]
        sides = {"assay": [*run, *part, "--limit-order", "first", "--results", f"{out}/assay", "--json"]}
        if given.peer:
            rest = ["--model", "dummy", "--tasks", given.task, "--num_fewshot", "5", *part, "--output_path", f"{out}/peer", "--log_samples"]
            sides["lm-eval"] = peer_command(given.peer) + rest
        for side, command in sides.items():
            cost = timed(command)
            print(side, f"{cost.wall} s", f"{cost.cpu} s of CPU", f"{cost.peak:.0f} MB", cost.status, sep="\t", flush=True)


if __name__ == "__main__":
    main()
