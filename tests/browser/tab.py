"""A browser tab on a leaderboard that records forbidden events."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit


class Tab:
    """Records requests to other hosts, opened dialogs and windows, and console errors."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.elsewhere: list[str] = []
        self.fired: list[str] = []
        self.errors: list[str] = []
        page.on("request", self.record_request)
        page.on("dialog", lambda dialog: (self.fired.append(dialog.message), dialog.dismiss()))
        page.on("popup", lambda popup: self.fired.append(popup.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.record_error)

    def record_request(self, request: Any) -> None:
        if not request.url.startswith((self.address, self.address.replace("http", "ws"), "data:", "blob:")):
            self.elsewhere.append(request.url)

    def record_error(self, message: Any) -> None:
        """Ignores the 404s of Streamlit's search for its server, below the page's path and then at the root."""
        where = str(message.location.get("url", ""))
        if message.type == "error" and not where.endswith(("/_stcore/health", "/_stcore/host-config")):
            self.errors.append(f"{message.text} {where}")

    def check(self) -> None:
        """Fails if a forbidden event was recorded."""
        assert not self.elsewhere, self.elsewhere
        assert not self.fired, self.fired
        assert not self.errors, self.errors

    def open(self, name: str, state: str = "") -> None:
        self.page.goto(f"{self.address}/{'' if name == 'board' else name}?{state}")
        self.settle()

    def settle(self) -> None:
        """Waits until the script has run and everything is drawn."""
        self.page.wait_for_selector("h1", timeout=60_000)
        self.page.wait_for_timeout(400)
        self.page.wait_for_selector("[data-test-script-state=notRunning][data-test-connection-state=CONNECTED]", timeout=60_000)
        self.page.wait_for_function("document.querySelector('[data-testid=stSkeleton]') === null", timeout=60_000)
        self.page.wait_for_timeout(600)

    def shoot(self, path: Any) -> None:
        """Takes a screenshot of the whole page, up to 3,000 pixels high."""
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        width = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": width, "height": min(int(height) + 20, 3000)})
        self.settle()
        self.page.screenshot(path=path)
        assert self.page.locator("[data-testid=stException]").count() == 0
        wide = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"

    def cells(self, number: int = 0) -> list[str]:
        """The texts of a table. Waits for its first cell, since tables are drawn after the page."""
        table = self.page.locator("[data-testid=stDataFrame]").nth(number)
        table.locator("[role=gridcell]").first.wait_for(state="attached", timeout=60_000)
        return [str(text) for text in table.locator("[role=gridcell]").all_text_contents()]

    def models(self) -> list[str]:
        """The models of the matrix, in the order shown."""
        rows = self.page.locator(".matrix tbody tr")
        rows.first.wait_for(timeout=60_000)
        return [str(name) for name in rows.evaluate_all("rows => rows.map(row => row.dataset.label)")]

    def click_cell(self, model: str, head: str) -> None:
        """Clicks a score of the matrix: the task's short name, unfolded first."""
        unfold = self.page.locator(".matrix button[data-all]")
        if unfold.is_visible() and unfold.inner_text() == "Unfold all":
            unfold.click()
        self.page.locator(f".matrix tr[data-label='{model}'] td[data-head='{head}'] a").click()

    def click(self, x: int, y: int) -> None:
        """Clicks into the first table by position: it is a canvas."""
        table = self.page.locator("[data-testid=stDataFrame]").first
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        self.page.mouse.click(box["x"] + x, box["y"] + y)
        self.page.wait_for_timeout(900)

    def violations(self) -> list[str]:
        """What axe-core (in axe-playwright-python, without a network) finds on the page: impact, rule, element and reason."""
        from axe_playwright_python.sync_playwright import Axe

        return [
            f"{rule['impact']}: {rule['id']}: {node['target']}: {node['failureSummary']}"
            for rule in Axe().run(self.page).response["violations"]
            for node in rule["nodes"]
        ]

    def turn(self, scheme: str) -> None:
        """Changes the system's colour scheme, which the page follows."""
        colour = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        before = self.page.evaluate(colour)
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_function(f"{colour} !== '{before}'", timeout=30_000)
        self.page.wait_for_timeout(300)

    def state(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)

    def text(self) -> str:
        return str(self.page.locator("[data-testid=stMain]").inner_text())
