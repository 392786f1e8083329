"""Open a running leaderboard in Chromium and navigate from the first rank to an item: python follow_rank.py ADDRESS"""

import shutil
import sys
import time
import urllib.request

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"no leaderboard at {address}")


def settle(page: Page) -> None:
    page.wait_for_selector("h1", timeout=60_000)
    page.wait_for_timeout(500)
    page.wait_for_function("document.querySelector('[data-test-script-state=running]') === null", timeout=60_000)
    page.wait_for_timeout(500)


address = sys.argv[1]
wait_for(address)
with sync_playwright() as playwright:
    page = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS).new_page()
    page.goto(address)
    settle(page)
    print("board:", page.locator("h1").first.inner_text())
    first = page.locator(".matrix tbody tr").first
    print("first:", first.get_attribute("data-label"))
    if not first.locator("td a:visible").count():
        first.locator("td button:visible").first.click()  # unfolds a family of tasks
    first.locator("td a:visible").first.click()  # a score leads to the items behind it
    page.wait_for_url("**/items?**")
    settle(page)
    box = page.locator("[data-testid=stDataFrame]").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 16, box["y"] + 50)
    page.get_by_role("strong").filter(has_text="Response").wait_for(timeout=60_000)
    print("item:", page.url)
