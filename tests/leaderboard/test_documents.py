"""Reports and published leaderboards: correct numbers, no requests, hostile text is escaped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import duckdb
import made_store
import pytest
from made_store import HOSTILE, TASKS, Made, make_run

from assay.harness.errors import AssayError, Incomplete
from assay.harness.store import index, list_runs, query
from assay.harness.store.record import Record
from assay.leaderboard.charts import drawing
from assay.leaderboard.charts.drawing import Dot, Mark
from assay.leaderboard.data import queries
from assay.leaderboard.data.assembly import Filters, assemble, with_columns
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.documents.document import Heading, Intervals, Paragraph, Table, html_file, markdown_file
from assay.leaderboard.documents.publishing import publish
from assay.leaderboard.documents.report import report
from assay.leaderboard.documents.run_report import run_report
from assay.tasks.helm import GSM8K, LITE, groups_of


class Page(HTMLParser):
    """Tags, attributes and texts of a page, as a browser reads them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def makes_no_request(source: str) -> Page:
    """Fails if a page could make a request, run a script that is not ours, or show untrusted markup."""
    page = Page(source)
    assert page.tags.count("script") == 1
    assert not {"img", "iframe", "link", "object", "embed", "form", "base", "audio", "video"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {name for name, _ in page.attributes if name in ("src", "srcset", "action", "data")} == set()
    assert all(re.fullmatch(r"#[a-z0-9-]+|data/[a-z_.]+", value) for name, value in page.attributes if name == "href")
    assert "default-src 'none'" in source
    assert "url(" not in source
    return page


@pytest.fixture
def runs(store: Path) -> list[str]:
    return [run.id for run in list_runs(store) if run.status == "complete" and run.model.startswith(("acme/Otter-7B", "beta/Wren"))][:2]


def test_a_report_is_one_file_that_makes_no_request(
    store: Path, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(runs, tmp_path / "r.html", 2, store, False)
    page = makes_no_request((tmp_path / "r.html").read_text())
    text = " ".join(page.texts)
    assert page.tags.count("svg") == 3  # two models' scores, and the differences
    for value, low, high in query(store, "SELECT value, low, high FROM score WHERE run_id IN (?, ?)", runs):
        assert f"{100 * value:.1f}" in text
        assert f"{100 * low:.1f} – {100 * high:.1f}" in text
    assert "Tasks, items, shots" in text
    assert re.search(r"letters/first@own: \d+ lost, 0 gained", text)
    assert "which word comes" in text
    assert str(tmp_path / "r.html") in capsys.readouterr().out


def test_a_report_as_markdown_and_as_json(store: Path, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    report(runs, None, 0, store, True)
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == runs
    text = found["markdown"]
    assert "| letters/first@own | accuracy |" in text
    assert re.search(r"·+├─+●─+┤", text)
    assert "<" not in text.replace("\\<", "")


def test_differences_are_those_of_the_compare_page(store: Path, runs: list[str]) -> None:
    from assay.leaderboard.data import paired

    found = paired.pairing(store, *({"": f"runs/{run}"} for run in runs))
    text = run_report(store, runs, markdown=True, items=0)
    assert len(found.rows) == 3
    for row in found.rows:
        assert f"{100 * row.difference.delta:.2f}" in text


def test_incomplete_runs_and_unknown_formats_are_errors(store: Path) -> None:
    running = next(run.id for run in list_runs(store) if run.status == "running")
    with pytest.raises(Incomplete, match="assay resume"):
        report([running], None, 3, store, False)
    with pytest.raises(AssayError, match="neither"):
        report([running], Path("x.pdf"), 3, store, False)


def test_a_report_warns_about_smoke_runs(store: Path) -> None:
    smoke = next(run.id for run in list_runs(store) if run.purpose == "smoke")
    assert "no benchmark" in run_report(store, [smoke], markdown=True)


def test_a_snapshot_holds_the_numbers_of_the_board_and_makes_no_request(store: Path, tmp_path: Path) -> None:
    page, *data = publish(store, tmp_path / "site")
    source = page.read_text()
    text = " ".join(makes_no_request(source).texts)
    board = assemble(store, with_columns(queries.cells(store)), Filters(), AGGREGATORS[0])
    for row in board.table.iloc[: board.ranked].to_dict("records"):
        assert f"{row['Score']:.1f}" in text
        assert row["Rank interval"] in text
    names = {path.name for path in data}
    assert names == {"board.csv", "scores.csv", "scores.parquet", "item_stats.parquet", "tuning.csv"}
    again = duckdb.sql(
        f"SELECT s.value, avg(i.stats[1]) FROM '{tmp_path}/site/data/scores.parquet' s JOIN '{tmp_path}/site/data/item_stats.parquet' i "
        "USING (run_id, task, metric) GROUP BY run_id, task, metric, s.value"
    ).fetchall()
    assert len(again) > 15
    assert all(value == pytest.approx(mean) for value, mean in again)
    whole = b"".join(path.read_bytes() for path in (page, *data))
    assert b"which word comes" not in whole  # no prompt is published
    publish(store, tmp_path / "site")  # an earlier snapshot is overwritten
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(AssayError, match="other files"):
        publish(store, tmp_path / "mine")


def test_a_snapshot_of_smoke_runs_has_no_ranks(tmp_path: Path) -> None:
    make_run(tmp_path, Made("m", 0.5, {"numbers/add@own": 20}, purpose="smoke"))
    index(tmp_path)
    source = publish(tmp_path, tmp_path / "site")[0].read_text()
    assert "No ranked scores yet" in " ".join(makes_no_request(source).texts)


BAD = (
    HOSTILE,
    "<script>alert(1)</script>",
    '" onload="x',
    "</svg><img src=x>",
    "a|b\nc",
    "*b* _i_ `c` [l](javascript:x) https://evil.example",
)


@pytest.mark.parametrize("text", BAD)
def test_hostile_text_is_escaped_in_every_part(text: str) -> None:
    parts = [
        Heading(text),
        Paragraph(text),
        Paragraph(text, "code"),
        Table((text, "n"), ((text, text),), frozenset({1})),
        Intervals((Mark(text, 1.0, 0.0, 2.0),), text),
    ]
    source = html_file(text, text, parts)
    makes_no_request(source)
    ElementTree.fromstring(drawing.intervals([Mark(text, 1.0)], text))
    ElementTree.fromstring(drawing.scatter([Dot(text, 1.0, 2.0, named=True), Dot("b", 10.0, 3.0)], text, text, log=True))
    markdown = markdown_file(text, text, parts)
    shown = "\n".join(line for line in markdown.split("\n") if not line.startswith("    "))  # code is shown as it is
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(|https?:|javascript:", shown)
    assert all(line.count("|") - line.count("\\|") in (3, 4) for line in shown.split("\n") if line.startswith("| "))


def test_a_chart_draws_marks_at_their_values() -> None:
    tree = ElementTree.fromstring(drawing.intervals([Mark("a", 1.0, 0.0, 2.0), Mark("b", 3.0, math.nan, math.nan, tick=2.0)], "x"))
    space = {"s": "http://www.w3.org/2000/svg"}
    dots = [float(dot.get("cx", "nan")) for dot in tree.findall(".//s:circle", space)]
    bars = [(float(bar.get("x1", "nan")), float(bar.get("x2", "nan"))) for bar in tree.findall(".//s:line[@class='bar']", space)]
    ticks = [float(tick.get("x1", "nan")) for tick in tree.findall(".//s:line[@class='tick']", space)]
    assert len(bars) == len(ticks) == 1
    assert bars[0][0] < dots[0] < bars[0][1] == pytest.approx(ticks[0], abs=0.1)
    assert dots[0] == pytest.approx(sum(bars[0]) / 2, abs=0.1)
    assert dots[1] > ticks[0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 4.7), (1e-9, 2e-9), (0.0, 1e9), (61.2, 61.9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = drawing.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


def test_a_snapshot_has_all_tasks(store: Path, tmp_path: Path) -> None:
    text = publish(store, tmp_path)[0].read_text()
    assert all(task in text for task in TASKS)


def test_items_are_published_on_request_and_removed_without(store: Path, tmp_path: Path) -> None:
    page, items, *_ = publish(store, tmp_path / "site", items=True)
    text = items.read_text()
    assert "which word comes" in text and "letters/first@own" in text and "right</td>" in text and "wrong</td>" in text
    assert "<img src=x" not in text  # the hostile model's response is escaped
    assert 'href="items.html"' in page.read_text()
    assert "http" not in text.replace("http-equiv", "").replace("http://evil", "")
    publish(store, tmp_path / "site")
    assert not items.exists()


def test_a_report_on_a_suite_has_its_mean_win_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal models and a worse one, which lacks one of HELM Lite's nine scenarios: ties count half, the gap is said."""
    total = {"task": "helm-lite", "metric": "total", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "main": True, "evidence": "complete"}
    plain = made_store.results_of

    def with_total(made: Made, records: Sequence[Record]) -> list[dict[str, Any]]:
        shared = {"shots": 0, "signature": "helm-lite", "purpose": "release", "better": "higher"}
        return [*plain(made, records), *([total | shared] if GSM8K.full_name in made.tasks else [])]

    monkeypatch.setattr(made_store, "results_of", with_total)
    names = {task.full_name: 4 for group in groups_of(LITE) for task in group}
    some = {name: count for name, count in names.items() if name != GSM8K.full_name}
    for model, skill, tasks in (("good", 9.0, names), ("equal", 9.0, names), ("bad", -9.0, some)):
        make_run(tmp_path, Made(model, skill, tasks))
    index(tmp_path)
    text = run_report(tmp_path, [run.id for run in list_runs(tmp_path)], markdown=True, items=0)
    rows = {row.split(" | ")[0].strip("| "): row for row in text.partition("Mean win rate: helm-lite")[2].splitlines() if " of 9" in row}
    assert "| 9 of 9 |" in rows["good"] and "| 9 of 9 |" in rows["equal"] and "| 8 of 9 |" in rows["bad"]
    ties = (8 * 0.75 + 0.5) / 9  # the scenario that one model lacks is a tie of the two others
    assert f"{ties:.2f}" in rows["good"] and rows["good"].split("|")[2:] == rows["equal"].split("|")[2:] and "0.00" in rows["bad"]
    assert "compared on fewer" in text
    assert "Mean win rate" not in run_report(tmp_path, [list_runs(tmp_path)[0].id], markdown=True)
