"""A real browser: Debian's Chromium or Chrome where there is one, else Playwright's own."""

import shutil
from collections.abc import Callable, Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")

OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Headless Chromium."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(headless=True, executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Opens an address in a fresh context, `wide` or `narrow`, `light` or `dark`."""
    contexts = []

    def open_page(address: str, size: str = "wide", colours: str = "light"):
        width, height = {"wide": (1280, 900), "narrow": (390, 844)}[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
        contexts.append(context)
        page = context.new_page()
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
