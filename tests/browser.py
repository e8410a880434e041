"""Headless Chromium of the system, for tests of pages in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patience_s

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
"""Screenshots of the tests."""

needs_browser = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


@dataclass
class Watched:
    """Page with its console errors and its requests."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def shoot(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def shoot_window(self, name: str) -> None:
        """Save a screenshot of the window."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser, with WebGL rendered in software."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = [
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--enable-unsafe-swiftshader",
            "--use-angle=swiftshader",
            "--disable-gpu-rasterization",  # software rendering: the CPU draws pages faster without it
            "--disable-gpu-compositing",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=1000 * patience_s())
        yield browser
        browser.close()


def expect_soon(locator: Any) -> Any:
    """Return an expectation for a part of a page, with a timeout for slow hosts."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * patience_s())
    return expect(locator)


@contextmanager
def watched_page(browser: Any, *, width: int = 1366, height: int = 900, **options: Any) -> Iterator[Watched]:
    """Open a page in a new browser context."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(1000 * patience_s())
    page = context.new_page()
    watched = Watched(page)
    page.on("console", lambda m: watched.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: watched.errors.append(str(e)))
    page.on("request", lambda r: watched.requests.append(r.url))
    yield watched
    context.close()


def serious_problems(page: Any, *, without: str = "") -> list[str]:
    """Return the serious and critical violations of WCAG 2.1 A and AA that axe-core finds.

    Parameters
    ----------
    without : str
        Selector of parts that are not examined, since others are like them.
    """
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
    context = {"exclude": [[without]]} if without else None
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]
