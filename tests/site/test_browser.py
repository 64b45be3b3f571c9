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

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
MOST_BYTES = 1_500_000
MOST_SHIFT = 0.02  # of the window; from 0.1 on it "needs improvement", says web.dev

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
WAIT_FOR_MATH = """async () => {
  await window.MathJax?.startup?.promise;
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
    requests: int = 0
    weight: int = 0  # bytes of all bodies, as sent
    shift: float = 0.0
    width: int = 0  # of the document, everything unfolded
    violations: list[str] | None = None


@pytest.fixture(scope="session")
def seen(browser: Any, site_url: str) -> Callable[[str, str, int], Seen]:
    @cache
    def look(name: str, theme: str, width: int) -> Seen:
        context = browser.new_context(viewport={"width": width, "height": 900})
        context.set_default_timeout(180_000)
        try:
            return look_at(context.new_page(), site_url, name, theme)
        finally:
            context.close()

    return look


def look_at(page: Any, site_url: str, name: str, theme: str) -> Seen:
    noted = Seen()
    requests: list[Any] = []

    def at_the_door(route: Any) -> None:
        if route.request.url.startswith((site_url, "data:", "blob:")):
            route.continue_()
        else:
            noted.strangers.append(route.request.url)
            route.abort()

    def listen(line: Any) -> None:
        if line.type in ("error", "warning"):
            noted.complaints.append(f"{line.text} ({line.location.get('url')})")

    page.route("**/*", at_the_door)
    page.on("requestfinished", lambda request: requests.append(request))
    page.on("pageerror", lambda error: noted.complaints.append(str(error)))
    page.on("console", listen)
    page.add_init_script(WATCH.replace("THEME", theme))
    page.goto(site_url + name, wait_until="load")
    noted.math = page.evaluate(WAIT_FOR_MATH)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    noted.shift = page.evaluate("window.shift")
    sent = [one for one in requests if one.url.startswith(site_url)]
    noted.requests = len(sent)
    noted.weight = sum(one.sizes()["responseBodySize"] for one in sent)
    page.evaluate(UNFOLD)
    noted.width = page.evaluate("document.documentElement.scrollWidth")
    if AXE.is_file():
        noted.violations = run_axe(page, theme)
    return noted


def run_axe(page: Any, theme: str) -> list[str]:
    """In the theme that is on, every rule; in the other one, the rule of colors."""
    other = "dark" if theme == "light" else "light"
    page.add_script_tag(path=str(AXE))
    page.evaluate(SIMPLIFY)
    found = page.evaluate(RUN_AXE, {"theme": theme})
    colors = {"theme": other, "runOnly": ["color-contrast"]}
    for rule in page.evaluate(RUN_AXE, colors):
        found.append({**rule, "id": f"{rule['id']} ({other})"})
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


def test_pages_are_light(seen: Any, told: list[str]) -> None:
    """What a first visit fetches, with gzip, everything counted."""
    views = {name: seen(name, *WIDE) for name in PAGES}
    told += [
        f"{view.weight / 1000:7.0f} kB in {view.requests} requests, "
        f"shift {view.shift:.3f}: {name}"
        for name, view in sorted(views.items(), key=lambda item: -item[1].weight)
    ]
    axe = [seen(name, *view).violations for name in PAGES for view in (WIDE, NARROW)]
    if None not in axe:
        told.append(f"axe: {sum(map(len, axe))} violations in {2 * len(axe)} views")
    heavy = {name: view.weight for name, view in views.items()}
    assert {name: sent for name, sent in heavy.items() if sent > MOST_BYTES} == {}
