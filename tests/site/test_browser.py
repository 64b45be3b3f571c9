"""The site in a real browser: alone on its own origin, readable, reachable, in order.

Needs Chromium (`apt install chromium`); the tests of accessibility need Node.js too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
MODULES = ROOT / "node_modules"

BOOK_PAGES = [f"book/{file.name}" for file in sorted((SITE / "book").glob("*.html"))]
OTHER_PAGES = ["index.html", "search.html", "404.html", "genindex.html"]
CODE_PAGES = [
    file.relative_to(SITE).as_posix()
    for file in sorted((SITE / "code").rglob("*.html"))
]
VIEWS = [("light", 1280), ("dark", 360)]


@pytest.fixture
def page(browser: Any, site_url: str) -> Iterator[Any]:
    """A page that may speak to the site alone, and notes whatever else it tries."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.strangers, page.complaints = [], []

    def at_the_door(route: Any) -> None:
        url = route.request.url
        if url.startswith((site_url, "data:", "blob:")):
            route.continue_()
        else:
            page.strangers.append(url)
            route.abort()

    context.route("**/*", at_the_door)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console",
        lambda line: page.complaints.append(line.text) if line.type == "error" else 0,
    )
    yield page
    context.close()


@pytest.mark.parametrize("name", BOOK_PAGES + OTHER_PAGES)
def test_page_asks_nobody_else_and_does_not_complain(
    page: Any, site_url: str, name: str
) -> None:
    page.goto(site_url + name, wait_until="networkidle")
    assert page.strangers == []
    assert page.complaints == []
    math = page.locator(".math")
    if math.count():
        page.wait_for_selector("mjx-container", state="attached", timeout=20_000)
        page.wait_for_function("() => !document.querySelector('mjx-merror')")


def test_pages_of_code_ask_nobody_else(page: Any, site_url: str) -> None:
    assert len(CODE_PAGES) > 50
    for name in CODE_PAGES:
        page.goto(site_url + name, wait_until="load")
    assert page.strangers == []
    assert page.complaints == []


@pytest.mark.parametrize("name", BOOK_PAGES + CODE_PAGES[:2])
def test_page_does_not_scroll_sideways_on_a_phone(
    page: Any, site_url: str, name: str
) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(site_url + name, wait_until="load")
    page.wait_for_timeout(300)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360


@pytest.mark.parametrize(("theme", "width"), VIEWS)
@pytest.mark.parametrize("name", BOOK_PAGES + CODE_PAGES[:1] + ["search.html"])
def test_axe_finds_nothing(
    page: Any, site_url: str, name: str, theme: str, width: int
) -> None:
    axe = MODULES / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("no axe-core: install Node.js, then `make test` fetches it")
    page.set_viewport_size({"width": width, "height": 900})
    page.add_init_script(
        f"localStorage.setItem('mode', '{theme}');"
        f"localStorage.setItem('theme', '{theme}')"
    )
    page.goto(site_url + name, wait_until="load")
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.add_script_tag(path=str(axe))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    told = [
        f"{rule['id']} ({len(rule['nodes'])}): {rule['nodes'][0]['html'][:160]}"
        for rule in found
    ]
    assert told == []


@pytest.mark.parametrize("name", ["book/index.html", "book/objects.html"])
def test_lighthouse(chromium: str, site_url: str, name: str, tmp_path: Path) -> None:
    tool = MODULES / "lighthouse" / "cli" / "index.js"
    if not tool.is_file():
        pytest.skip("no Lighthouse: install Node.js, then `make test` fetches it")
    report = tmp_path / "report.json"
    flags = "--headless=new --no-sandbox --disable-gpu --disable-background-networking"
    command = ["node", str(tool), site_url + name, "--quiet", "--output=json"]
    command += [f"--output-path={report}", "--preset=desktop"]
    command += [f"--chrome-flags={flags}"]
    environment = {**os.environ, "CHROME_PATH": chromium}
    subprocess.run(command, env=environment, check=True, timeout=240)
    categories = json.loads(report.read_text(encoding="utf-8"))["categories"]
    scores = {key: round(100 * value["score"]) for key, value in categories.items()}
    assert min(scores.values()) >= 95, scores
