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
def test_every_page_opens_and_fits_wide_and_narrow_windows(name: str, chromium: Any, address: str, shots: Path) -> None:
    schemes = ("light", "dark") if os.environ.get("ASSAY_SCREENSHOTS") else ("light",)
    for scheme in schemes:
        for width in (1280, 400):
            context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            found = Tab(context.new_page(), address)
            found.open(name, PAGES[name])
            found.shoot(shots / f"{name}-{scheme}-{width}.png")
            found.check()
            context.close()


def test_a_deep_link_restores_the_state(tab: Tab) -> None:
    tab.open("board", "set=letters&by=mean+win+rate&name=otter")
    shown = tab.cells()
    assert "acme/Otter-7B" in shown
    assert "beta/Heron-3B" not in shown
    assert tab.page.get_by_text("share of the other models that a model beats").count() == 1


def test_a_choice_is_in_the_url_and_survives_a_reload(tab: Tab) -> None:
    tab.open("board")
    tab.page.get_by_role("radio", name="Bradley-Terry").or_(tab.page.get_by_role("button", name="Bradley-Terry")).first.click()
    tab.settle()
    assert tab.state()["by"] == ["Bradley-Terry"]
    tab.page.reload()
    tab.settle()
    assert tab.page.get_by_text("strength fitted to items").count() == 1


def test_a_click_on_a_header_sorts(tab: Tab) -> None:
    tab.open("board")
    assert tab.cells().index("acme/Otter-7B") < tab.cells().index("beta/Wren-300M")
    tab.click(15, 16)  # the column of ranks: ascending, then descending
    tab.click(15, 16)
    assert tab.cells().index("acme/Otter-7B") > tab.cells().index("beta/Wren-300M")


def test_links_lead_from_a_rank_to_an_item(tab: Tab) -> None:
    tab.open("board")
    tab.page.get_by_role("link", name="Items", exact=True).last.click()
    tab.page.wait_for_url("**/items?**")
    tab.settle()
    assert tab.state()["who"] == ["acme/Otter-7B"]
    tab.click(16, 50)
    tab.page.get_by_role("strong").filter(has_text="Response").wait_for(timeout=30_000)
    tab.settle()
    assert tab.state()["item"] == ["i0000"]
    assert tab.page.get_by_text("Question 0 of letters/first@own: which word comes 0 places after 'ant'?").count() >= 1
    assert "beta/Heron-3B" in tab.cells(1)  # all responses to it


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
