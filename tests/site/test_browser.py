"""The site in a real browser: alone on its own origin, readable, light, in its place.

Each page is loaded once as a wide light page and once as a narrow dark one; all is
noted then, and each test reads from these notes. Needs Chromium; axe needs Node.js.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from site_server import as_sent

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
MOST_BYTES = 1_500_000
MOST_SHIFT = 0.1  # of the window; "good", says web.dev

BOOK_PAGES = [f"book/{file.name}" for file in sorted((SITE / "book").glob("*.html"))]
CODE_PAGES = [
    file.relative_to(SITE).as_posix()
    for file in sorted((SITE / "code").rglob("*.html"))
]
OTHER_PAGES = ["search.html?q=flash_attention", "404.html", "genindex.html"]
PAGES = BOOK_PAGES + OTHER_PAGES + CODE_PAGES[:: max(1, len(CODE_PAGES) // 4)]
WIDE, NARROW = ("light", 1280), ("dark", 360)

WATCH = """
  localStorage.setItem("mode", "THEME");
  localStorage.setItem("theme", "THEME");
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shift += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""
WAIT = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)));
  return {
    written: document.querySelectorAll(".math").length,
    drawn: document.querySelectorAll(".math mjx-container").length,
    wrong: [...document.querySelectorAll("mjx-merror")].map((m) => m.textContent),
  };
}"""
UNFOLD = """() => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const fold of document.querySelectorAll(".toggle-hidden"))
    fold.classList.remove("toggle-hidden");
  return document.documentElement.scrollWidth;
}"""
# What is one thing to a screen reader is one thing here, and each color of the code
# stands once: axe takes a minute for ten thousand elements.
SIMPLIFY = """() => {
  for (const svg of document.querySelectorAll("svg[role=img]")) svg.replaceChildren();
  for (const pre of document.querySelectorAll(".highlight pre")) {
    const words = new Set();
    for (const word of pre.querySelectorAll("span[class]:not(:has(*))"))
      if (words.has(word.className)) word.replaceWith(...word.childNodes);
      else words.add(word.className);
  }
}"""
# Text of one class, color, ground and size is looked at once for its contrast.
RUN_AXE = """async ({ theme, runOnly }) => {
  document.documentElement.dataset.theme = theme;
  await new Promise(requestAnimationFrame);
  await Promise.all(document.getAnimations().map((each) => each.finished));
  const looks = new Map();
  const grounds = new Map();
  const groundOf = (element) => {
    if (!element) return "";
    if (!grounds.has(element)) {
      const own = getComputedStyle(element).backgroundColor;
      const opaque = own.startsWith("rgb(");
      grounds.set(element, (opaque ? "" : groundOf(element.parentElement)) + own);
    }
    return grounds.get(element);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || element.closest("svg, mjx-container, script")) continue;
    const style = getComputedStyle(element);
    const look = [element.tagName, element.className, style.color, style.fontSize,
      style.fontWeight, style.visibility, style.opacity, groundOf(element)].join("|");
    delete element.dataset.look;
    if (!looks.has(look) && element.checkVisibility()) looks.set(look, element);
  }
  for (const element of looks.values()) element.dataset.look = "";
  axe.configure({ rules: [{ id: "color-contrast", selector: "[data-look]" }] });
  const where = { exclude: [["mjx-container > *"]] };
  const what = { resultTypes: ["violations"], ...(runOnly && { runOnly }) };
  return (await axe.run(where, what)).violations;
}"""


@dataclass
class Seen:
    """What a page did in one view."""

    strangers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    math: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    weight: int = 0  # bytes of all bodies, as sent
    shift: float = 0.0
    width: int = 0  # of the document, everything unfolded
    violations: list[str] | None = None


@pytest.fixture(scope="session")
def seen(browser: Any, site_url: str) -> Callable[[str, str, int], Seen]:
    tabs: dict[str, Any] = {}

    @cache
    def look(name: str, theme: str, width: int) -> Seen:
        if theme not in tabs:
            tabs[theme] = open_tab(browser, theme, width)
        return look_at(tabs[theme], site_url, name)

    return look


def open_tab(browser: Any, theme: str, width: int) -> Any:
    """A tab in a theme, which fetches everything anew for every page."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(180_000)
    context.add_init_script(WATCH.replace("THEME", theme))
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.theme = theme
    page.asked, page.complaints = [], []

    def listen(line: Any) -> None:
        if line.type in ("error", "warning"):
            page.complaints.append(f"{line.text} ({line.location.get('url')})")

    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", listen)
    return page


