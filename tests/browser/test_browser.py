"""The leaderboard in a real browser: every page, deep links, sorting, links from a rank to an item; no requests elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tab import Tab

pytestmark = pytest.mark.browser

PAGES = {
    "board": "",
    "compare": "first=acme/Otter-7B&second=beta/Heron-3B",
    "model": "model=beta/Heron-3B",
    "task": "column=letters/last@own",
    "items": "of=letters/first@own&item=i0003&deep=true",
    "tuning": "",
    "gates": "",
    "runs": "",
    "health": "",
}


@pytest.fixture
def tab(chromium: Any, address: str) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    found = Tab(context.new_page(), address)
    yield found
    context.close()
    found.check()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_wide_and_narrow_windows_and_axe_finds_nothing(name: str, chromium: Any, address: str, shots: Path) -> None:
    every = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 400)]
    for scheme, width in every if os.environ.get("ASSAY_SCREENSHOTS") else (("light", 1280), ("dark", 400)):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        found = Tab(context.new_page(), address)
        found.open(name, PAGES[name])
        found.shoot(shots / f"{name}-{scheme}-{width}.png")
        assert not found.violations(), f"{scheme}, {width} pixels"
        assert width > 640 or not found.page.locator("[data-testid=stDataFrame]:visible").count(), "cards stand for tables"
        found.turn("dark" if scheme == "light" else "light")
        assert not found.violations(), f"the other scheme, {width} pixels"
        found.check()
        context.close()


def test_a_deep_link_restores_the_state(tab: Tab) -> None:
    tab.open("board", "set=letters&by=mean+win+rate&name=otter")
    shown = tab.models()
    assert "acme/Otter-7B" in shown
    assert "beta/Heron-3B" not in shown
    assert tab.page.get_by_text("share of the other models that a model beats").count() == 1


def test_a_choice_is_in_the_url_and_survives_a_reload(tab: Tab) -> None:
    tab.open("board")
    tab.page.get_by_role("button", name="More filters").click()
    tab.page.get_by_role("radio", name="Bradley-Terry").or_(tab.page.get_by_role("button", name="Bradley-Terry")).first.click()
    tab.settle()
    assert tab.state()["by"] == ["Bradley-Terry"]
    tab.page.reload()
    tab.settle()
    assert tab.page.get_by_text("strength fitted to items").count() == 1


def test_a_click_on_a_header_sorts(tab: Tab) -> None:
    tab.open("board")
    ranked = tab.models()
    assert ranked.index("acme/Otter-7B") < ranked.index("beta/Wren-300M")
    tab.page.get_by_role("button", name="Rank").click()
    assert tab.models() == ranked  # best first
    tab.page.get_by_role("button", name="Rank").click()
    assert tab.models().index("acme/Otter-7B") > tab.models().index("beta/Wren-300M")
    tab.page.get_by_role("button", name="Model", exact=True).click()
    names = tab.models()
    assert names in (sorted(names, key=str.lower), sorted(names, key=str.lower, reverse=True))


def test_a_cell_leads_to_its_items(tab: Tab) -> None:
    tab.open("board")
    tab.click_cell("beta/Heron-3B", "first")
    tab.page.wait_for_url("**/items?**")
    tab.settle()
    assert tab.state()["who"] == ["beta/Heron-3B"] and tab.state()["outcome"] == ["wrong"]
    tab.click(16, 50)
    tab.page.get_by_role("strong").filter(has_text="Response").wait_for(timeout=30_000)
    tab.settle()
    item = tab.state()["item"]
    assert tab.page.get_by_text(f"Question {int(item[0][1:])} of letters/first@own: which word comes").count() >= 1
    answers = tab.page.locator(".answers article").all_inner_texts()
    assert len(answers) == 7 and any("beta/Heron-3B" in text and "wrong" in text for text in answers)
    tab.page.get_by_role("button", name="Next →").click()
    tab.page.wait_for_function(f"!location.search.includes('item={item[0]}')", timeout=60_000)


def test_two_ticked_models_lead_to_a_comparison(tab: Tab) -> None:
    tab.open("board")
    for name in ("acme/Otter-7B", "beta/Heron-3B"):
        tab.page.get_by_label(f"Select {name} to compare").check()
    tab.page.get_by_role("link", name="Compare").last.click()
    tab.page.wait_for_url("**/compare?**")
    tab.settle()
    assert (tab.state()["first"], tab.state()["second"]) == (["acme/Otter-7B"], ["beta/Heron-3B"])
    tab.page.get_by_role("heading", name="Flipped items").wait_for(timeout=30_000)
    assert tab.page.locator(".answers del, .answers ins").count() >= 1


def test_a_score_shows_its_interval_on_hover_and_by_keyboard(tab: Tab) -> None:
    tab.open("board")
    cell = tab.page.locator(
        ".matrix tr[data-label='beta/Heron-3B'] td[data-head='add'] a, .matrix tr[data-label='beta/Heron-3B'] td a"
    ).first
    cell.hover()
    tip = tab.page.locator(".matrix .tooltip")
    assert "beta/Heron-3B on" in tip.inner_text() and "items" in tip.inner_text()
    cell.focus()
    assert tip.is_visible()


def test_hostile_names_and_responses_are_escaped(tab: Tab) -> None:
    for name in PAGES:
        tab.open(name, "")
        assert tab.page.locator("img[src='x'], img[src*='evil'], a[href*='//evil'], a[href^='javascript']").count() == 0, name
    tab.open("model")
    assert tab.page.get_by_text("<img src=x onerror=alert(1)>").count() >= 1


def test_another_host_name_is_refused(address: str) -> None:
    """DNS rebinding: a page on another host name that resolves to this machine gets no connection."""
    import http.client

    host, port = urlsplit(address).hostname, urlsplit(address).port
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    codes = []
    for name in (f"{host}:{port}", "evil.example"):
        connection = http.client.HTTPConnection(str(host), port, timeout=10)
        connection.request("GET", "/_stcore/stream", headers={**upgrade, "Host": name})
        codes.append(connection.getresponse().status)
        connection.close()
    assert codes[0] == 101
    assert codes[1] != 101
