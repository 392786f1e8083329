"""Leaderboard, published page and report on real runs of two models and a tuning study, in a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tab import Tab

from assay.harness.store import list_runs, query
from assay.leaderboard.data import queries
from assay.leaderboard.data.assembly import Filters, assemble, with_columns
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.documents.publishing import publish
from assay.leaderboard.documents.run_report import run_report

pytestmark = [pytest.mark.browser, pytest.mark.model]

WHOLE, ROUNDED = "builtin:smollm2-135m", "smollm2-135m-4bit"
ITEM = {"of": "capitals", "item": "France", "deep": "true"}
PAGES = {
    "board": {},
    "compare": {"first": ROUNDED, "second": WHOLE},
    "model": {"model": ROUNDED},
    "task": {"column": "capitals"},
    "items": ITEM,
    "tuning": {},
    "gates": {},
    "runs": {},
    "health": {},
}


@pytest.fixture
def tab(chromium: Any, real_address: str) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    found = Tab(context.new_page(), real_address)
    yield found
    context.close()
    found.check()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_on_real_runs(name: str, chromium: Any, real_address: str, shots: Path) -> None:
    for scheme in ("light", "dark") if os.environ.get("ASSAY_SCREENSHOTS") else ("light",):
        for width in (1280, 400):
            context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            found = Tab(context.new_page(), real_address)
            found.open(name, urlencode(PAGES[name]))
            found.shoot(shots / f"real-{name}-{scheme}-{width}.png")
            found.check()
            context.close()


def test_both_models_are_ranked_and_smoke_runs_are_not(tab: Tab, real_store: Path) -> None:
    tab.open("board")
    assert {WHOLE, ROUNDED} == set(tab.models())
    table = assemble(real_store, with_columns(queries.cells(real_store)), Filters(), AGGREGATORS[0]).table
    assert set(table.Model) == {WHOLE, ROUNDED}
    text = tab.page.locator(".matrix").inner_text()
    assert all(f"{score:.1f}" in text for score in table.Score)
    assert "smoke" not in text
    tab.open("health")
    assert "purpose is smoke" in " ".join(text for number in range(3) for text in tab.cells(number))


def test_filters_and_deep_links(tab: Tab) -> None:
    tab.open("board", urlencode({"set": "capitals", "name": "4bit"}))
    assert tab.models() == [ROUNDED]
    tab.page.get_by_label("Model name").fill("builtin")
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert tab.state()["name"] == ["builtin"]
    assert tab.models() == [WHOLE]
    tab.page.reload()
    tab.settle()
    assert tab.models() == [WHOLE]


def test_sorting(tab: Tab) -> None:
    tab.open("board")
    before = tab.models()
    for _ in range(2):
        tab.page.get_by_role("button", name="Rank").click()
    assert tab.models() == before[::-1]


def test_a_score_leads_to_the_tokens_of_an_item(tab: Tab) -> None:
    tab.open("board")
    tab.page.locator(".matrix tbody td a:visible").first.click()
    tab.page.wait_for_url("**/items?**")
    tab.settle()
    tab.click(16, 50)
    tab.page.get_by_role("strong").filter(has_text="Response").wait_for(timeout=30_000)
    tab.settle()
    assert tab.state()["item"]
    tab.open("items", urlencode({**ITEM, "who": WHOLE}))
    assert "What is the capital of France?" in tab.text()
    answers = " ".join(tab.page.locator(".answers article header").all_inner_texts())
    assert WHOLE in answers and ROUNDED in answers


def test_a_comparison_shows_flipped_items(tab: Tab, real_store: Path) -> None:
    tab.open("compare", urlencode(PAGES["compare"] | {"task": "capitals"}))
    runs = [next(run.id for run in list_runs(real_store) if run.model == name and "capitals" in run.tasks) for name in (ROUNDED, WHOLE)]
    sql = "SELECT count(*) FROM samples a JOIN samples b USING (task, item_id) WHERE a.run_id = ? AND b.run_id = ? AND task = 'capitals'"
    lost, gained = (query(real_store, f"{sql} AND a.correct {sign} b.correct", runs)[0][0] for sign in "><")
    assert lost + gained, "rounding to 4 bits changed no response: the test needs a flipped item"
    assert f"The candidate lost {lost} and gained {gained} of 25 items." in tab.text()


def holds(cells: list[str], value: float) -> bool:
    """Whether a table shows a number. The accessible text of cells is unformatted."""
    numbers = [float(text) for text in cells if text.lstrip("+-").replace(".", "", 1).isdigit()]
    return any(abs(number - value) < 0.06 for number in numbers)


def test_the_study_is_on_the_tuning_page(tab: Tab, real_store: Path) -> None:
    trained = query(real_store, "SELECT method, 100 * avg(gain) FROM tuning WHERE role = 'grid' GROUP BY method, lr")
    assert trained
    tab.open("tuning")
    shown = tab.cells()
    assert {method for method, _ in trained} <= set(shown)
    assert all(holds(shown, gain) for _, gain in trained)


def test_the_snapshot_makes_no_request_and_sorts_and_filters(real_store: Path, tmp_path: Path, chromium: Any, shots: Path) -> None:
    page = publish(real_store, tmp_path)[0]
    for scheme, width in (("light", 1280), ("dark", 400)):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        found = Tab(context.new_page(), page.as_uri())
        found.page.goto(page.as_uri())
        table = found.page.locator(".wide table").first
        first = table.locator("tbody tr").first.inner_text()
        table.locator("th").first.click()
        table.locator("th").first.click()
        assert table.locator("tbody tr").first.inner_text() != first
        found.page.locator("input[type=search]").fill("4bit")
        assert table.locator("tbody tr:visible").count() == 1
        found.page.locator("input[type=search]").fill("")
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        found.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found.page.set_viewport_size({"width": width, "height": 2800})
        found.page.screenshot(path=shots / f"snapshot-{scheme}-{width}.png")
        found.check()
        context.close()


def test_the_report_makes_no_request(real_store: Path, tmp_path: Path, chromium: Any, shots: Path) -> None:
    runs = [run.id for run in list_runs(real_store) if run.purpose == "release" and "capitals" in run.tasks]
    (tmp_path / "report.html").write_text(run_report(real_store, runs, markdown=False))
    for scheme, width in (("light", 1280), ("dark", 400)):
        context = chromium.new_context(viewport={"width": width, "height": 2800}, color_scheme=scheme)
        found = Tab(context.new_page(), (tmp_path / "report.html").as_uri())
        found.page.goto((tmp_path / "report.html").as_uri())
        assert found.page.locator("svg").count() == 3
        found.page.screenshot(path=shots / f"report-{scheme}-{width}.png")
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        found.check()
        context.close()
