"""A page by keyboard alone: Tab reaches everything, shows where it is, and gets out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# Notes each stop of Tab, and whether it looks otherwise than without the focus.
WATCH_FOCUS = """() => {
  const calm = "* { transition: none !important; animation: none !important; }";
  document.head.append(Object.assign(document.createElement("style"), { textContent: calm }));
  const look = (element) => {
    const style = getComputedStyle(element);
    return ["outline", "boxShadow", "borderColor", "backgroundColor", "color", "opacity",
      "textDecoration", "visibility", "top"].map((name) => style[name]).join();
  };
  window.stops = [];
  document.addEventListener("focusin", ({ target }) => {
    window.stops.push(target);
    target.withFocus = look(target);
  });
  document.addEventListener("focusout", ({ target }) =>
    setTimeout(() => (target.without = look(target))));
}"""  # noqa: E501
# What a mouse can use. Links to the place where they stand are left to the mouse: the
# table of contents leads to the headings, the ledger to the claims.
NOT_REACHED = """() => {
  const all = "a[href], button, input, select, textarea, summary, [tabindex='0']";
  const stops = new Set(window.stops);
  return [...document.querySelectorAll(all)]
    .filter((each) => !each.matches(".headerlink, .claim-link, [tabindex='-1']"))
    .filter((each) => !each.disabled)
    .filter((each) => each.checkVisibility({ visibilityProperty: true }))
    .filter((each) => !each.closest("[inert], dialog:not([open])"))
    .filter((each) => !stops.has(each))
    .map((each) => each.outerHTML.slice(0, 200));
}"""
NOT_SEEN = """() => [...new Set(window.stops)]
  .filter((each) => each.without !== undefined && each.withFocus === each.without)
  .map((each) => each.outerHTML.slice(0, 200))"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(120_000)
    yield page
    context.close()


def focused(page: Any, script: str) -> Any:
    return page.evaluate(f"() => {{ const it = document.activeElement; {script} }}")


def reach(page: Any, selector: str) -> Any:
    """Put the focus where Tab would; what follows is done with keys."""
    element = page.locator(selector).first
    element.focus()
    return element


@pytest.mark.parametrize("name", ["book/inheritance.html", "search.html?q=attention"])
def test_tab_reaches_all_and_shows_where_it_is(
    page: Any, site_url: str, name: str, told: list[str]
) -> None:
    page.goto(site_url + name, wait_until="load")
    page.wait_for_selector(".theme-switch-button", state="attached")
    page.evaluate(WATCH_FOCUS)
    links = page.evaluate("document.querySelectorAll('*').length")
    for _ in range(links):  # more than there can be: a trap ends here
        page.keyboard.press("Tab")
        if focused(page, "return it === document.body || it === stops[0] && stops[1]"):
            break
    else:
        pytest.fail("Tab does not come back: a trap")
    stops = page.evaluate("new Set(window.stops).size")
    told.append(f"keyboard, {name}: {stops} stops")
    assert page.evaluate(NOT_REACHED) == []
    assert page.evaluate(NOT_SEEN) == []


def test_keys_do_what_a_mouse_does(page: Any, site_url: str) -> None:
    page.goto(f"{site_url}book/inheritance.html", wait_until="load")
    page.wait_for_selector(".theme-switch-button", state="attached")
    page.keyboard.press("Tab")
    assert focused(page, "return it.textContent") == "Skip to main content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page, "return it.closest('main, article, #main-content') !== null")

    reach(page, ".theme-switch-button:visible")
    theme = page.evaluate("document.documentElement.dataset.mode")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.mode") != theme

    fold = reach(page, "details.hide > summary")
    page.keyboard.press("Enter")
    assert fold.evaluate("summary => summary.parentElement.open")

    solution = page.locator(".admonition.dropdown button").first
    solution.focus()
    folded = "button => button.closest('.admonition').matches('.toggle-hidden')"
    assert solution.evaluate(folded)
    page.keyboard.press("Enter")
    assert not solution.evaluate(folded)

    for button in (".cell_input .copybtn:visible", ".copy-alone"):
        page.evaluate("navigator.clipboard.writeText('')")
        reach(page, button)
        page.keyboard.press("Enter")
        page.wait_for_function("navigator.clipboard.readText().then((t) => t !== '')")

    page.keyboard.press("Control+k")
    assert focused(page, "return it.matches('#pst-search-dialog input')")
    page.keyboard.press("Escape")
    assert not focused(page, "return it.matches('#pst-search-dialog input')")


def test_the_editor_of_a_cell_lets_go(page: Any, site_url: str) -> None:
    page.goto(f"{site_url}book/inheritance.html", wait_until="load")
    if not page.locator("#live").count():
        pytest.skip("no npm package `pyodide`: install Node.js, then `make test`")
    edit = page.get_by_role("button", name="Edit cell 1", exact=True)
    edit.focus()
    page.keyboard.press("Enter")
    assert focused(page, "return it.tagName") == "TEXTAREA"
    page.keyboard.press("Tab")
    assert focused(page, "return it.value").startswith("    ")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert focused(page, "return it.tagName") == "BUTTON"
