"""recipes/app.py as a user starts it, and what a test does on its page."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe_commands import ENVIRONMENT, ROOT

DONE = ".answer[data-state=done]"


@contextmanager
def serve(folder: Path, *arguments: str, end: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """Start the recipe at a free port; gives the page's address. Its output and what is temporary are in the folder."""
    command = [sys.executable, "-u", str(ROOT / "recipes" / "app.py"), *arguments, "--port", "0"]
    with (folder / "app.log").open("w") as log:
        settings = ENVIRONMENT | {"TMPDIR": str(folder)}
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        line = next((line for line in lines if line.startswith("The page is at ")), "")
        assert line, (folder / "app.log").read_text()
        yield line.split()[4]
    finally:
        process.send_signal(end)
        assert process.wait(30) == 0


def open_app(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """Open the page; gives it, and a list to which errors and requests to elsewhere are added."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda said: "Content Security Policy" not in said.text or faults.append(said.text))
    local = (address, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(local) or faults.append(f"request: {request.url[:200]}"))
    page.goto(address)
    page.wait_for_selector("#ask")
    return page, faults


def drop(page: Any, *files: Path) -> None:
    """Choose a picture, in the place of the one that is there."""
    if page.locator("#picture [aria-label=Clear]").count():
        page.click("#picture [aria-label=Clear]")
    page.wait_for_selector("#picture input[type=file]", state="attached")
    page.set_input_files("#picture input[type=file]", list(map(str, files)))


def find_violations(page: Any) -> list[str]:
    """Return what axe calls serious or critical on the page."""
    from axe_core_python.sync_playwright import Axe

    found = Axe().run(page)["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
