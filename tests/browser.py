"""Chromium without a window, for the tests and the benchmark of the report's page."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# As root in a container, and without the calls home that would count as network requests of the page
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser(executable: str) -> Iterator[Any]:
    """Start Chromium; gives Playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def watch_pages(browser: Any) -> Iterator[Callable[..., Any]]:
    """Give a function that opens a report at a size and in a colour scheme; afterwards nothing may have gone wrong."""
    opened = []

    def open_at(path: Path, width: int = 1440, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        opened.append((context, *open_page(context, path)))
        return opened[-1][1]

    yield open_at
    for context, _, faults in opened:
        context.close()
        assert faults == []


def open_page(context: Any, path: Path) -> tuple[Any, list[str]]:
    """Open a report and wait until it is ready.

    Returns:
        The page, and a list to which what should not happen is added: console messages, errors, network requests.
    """
    page = context.new_page()
    faults: list[str] = []
    address = path.resolve().as_uri()
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("request", lambda request: _is_own(request.url, address) or faults.append(f"request: {request.url[:200]}"))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    return page, faults


def _is_own(url: str, address: str) -> bool:
    return url.startswith("data:") or url.partition("#")[0] == address


# Runs in the page: sets a control of the filters as a person would, and waits until the result has been painted
SET_FILTER = """([name, value]) => new Promise((done) => {
  const control = document.querySelector('.filters').elements[name];
  const start = performance.now();
  if (control.type === 'checkbox') control.checked = value;
  else control.value = value;
  control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change', { bubbles: true }));
  const end = () => done((performance.now() - start) / 1000);
  const painted = () => requestAnimationFrame(() => requestAnimationFrame(end));
  setTimeout(painted, control.type === 'search' ? 130 : 0);
})"""
