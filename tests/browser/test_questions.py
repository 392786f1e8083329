"""The six questions of a team, answered on the generated store by at most three clicks each from the Board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import served
from tab import Tab

from assay.harness.store import list_runs, open_writer
from assay.leaderboard.demo.cached import demo_store

pytestmark = pytest.mark.browser

FIRST_TWO = "No significant difference between acme/otter-13b and beta/heron-8b: +2.9 points, 95 % interval -0.6 to +6.4."
BASE, TUNED = "beta/heron-3b", "beta/heron-3b+lora-0/result"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The generated store, whose unfinished run is being written by this process."""
    root: Path = demo_store(tmp_path_factory.mktemp("cache"))
    (unfinished,) = (run for run in list_runs(root) if run.status == "running")
    with open_writer(unfinished.path), served(root, 8830) as address:
        yield address


@pytest.fixture
def team(chromium: Any, place: str) -> Iterator[Clicks]:
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    tab = Tab(context.new_page(), place)
    tab.open("board")
    tab.page.locator(".matrix tbody tr").first.wait_for(timeout=60_000)
    yield Clicks(tab)
    context.close()
    tab.check()


class Clicks:
    """A tab that counts clicks. Three are allowed."""

    def __init__(self, tab: Tab) -> None:
        self.tab, self.count = tab, 0

    def on(self, locator: Any) -> None:
        self.count += 1
        assert self.count <= 3, "more than three clicks"
        locator.click()

    def text(self) -> str:
        self.tab.settle()
        return self.tab.text()

    def open(self, page: str) -> str:
        """Clicks the page's name in the navigation."""
        self.on(self.tab.page.get_by_role("link", name=page, exact=True).first)
        self.tab.page.get_by_role("heading", name=page, exact=True).wait_for(timeout=60_000)
        return self.text()

    def compare(self, first: str, second: str) -> str:
        for name in (first, second):
            self.on(self.tab.page.get_by_label(f"Select {name} to compare", exact=True))
        self.on(self.tab.page.locator(".matrix .bar a"))
        self.tab.page.get_by_role("heading", name="Flipped items").wait_for(timeout=60_000)
        return self.text()


def test_which_model_is_best_and_do_the_first_two_differ(team: Clicks) -> None:
    text = team.text()
    assert "3 models share the lead (acme/otter-13b, beta/heron-8b, kite-large)" in text
    assert f"acme/otter-13b has the highest score. {FIRST_TWO}" in text
    assert team.tab.models()[:2] == ["acme/otter-13b", "beta/heron-8b"] and not team.count


def test_how_large_the_difference_of_the_first_two_is(team: Clicks) -> None:
    text = team.compare("beta/heron-8b", "acme/otter-13b")
    assert FIRST_TWO in text  # in the words of the Board
    assert "0 tasks worse" in text and "without a significant difference" in text


def test_what_a_model_lost_and_which_item_decided_it(team: Clicks) -> None:
    text = team.compare(BASE, TUNED)
    assert "regressed" in text and "words/order@demo lost 29.00 points" in text
    assert "3 tasks worse, 2 better" in text
    assert "beta/heron-3b is better on 176, beta/heron-3b+lora-0/result is better on 120" in text
    assert "Most decisive: item 078 of words/order@demo" in text  # of the task that lost most, with both responses
    articles = team.tab.page.locator(".answers article").all_inner_texts()
    assert "right" in articles[0] and "wrong" in articles[1]


def test_which_items_a_model_got_wrong(team: Clicks) -> None:
    team.on(team.tab.page.locator(f".matrix tr[data-label='{TUNED}'] td[data-head='order'] a"))
    team.tab.page.wait_for_url("**/items?**")
    text = team.text()
    assert "words/order@demo, item" in text and "✗ wrong" in " ".join(team.tab.page.locator(".answers article").all_inner_texts())


def test_what_is_running(team: Clicks) -> None:
    text = team.open("Runs")
    assert "acme/otter-30b" in text and "440 of 1,100 items · running" in text
    assert "after" in text and "items" in text  # the running score


def test_what_lora_forgot(team: Clicks) -> None:
    text = team.open("Tuning")
    assert "Change on each retention task" in text
    assert "dominates" in team.tab.cells(0)  # against full tuning
    rows = list(batched(team.tab.cells(1), 12))
    (lora,) = (row for row in rows if row[0] == "lora" and row[2] == "1e-04")
    assert -3.0 < float(lora[6]) < -1.5 and lora[7].strip("\u2060") == "-2.8 to -1.6"  # points on the retention tasks


def batched(cells: list[str], count: int) -> Iterator[list[str]]:
    yield from (cells[start : start + count] for start in range(0, len(cells), count))