def look_at(page: Any, site_url: str, name: str) -> Seen:
    noted = Seen()
    page.asked.clear()
    page.complaints.clear()
    page.goto(site_url + name, wait_until="load")
    noted.math = page.evaluate(WAIT)
    noted.shift, theme = page.evaluate(
        "[window.shift, document.documentElement.dataset.theme]"
    )
    assert theme == page.theme
    # As for a reader who has been everywhere on the page.
    page.add_style_tag(content="* { content-visibility: visible !important; }")
    noted.width = page.evaluate(UNFOLD)
    page.wait_for_selector("html[data-scrollers=known]")
    if AXE.is_file():
        noted.violations = run_axe(page, theme)
    noted.complaints = page.complaints[:]
    asked = {url for url in page.asked if not url.startswith(("data:", "blob:"))}
    own = {url for url in asked if url.startswith(site_url)}
    noted.strangers = sorted(asked - own)
    files = {SITE / unquote(urlsplit(url).path).split("/", 2)[2] for url in own}
    noted.files = sorted(file.relative_to(SITE).as_posix() for file in files)
    noted.weight = sum(len(as_sent(file)) for file in files if file.is_file())
    return noted


def run_axe(page: Any, theme: str) -> list[str]:
    """Every rule in the theme that is on; of a wide page, the dark colors too."""
    page.add_script_tag(path=str(AXE))
    page.evaluate(SIMPLIFY)
    found = page.evaluate(RUN_AXE, {"theme": theme})
    if theme == "light":
        found += page.evaluate(
            RUN_AXE, {"theme": "dark", "runOnly": ["color-contrast"]}
        )
    return [
        f"{rule['id']}, {len(rule['nodes'])} times: {rule['nodes'][0]['html'][:160]}"
        for rule in found
    ]


in_both_views = pytest.mark.parametrize(("theme", "width"), [WIDE, NARROW])
on_every_page = pytest.mark.parametrize("name", PAGES)


@on_every_page
@in_both_views
def test_asks_nobody_else(seen: Any, name: str, theme: str, width: int) -> None:
    assert seen(name, theme, width).strangers == []


@on_every_page
@in_both_views
def test_does_not_complain(seen: Any, name: str, theme: str, width: int) -> None:
    assert seen(name, theme, width).complaints == []


@on_every_page
@in_both_views
def test_formulas_are_drawn(seen: Any, name: str, theme: str, width: int) -> None:
    math = seen(name, theme, width).math
    assert math["wrong"] == []
    assert math["drawn"] >= math["written"]


@on_every_page
def test_does_not_scroll_sideways_on_a_phone(seen: Any, name: str) -> None:
    assert seen(name, *NARROW).width <= 360


@on_every_page
@in_both_views
def test_nothing_moves_while_it_loads(
    seen: Any, name: str, theme: str, width: int
) -> None:
    assert seen(name, theme, width).shift <= MOST_SHIFT


@on_every_page
@in_both_views
def test_axe_finds_nothing(seen: Any, name: str, theme: str, width: int) -> None:
    violations = seen(name, theme, width).violations
    if violations is None:
        pytest.skip("no axe-core: install Node.js 18 or later, then `make test`")
    assert violations == []


@on_every_page
@in_both_views
def test_every_icon_is_in_the_small_font(
    seen: Any, name: str, theme: str, width: int
) -> None:
    asked = seen(name, theme, width).files
    assert [file for file in asked if "fontawesome" in file] == []


def test_pages_are_light(seen: Any, told: list[str]) -> None:
    """What a first visit fetches, with gzip, everything counted."""
    views = {name: seen(name, *WIDE) for name in PAGES}
    told += [
        f"{view.weight / 1000:7.0f} kB in {len(view.files)} requests, "
        f"shift {view.shift:.3f}: {name}"
        for name, view in sorted(views.items(), key=lambda item: -item[1].weight)
    ]
    axe = [seen(name, *view).violations for name in PAGES for view in (WIDE, NARROW)]
    if None not in axe:
        told.append(f"axe: {sum(map(len, axe))} violations on {len(axe)} loaded pages")
    heavy = {name: view.weight for name, view in views.items()}
    assert {name: sent for name, sent in heavy.items() if sent > MOST_BYTES} == {}
