"""What each copy button of each page puts on the clipboard.

A cell's button yields the very text that the build ran, in a fresh process and in the
page's order. A listing's yields the lines of its file; the second one yields a script,
and `tests/test_book_bundle.py` runs that same script in a process that has nothing of
ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
import pytest

from bookkit.bundle import CannotBundle, bundle
from bookkit.listing import find_source

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "_build"
LISTING = re.compile(r"^[:~`]{3,}\{listing\} (\S+)\n((?::[\w-]+:.*\n)*)", re.MULTILINE)
MAKE_READY = """
for (const fold of document.querySelectorAll("details")) fold.open = true;
const calm = document.createElement("style");
calm.textContent = "* { transition: none !important; animation: none !important; }";
document.head.append(calm);
"""
# Chromium lets a page copy for five seconds after its reader did something; a call from
# here counts as that. So each button has a call of its own.
CLICK = """
async (button) => {
  const nothing = "nothing was copied";
  await navigator.clipboard.writeText(nothing);
  button.click();
  let text = nothing;
  for (let tries = 0; tries < 400 && text === nothing; tries++) {
    text = await navigator.clipboard.readText();
    if (text === nothing) await new Promise((done) => setTimeout(done, 5));
  }
  const box = button.closest(".cell_input, .listing");
  const kind = box?.classList.contains("listing") ? "listing" : box ? "cell" : "text";
  return [kind, text, button.closest(".highlight")?.querySelector("pre").textContent];
}
"""


def chapters() -> list[str]:
    pages = sorted((BUILD / "html" / "book").glob("*.ipynb"))
    return [page.stem for page in pages]


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    # A small window: after each click the browser draws it anew.
    context = browser.new_context(viewport={"width": 400, "height": 200})
    context.set_default_timeout(300_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def counts(told: list[str]) -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    told.append(
        "clipboard: "
        + ", ".join(
            f"{counts[kind]} of {counts['all ' + kind]} {kind}s"
            for kind in ("cell", "listing", "script", "text")
        )
    )


@pytest.mark.parametrize("name", chapters())
def test_buttons_yield_what_ran_and_what_runs_alone(
    tab: Any, site_url: str, name: str, counts: Counter[str]
) -> None:
    tab.goto(f"{site_url}book/{name}.html", wait_until="load")
    tab.bring_to_front()
    tab.wait_for_selector(".copybtn", state="attached")
    tab.evaluate(MAKE_READY)
    copied = [
        button.evaluate(CLICK) for button in tab.query_selector_all("button.copybtn")
    ]
    scripts = [
        button.evaluate(CLICK)[1] for button in tab.query_selector_all(".copy-alone")
    ]
    texts = {
        kind: [text.strip() for one, text, _ in copied if one == kind]
        for kind in ("cell", "listing", "text")
    }
    texts["script"] = [script.strip() for script in scripts]
    expected = {
        "cell": cells_of(name),
        "listing": listings_of(name),
        "script": scripts_of(name),
        "text": [shown.strip() for one, _, shown in copied if one == "text"],
    }
    for kind, right in expected.items():
        counts[f"all {kind}"] += len(right)
        counts[kind] += sum(a == b for a, b in zip(texts[kind], right, strict=False))
    wrong = [  # short: to explain how long texts differ takes pytest minutes
        (kind, number, a[:80], b[:80])
        for kind in expected
        for number, (a, b) in enumerate(zip_longest(texts[kind], expected[kind]))
        if a != b
        for a, b in [(a or "", b or "")]
    ]
    assert wrong == []


def cells_of(name: str) -> list[str]:
    """What the build ran, in a fresh process and in this order."""
    file = BUILD / "jupyter_execute" / "book" / f"{name}.ipynb"
    return [
        cell.source.strip()
        for cell in nbformat.read(file, as_version=4).cells
        if cell.cell_type == "code"
        and "remove-input" not in cell.metadata.get("tags", [])
    ]


def listings_of(name: str) -> list[str]:
    return [
        find_source(
            item, ROOT / "code", docstring=":without-docstring:" not in options
        ).text.strip()
        for item, options in shown_on(name)
    ]


def scripts_of(name: str) -> list[str]:
    found = []
    for item, _ in shown_on(name):
        with suppress(CannotBundle):
            found.append(bundle(item, ROOT / "code").text.strip())
    return found


def shown_on(name: str) -> list[tuple[str, str]]:
    return LISTING.findall((ROOT / "book" / f"{name}.md").read_text("utf-8"))
