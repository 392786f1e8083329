"""Makes a store with real runs: the built-in model and a copy with weights rounded to 4 bits on two tasks, a gate decision,
a run of the smoke suite, and a tuning study on a toy model.

By hand: PYTHONPATH=tests python tests/browser/real_store.py FOLDER [BUILT-IN MODEL'S FOLDER]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rounding import round_model

ROOT = Path(__file__).parents[2]
CAPITALS = {
    **{"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima"},
    **{"Norway": "Oslo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna", "Kenya": "Nairobi", "Cuba": "Havana"},
    **{"Ireland": "Dublin", "Poland": "Warsaw", "Hungary": "Budapest", "Finland": "Helsinki", "Sweden": "Stockholm", "China": "Beijing"},
    **{"Russia": "Moscow", "Chile": "Santiago", "Iran": "Tehran", "Iraq": "Baghdad", "Turkey": "Ankara", "Canada": "Ottawa"},
}
OPPOSITES = {
    **{"hot": "cold", "big": "small", "fast": "slow", "old": "young", "up": "down", "day": "night", "wet": "dry", "light": "dark"},
    **{"open": "closed", "rich": "poor", "early": "late", "full": "empty", "hard": "soft", "high": "low", "loud": "quiet", "near": "far"},
    **{"push": "pull", "buy": "sell", "win": "lose", "true": "false", "first": "last", "long": "short", "strong": "weak", "happy": "sad"},
}


def write_task(path: Path, question: str, pairs: dict[str, str]) -> None:
    """Writes a task file with four choices per item and two items per group."""
    answers = list(pairs.values())
    rows = []
    for number, (word, answer) in enumerate(pairs.items()):
        choices = sorted({answers[(number + step) % len(answers)] for step in (0, 1, 5, 11)})
        rows.append(
            {"id": word, "prompt": question.format(word), "choices": choices, "answer": choices.index(answer), "group": f"g{number // 2}"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def assay(store: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
    """Runs a command in the store's folder."""
    environment = {**os.environ, "ASSAY_RESULTS": str(store), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "assay", *arguments], cwd=store, env=environment, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(f"assay {' '.join(arguments)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def make_real_store(store: Path, model: Path) -> Path:
    """Takes about two minutes on two idle cores."""
    store.mkdir(parents=True, exist_ok=True)
    write_task(store / "capitals.jsonl", "Question: What is the capital of {}?\nAnswer:", CAPITALS)
    write_task(store / "opposites.jsonl", "Question: What is the opposite of {}?\nAnswer:", OPPOSITES)
    rounded = round_model(model, store / "smollm2-135m-4bit")
    tasks = "capitals.jsonl,opposites.jsonl"
    for name in ("builtin:smollm2-135m", rounded.name):
        assay(store, "run", "--model", name, "--tasks", tasks, "--engine", "hf")
    assay(store, "gate", rounded.name, "--baseline", "builtin:smollm2-135m", codes=(0, 10, 11))
    assay(store, "run", "--model", "builtin:smollm2-135m", "--tasks", "smoke", "--engine", "hf")
    study = [
        "--model",
        "toy",
        "--task",
        "assay.tuners.toy:MAX",
        "--retain",
        "assay.tuners.toy:ADD,assay.tuners.toy:SECOND",
        "--method",
        "full,lora,ia3",
    ]
    assay(store, "tune", *study, "--budget", "tokens=600", "--limit", "80", "--shots", "1,4")
    assay(store, "store", "index")
    shutil.rmtree(rounded)
    return store


if __name__ == "__main__":
    default = Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay") / "models" / "smollm2-135m-instruct"
    print(make_real_store(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else default))
