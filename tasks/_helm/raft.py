"""RAFT: eleven classification tasks of which fifty rows each have published labels.

HELM reads the hub's ought/raft, which only a script can load. The same rows are in the first commit of oughtinc/raft-baselines; its later
commits (MIT) hold the fields and instructions that HELM reads, kept in raft.json beside the SHA-256 of each subset's file.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import Doc, Generate, Layout, Original, Published, Task, hub
from assay.harness.metrics.text import exact_match, quasi_exact_match
from assay.tasks._helm.common import FIVE_SHOTS, Derived, DerivedSplit, ask_after, instructions, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

SUBSETS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "raft.json").read_text(encoding="utf-8"))
"""By subset: the fields of the prompt in order, the instructions, the SHA-256 of the published rows."""
ROWS = "https://raw.githubusercontent.com/oughtinc/raft-baselines/1f410eea45db450e237b375b0693431dad09f9a3/data"
TEST_SHARE, SEED = 0.8, 42


def read(contents: tuple[bytes, ...]) -> Iterable[Row]:
    return csv.DictReader(io.StringIO(contents[0].decode()))


def part(test: bool, rows: Sequence[Row]) -> list[Row]:
    """HELM's test rows, or those of its few-shot examples: the split of `datasets`' train_test_split, in its order."""
    order = np.random.default_rng(SEED).permutation(len(rows))
    count = math.ceil(TEST_SHARE * len(rows))
    return [rows[place] for place in (order[:count] if test else order[count:])]


def labelled(fields: Sequence[str], row: Row) -> Doc:
    text = "\n".join(f"{field}: {row[field]}" for field in fields)
    return Doc(ask_after(text, "", "Label"), references=(row["Label"],), inputs=(text,))


def raft_task(subset: str) -> Task:
    fields, instruction, digest = (SUBSETS[subset][key] for key in ("fields", "instructions", "sha256"))
    source = hub("local/raft", subset, original=Original({"train": (Published(f"{ROWS}/{subset}/train.csv", digest),)}, read))
    parts = ((source, "train"),)
    row = {**{field: f"({field})" for field in fields}, "Label": "yes"}
    return scenario(
        f"raft/{subset}",
        rows=Derived({name: DerivedSplit(parts, functools.partial(part, name == "test")) for name in ("train", "test")}),
        doc=functools.partial(labelled, fields),
        ask=Generate(30, ("\n",)),
        metrics=(quasi_exact_match, exact_match),
        split="test",
        shots=FIVE_SHOTS,
        layout=Layout(instructions=instructions(instruction)),
        worked=worked(row, "".join(f"{field}: ({field})\n" for field in fields) + "Label:", "yes"),
        about="Classification of 40 texts. The rows are on the hub with a script only: assay fetch helm/raft --to DIR.",
        licence="other (varies by subset)",
        citation="Alex et al. 2021, RAFT: A Real-World Few-Shot Text Classification Benchmark, NeurIPS",
    )


RAFT_TASKS: tuple[Task, ...] = tuple(map(raft_task, SUBSETS))
