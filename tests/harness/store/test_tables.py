"""Tables of a terminal: numbers never break, optional columns are left out and named. Run: pytest tests/harness/store/test_tables.py"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from assay.harness.reports.tables import OPTIONAL, table

HEAD = ("", "task", "change", "90 % interval", "floor", "Holm p", "margin", "MDE80", "+/-", "n", "notes")
ROWS = [
    ("lost", "pairs/determiner_noun_agreement_2", "-8.80", "-14.66 to -3.68", "0.00", "0.019", "3", "11.28", "+3 -14", "125", "14 lost"),
    ("ok", "superglue/copa@assay", "+0.00", "-2.63 to +2.63", "0.00", "1.000", "3", "3.42", "+0 -0", "100", "[bold]low power"),
]  # fmt: skip


def shown(width: int) -> str:
    target = io.StringIO()
    Console(file=target, width=width).print(table(HEAD, ROWS, width))
    return target.getvalue()


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_a_table_fits_and_keeps_every_number_whole(width: int) -> None:
    text = shown(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    hidden = lines[-1].partition("width: ")[2].rstrip(". ").split(", ") if "Not shown" in text else []
    assert set(hidden) <= set(OPTIONAL)
    for index, name in enumerate(HEAD):
        if name not in ("", "task", *hidden):
            assert all(row[index] in text for row in ROWS), name


def test_a_wide_table_has_it_all() -> None:
    text = shown(200)
    assert "Not shown" not in text and all(cell in text for row in ROWS for cell in row)


def test_less_room_shows_no_more() -> None:
    counts = [sum(name in shown(width).splitlines()[0] for name in HEAD if name) for width in (72, 80, 100, 140, 200)]
    assert counts == sorted(counts) and counts[0] < counts[-1] == len(HEAD) - 1
