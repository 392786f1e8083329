"""The stored margins of a baseline and its changed copies, and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assay.harness.task.metric import Array
from tests.sim.estimators.real_pairs import TITLES
from tests.sim.estimators.report import side
from tests.sim.estimators.simulated import step


@dataclass(frozen=True, slots=True)
class Line:
    """Margins [n] by task of the baseline and of each changed copy."""

    base: Mapping[str, Array]
    copies: Mapping[str, Mapping[str, Array]]

    def change(self, pair: str, task: str) -> Array:
        return step(self.copies[pair][task]) - step(self.base[task])

    def earlier(self, pair: str, task: str) -> list[str]:
        """The other copies that have this task."""
        return [name for name, margins in self.copies.items() if name != pair and task in margins]


def read_line(folder: Path) -> Line:
    runs = {name: {task: each.margins for task, each in side(folder, name).margins.items()} for name in ("base", *TITLES)}
    return Line(runs.pop("base"), runs)


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(lines: list[str]) -> str:
    """Rows of a table, the first of them its header."""
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count(" | ") + 1), *lines[1:]])
