"""What each copy button of each page puts on the clipboard.

A cell's button yields the very text that the build ran, in a fresh process and in the
page's order. A listing's yields the lines of its file; the second one yields a script,
and `tests/test_book_bundle.py` runs that same script in a process that has nothing of
ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from bookkit.bundle import CannotBundle, bundle
from bookkit.listing import find_source

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "_build"
LISTING = re.compile(r"^[:~`]{3,}\{listing\} (\S+)\n((?::[\w-]+:.*\n)*)", re.MULTILINE)
CLICK_ALL = """
async (selector) => {
  document.querySelectorAll("details").forEach((fold) => (fold.open = true));
  const copied = [];
  for (const button of document.querySelectorAll(selector)) {
    await navigator.clipboard.writeText("nothing was copied");
    button.click();
    let text = "nothing was copied";
    for (let tries = 0; tries < 200 && text === "nothing was copied"; tries++) {
      await new Promise((done) => setTimeout(done, 5));
      text = await navigator.clipboard.readText();
    }
    const box = button.closest(".cell_input, .listing");
    const kind = box?.classList.contains("listing") ? "listing" : box ? "cell" : "text";
    copied.push([kind, text]);
  }
  return copied;
}
"""


def chapters() -> list[str]:
    pages = sorted((BUILD / "html" / "book").glob("*.ipynb"))
    return [page.stem for page in pages]


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context.new_page()
    context.close()


def click_all(tab: Any, address: str, selector: str) -> list[tuple[str, str]]:
    tab.goto(address, wait_until="load")
    tab.bring_to_front()
    tab.wait_for_selector(".copybtn", state="attached")
    return [(kind, text) for kind, text in tab.evaluate(CLICK_ALL, selector)]


@pytest.mark.parametrize("name", chapters())
def test_copy_buttons_yield_what_the_build_ran(
    tab: Any, site_url: str, name: str
) -> None:
    copied = click_all(tab, f"{site_url}book/{name}.html", "button.copybtn")
    notebook = nbformat.read(
        BUILD / "jupyter_execute" / "book" / f"{name}.ipynb", as_version=4
    )
    ran = [
        cell.source.rstrip()
        for cell in notebook.cells
        if cell.cell_type == "code"
        and "remove-input" not in cell.metadata.get("tags", [])
    ]
    assert [text.rstrip() for kind, text in copied if kind == "cell"] == ran

    shown = LISTING.findall((ROOT / "book" / f"{name}.md").read_text("utf-8"))
    texts = [
        find_source(
            item, ROOT / "code", docstring=":without-docstring:" not in options
        ).text.strip()
        for item, options in shown
    ]
    assert [text.strip() for kind, text in copied if kind == "listing"] == texts
    print(f"{name}: {len(ran)} cells, {len(texts)} listings")


@pytest.mark.parametrize("name", chapters())
def test_second_buttons_yield_scripts_that_stand_alone(
    tab: Any, site_url: str, name: str
) -> None:
    copied = click_all(tab, f"{site_url}book/{name}.html", "button.copy-alone")
    expected = []
    for item, _ in LISTING.findall((ROOT / "book" / f"{name}.md").read_text("utf-8")):
        try:
            expected.append(bundle(item, ROOT / "code").text)
        except CannotBundle:
            continue
    assert [text for _, text in copied] == expected
    print(f"{name}: {len(expected)} of {len(expected)} scripts")
