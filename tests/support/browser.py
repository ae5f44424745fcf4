"""A real browser for tests of pages: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HEIGHT = 900


@dataclass
class Opened:
    """A page in the browser, and what happened in it."""

    page: Any
    address: str
    said: list[str] = field(default_factory=list)
    """Console messages and errors."""
    asked: list[str] = field(default_factory=list)
    """Requests, the page itself among them."""
    saved: int = 0
    """Files saved from it."""

    def check_quiet(self) -> None:
        """Assert that nothing was said, nothing but the page was asked for, and no text was run."""
        assert self.said == []
        assert [one for one in self.asked if not one.startswith(("blob:", self.address))] == []
        assert self.page.evaluate("window.ran === undefined")

    def check_width(self) -> None:
        """Assert that nothing is wider than the window but what scrolls within its own box."""
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        beyond = """() => [...document.querySelectorAll('body *')].filter((one) => {
            const scrolled = one.closest('.scroll') && !one.matches('.scroll');
            if (scrolled || one.closest('svg') && one.tagName !== 'svg') return false;
            const box = one.getBoundingClientRect();
            return box.width && !one.matches('.skip') && (box.left < 0 || box.right > window.innerWidth + 0.5);
        }).map((one) => one.outerHTML.slice(0, 200))"""
        assert self.page.evaluate(beyond) == []

    def violations(self) -> list[str]:
        """Return what axe finds with all of its default rules."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for one in found
            for node in one["nodes"]
        ]

    def show_everything(self) -> None:
        """Open all details and show all pairs."""
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        for more in self.page.locator(".more").all():
            while more.is_visible():
                more.click()


Open = Callable[..., AbstractContextManager[Opened]]


@pytest.fixture(scope="session")
def open_page() -> Iterator[Open]:
    """Return `open_page(path, width, scheme)`: a page opened from its file."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.exit(f"no browser found: install Chromium, as one of {', '.join(PROGRAMS)} on the PATH", returncode=1)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program)

        @contextmanager
        def opened(path: Path, width: int = 1400, scheme: str = "light", script: bool = True) -> Iterator[Opened]:
            context = browser.new_context(
                viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, java_script_enabled=script
            )
            page = context.new_page()
            page.set_default_timeout(20_000)
            found = Opened(page, path.as_uri())
            page.on("console", lambda message: found.said.append(message.text))
            page.on("pageerror", lambda error: found.said.append(str(error)))
            page.on("request", lambda request: found.asked.append(request.url))
            page.on("dialog", lambda dialog: (found.said.append(dialog.message), dialog.dismiss()))
            page.goto(path.as_uri())
            try:
                yield found
            finally:
                context.close()

        yield opened
        browser.close()
