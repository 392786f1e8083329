"""One tab of a browser on a board; it remembers everything that it must not do."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit


class Tab:
    """Remembers requests to elsewhere, dialogs and windows that opened, and errors on the console."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.elsewhere: list[str] = []
        self.fired: list[str] = []
        self.errors: list[str] = []
        page.on("request", self.seen)
        page.on("dialog", lambda dialog: (self.fired.append(dialog.message), dialog.dismiss()))
        page.on("popup", lambda popup: self.fired.append(popup.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.said)

    def seen(self, request: Any) -> None:
        if not request.url.startswith((self.address, self.address.replace("http", "ws"), "data:", "blob:")):
            self.elsewhere.append(request.url)

    def said(self, message: Any) -> None:
        """Streamlit asks below a page's own path first, and then at the root: those 404s are its way to find its server."""
        where = str(message.location.get("url", ""))
        if message.type == "error" and not where.endswith(("/_stcore/health", "/_stcore/host-config")):
            self.errors.append(f"{message.text} {where}")

    def check(self) -> None:
        """Raises where anything happened that must not."""
        assert not self.elsewhere, self.elsewhere
        assert not self.fired, self.fired
        assert not self.errors, self.errors

    def open(self, name: str, state: str = "") -> None:
        self.page.goto(f"{self.address}/{'' if name == 'board' else name}?{state}")
        self.settle()

    def settle(self) -> None:
        """Until the script has run and everything is drawn."""
        self.page.wait_for_selector("h1", timeout=60_000)
        self.page.wait_for_timeout(400)
        self.page.wait_for_selector("[data-test-script-state=notRunning][data-test-connection-state=CONNECTED]", timeout=60_000)
        self.page.wait_for_function("document.querySelector('[data-testid=stSkeleton]') === null", timeout=60_000)
        self.page.wait_for_timeout(600)

    def shoot(self, path: Any) -> None:
        """The whole page, up to 3,000 pixels."""
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        width = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": width, "height": min(int(height) + 20, 3000)})
        self.settle()
        self.page.screenshot(path=path)
        assert self.page.locator("[data-testid=stException]").count() == 0
        wide = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth - innerWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"

    def cells(self, number: int = 0) -> list[str]:
        """What the table says; it draws itself some time after the page has, so its first cell is waited for."""
        table = self.page.locator("[data-testid=stDataFrame]").nth(number)
        table.locator("[role=gridcell]").first.wait_for(state="attached", timeout=60_000)
        return [str(text) for text in table.locator("[role=gridcell]").all_text_contents()]

    def click(self, x: int, y: int) -> None:
        """Into the first table, which is a canvas: by position."""
        table = self.page.locator("[data-testid=stDataFrame]").first
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        self.page.mouse.click(box["x"] + x, box["y"] + y)
        self.page.wait_for_timeout(900)

    def state(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)

    def text(self) -> str:
        return str(self.page.locator("[data-testid=stMain]").inner_text())
