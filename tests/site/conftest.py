"""Tests of the built site read `_build/html`; `make site-tests` builds it first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from site_server import Server

from bookkit.printed import find_chromium

SITE = Path(__file__).parents[2] / "_build" / "html"
TOLD: list[str] = []


@pytest.fixture(scope="session")
def told() -> list[str]:
    """Lines for the end of the run: what was measured, beside what held."""
    return TOLD


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TOLD:
        terminalreporter.section("the site, as seen")
        terminalreporter.write_line("\n".join(TOLD))


@pytest.fixture(scope="session")
def pages() -> dict[str, BeautifulSoup]:
    """Every page of the site by its address, parsed."""
    files = sorted(SITE.rglob("*.html"))
    assert files, f"no site in {SITE}: run `make book` first"
    return {
        file.relative_to(SITE).as_posix(): BeautifulSoup(
            file.read_text(encoding="utf-8"), "html.parser"
        )
        for file in files
        if "_static" not in file.parts
    }


@pytest.fixture(scope="session")
def chapters(pages: dict[str, BeautifulSoup]) -> dict[str, BeautifulSoup]:
    """The pages that carry claims of their own."""
    return {name: page for name, page in pages.items() if page.select("p.claim")}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the machine's Chromium."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium: apt install chromium-headless-shell, or chromium")
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """A headless Chromium to which no other machine exists."""
    from playwright.sync_api import sync_playwright

    quiet = ["background-networking", "component-update", "sync", "gpu", "quic"]
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    flags.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built site on loopback, under the path of its pages; ends with a slash."""
    root = tmp_path_factory.mktemp("served")
    (root / "under-the-hood").symlink_to(SITE)
    handler = partial(Server, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/under-the-hood/"
        server.shutdown()
