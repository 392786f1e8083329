"""Real regressions of the built-in model: python -m tests.sim.real [FOLDER] writes results/gate/REAL.md.

Needs the built-in model, `assay[tune]` and $ASSAY_DATA; some minutes on two cores. What is already in FOLDER is not made again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "builtin:smollm2-135m"
TASKS = ("tests/sim/pairs.py", "superglue/copa")
OUT = Path("results/gate/REAL.md")


def rounded(values: Any, bits: int = 4) -> Any:
    """A weight matrix [rows, columns], each row rounded to the nearest of 2^bits - 1 even levels up to its largest value."""
    top = 2 ** (bits - 1) - 1
    scale = (values.abs().amax(dim=1, keepdim=True) / top).clamp(min=1e-12)
    return (values / scale).round().clamp(-top, top) * scale


def round_model(base: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose attention and feed-forward matrices went through 4 bits; the embeddings stay."""
    from safetensors.torch import load_file, save_file

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(base, part)
    for path in part.glob("*.safetensors"):
        tensors = {name: rounded(value) if name.endswith("_proj.weight") else value for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return part.rename(folder)


def assay(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command; its progress goes to our stderr."""
    print("$ assay", *arguments, file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, "-m", "harness.cli", *arguments], stdout=subprocess.PIPE, text=True, check=False)


def harm(folder: Path) -> Path:
    """The built-in model after full fine-tuning on one small task at ten times the usual rate."""
    where = folder / "tuned"
    if not (found := list(where.rglob("result/model.safetensors"))):
        options = ("--method", "full", "--lr", "3e-4", "--budget", "tokens=2000", "--limit", "20", "--shots", "", "--out", str(where))
        assay("tune", "--model", MODEL, "--task", "superglue/copa", *options).check_returncode()
        found = list(where.rglob("result/model.safetensors"))
    return found[0].parent


def run(folder: Path, name: str, model: str, *more: str) -> str:
    """The id of a run of `model`, made once."""
    kept = folder / f"{name}.run"
    if not kept.exists():
        done = assay("run", "--model", model, "--tasks", ",".join(TASKS), "--engine", "hf", *more, "--results", str(folder), "--json")
        done.check_returncode()
        kept.write_text(json.loads(done.stdout)["run"])
    return kept.read_text()


def main(folder: Path = Path("results/real")) -> None:
    from harness.model import find_model
    from harness.provenance import surroundings

    folder.mkdir(parents=True, exist_ok=True)
    here = surroundings()
    base = run(folder, "base", MODEL, "--repeat-check")
    fours = folder / "smollm2-135m-4bit"
    if not fours.exists():
        round_model(find_model(MODEL, cache=here.cache, offline=here.offline).path, fours)
    models: dict[str, Callable[[], tuple[str, ...]]] = {
        "The same model in other batches": lambda: ("same", MODEL, "--budget", "0.05"),
        "4-bit rounding of its weights": lambda: ("rounded", str(fours)),
        "Full fine-tuning at ten times the usual rate": lambda: ("tuned", str(harm(folder))),
    }
    (folder / "gates.jsonl").unlink(missing_ok=True)  # first attempts, whenever this is run
    lines = [HEAD.strip(), ""]
    for title, model in models.items():
        candidate, report = run(folder, *model()), folder / "gate.md"
        gated = assay("gate", candidate, "--baseline", base, "--margin", "3", "--results", str(folder), "--markdown", str(report))
        text = report.read_text().replace("<!-- assay gate -->\n", "").replace(str(folder) + "/", "")
        lines += [f"## {title}: exit code {gated.returncode}", "", text]
    OUT.write_text("\n".join(lines))


HEAD = f"""
# Real regressions

`python -m tests.sim.real`: {MODEL} against itself on five real tasks (600 items) through `assay run` and `assay gate --margin 3`
(few items can exclude no less), task margin 3 points, alpha 0.05.

- *Other batches*: the same weights with 50 MiB for the engine's packs, which cuts them elsewhere.
- *4-bit rounding*: every row of the attention and feed-forward matrices rounded to the nearest of 15 levels; no calibration.
- *Full fine-tuning*: `assay tune --task superglue/copa --method full --lr 3e-4 --budget tokens=2000`.
"""

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
