"""Chromium and node for tests of the explorer's page; tests skip where either is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gsd_cli.core.explorer.folder import PAGE

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def run_javascript(folder: Path, script: str) -> Any:
    """What a module script prints as JSON; it may import the page's modules from `./page/`."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    shutil.copytree(PAGE, folder / "page", dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "script.js").write_text(script)
    done = subprocess.run([node, "script.js"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass
class Visit:
    """A page in Chromium, with what it printed and the requests that left its origin."""

    page: Any
    url: str
    printed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, address: str = "?backend=wasm") -> None:
        """Load the page and wait for its first image."""
        self.page.goto(self.url + address)
        self.page.wait_for_selector("html[data-ready]", timeout=120_000)
        self.settle()

    def settle(self) -> None:
        """Wait until the image shows what the controls say."""
        self.page.wait_for_selector("html[data-busy=no]", state="attached", timeout=120_000)

    def pixels(self, canvas: str = "#image") -> list[int]:
        """The red values of a canvas, row by row."""
        script = """id => {
            const source = document.querySelector(id);
            const copy = new OffscreenCanvas(source.width, source.height).getContext("2d");
            copy.drawImage(source, 0, 0);
            return Array.from(copy.getImageData(0, 0, source.width, source.height).data).filter((_, k) => k % 4 == 0);
        }"""
        found: list[int] = self.page.evaluate(script, canvas)
        return found


@contextmanager
def starting_browser() -> Iterator[Any]:
    """A headless Chromium. Skips the test where it or playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Any, url: str, **context: Any) -> Iterator[Visit]:
    """A page with a storage of its own; nothing but `url` can be reached."""
    page = browser.new_context(**context).new_page()
    visit = Visit(page, url)

    def check(route: Any) -> None:
        if route.request.url.startswith((url, "data:", "blob:")):
            route.continue_()
        else:
            visit.outside.append(route.request.url)
            route.abort()

    page.context.route("**/*", check)
    page.on("console", lambda message: visit.printed.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: visit.printed.append(f"error: {error}"))
    yield visit
    page.context.close()
