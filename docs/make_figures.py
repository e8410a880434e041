"""The pictures of README and docs, from the demo's folder: anyone can make them.

    medhybrid demo
    python docs/make_figures.py demo

Writes docs/images/demo.png (the held-out brain nearest to the mean) and report.png, viewer.png (its report, in Chromium).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
DRAWN = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
PATIENCE_MS = 120_000


def main(demo: Path) -> None:
    """Copy one, photograph the others."""
    shutil.copy(demo / "predictions" / "picture.png", IMAGES / "demo.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=DRAWN)
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(PATIENCE_MS)
        page.goto((demo / "predictions" / "report.html").resolve().as_uri())
        page.screenshot(path=IMAGES / "report.png")
        section = page.locator("section.case").first
        section.locator(".jump").first.click()
        page.wait_for_timeout(100)
        section.locator(".location", has_text="mm").wait_for()
        page.wait_for_timeout(2000)  # the last frame is drawn after the place is told
        page.screenshot(path=IMAGES / "viewer.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
