"""Every cell that runs in the reader's browser says there what the built page says.

Each "Run" of the four Python chapters is pressed in Chromium, in order, on CPython
in WebAssembly. The page was built by another version, with 64-bit pointers, so:

- every claim of the built page appears again, in its cell, in the same words; a claim
  that names its condition ("with 64-bit pointers") may be missing where that fails;
- what a claim measured is the same, unless its statement names versions or pointers;
- pictures, tables and printed text are the same, but for the cells in `DIFFERENT`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bookkit.script import read_cells

ROOT = Path(__file__).parents[2]
CHAPTERS = ("garbage_collection", "objects", "inheritance", "debugging")
LIMIT = 300_000  # milliseconds for one cell, the first one's loading of Python included

pytestmark = pytest.mark.skipif(
    not (ROOT / "node_modules" / "pyodide").is_dir(),
    reason="no npm package `pyodide`: install Node.js, then `make test` fetches it",
)

CONDITION = re.compile(r"\b3\.\d+|64-bit")

# A claim, or what a cell shows and its first line; and why it comes out differently.
COUNTS = "reference counts by version: borrowed in calls from 3.14 on, immortal objects"
COLLECTOR = "3.14.2 has the incremental collector, in two generations"
POINTERS = "a pointer has 4 bytes, not 8"
PROCESS = "as many objects as the process has, as many seconds as it takes"
CLASS = "how many objects a class is made of differs by version"
DIFFERENT = {
    "text of counts = [sys.getrefcount(8)]": COUNTS,
    "text of def count_inside": COUNTS,
    "text of def rise": COUNTS,
    "text of def keeps_its_exception": CLASS,
    "text of def collected": "the dictionary of an instance comes when asked for, 3.13",
    "text of alive_on = drop_cycles": COLLECTOR,
    "with the collector on, dropped cycles do not pile up": COLLECTOR,
    "text of def generation_of": COLLECTOR,
    "with three generations an object moves from 0 to 1 to 2": COLLECTOR,
    "50,000 new lists add about 50,000 to it": COLLECTOR,
    "text of KIND, gc.get_threshold()": COLLECTOR,
    "a third threshold of 0 gives the incremental collector away": COLLECTOR,
    "tables of instance, numbers": "dictionaries are tracked from the start since 3.14",
    "text of with quiet_collector()": f"{POINTERS}; {COLLECTOR}",
    "text of floats = [float(i)": POINTERS,
    "the collector's header has the size of two pointers": POINTERS,
    "the header is all that a bare object() has": POINTERS,
    "text of powers = ": POINTERS,
    "an integer takes int.__basicsize__ bytes": POINTERS,
    "a list holds one pointer for each item": POINTERS,
    "tables of agree, outcomes": COLLECTOR,
    "the programs had something to disagree on": COLLECTOR,
    "text of keep = ": PROCESS,
    "after gc.freeze() next to nothing is scanned": PROCESS,
    "the objects are frozen, not freed": PROCESS,
    "a class made in a function is a cycle": CLASS,
    "gc.collect() returns them": PROCESS,
    "50,000 new numbers barely move its first number": PROCESS,
    "a local string that nothing else refers to": "its allocator has other room",
    "the innermost of a million nested lists": "CPython 3.14.2 overflows there",
    "MonitoringDebugger gives the variables": "sys.monitoring came with 3.12",
}

READ_CELLS = """() => {
  const texts = (cell, selector) => [...cell.querySelectorAll(selector)]
    .map(node => node.textContent.replace(/\\s+/g, " ").trim());
  return [...document.querySelectorAll("div.cell")].map(cell => ({
    first: cell.querySelector(".cell_input pre").textContent.split("\\n")[0],
    claims: texts(cell, ".cell_output .claim-text"),
    evidence: texts(cell, ".cell_output .claim-evidence"),
    pictures: [...cell.querySelectorAll(".cell_output figure svg")]
      .map(svg => svg.getAttribute("aria-label")),
    tables: texts(cell, ".cell_output table"),
    text: texts(cell, ".cell_output pre").join(""),
    state: cell.dataset.live ?? "built",
    note: cell.querySelector(".live-note").textContent,
    runs: cell.querySelector(".live-run") !== null,
  }));
}"""


@contextmanager
def opened(browser: Any, address: str, site_url: str) -> Iterator[Any]:
    """A page; afterwards, it has asked the site alone, and Python came from there."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.set_default_timeout(LIMIT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address, wait_until="load")
    assert not [url for url in asked if "pyodide" in url], "Python came unasked"
    yield page
    assert f"{site_url}_static/pyodide/pyodide.asm.wasm" in asked
    assert [url for url in asked if not url.startswith(site_url)] == []
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def press_run(page: Any, index: int) -> str:
    """Press the button of a cell, wait for its end; the state that it is in then."""
    cell = page.locator("div.cell").nth(index)
    cell.evaluate(
        "cell => cell.querySelectorAll('details').forEach(d => d.open = true)"
    )
    cell.locator(".live-run").click()
    state = page.wait_for_function(
        """index => {
          const state = document.querySelectorAll("div.cell")[index].dataset.live;
          return state && state !== "running" && state;
        }""",
        arg=index,
    )
    return str(state.json_value())


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_cell_runs_as_it_was_built(
    browser: Any, site_url: str, chapter: str, told: list[str]
) -> None:
    source = (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf-8")
    cells = read_cells(source)
    left_out = [bool(cell.tags & {"plot", "needs-processes"}) for cell in cells]
    begin = time.perf_counter()
    with opened(browser, f"{site_url}book/{chapter}.html", site_url) as page:
        built = page.evaluate(READ_CELLS)
        assert [not cell["runs"] for cell in built] == left_out
        assert [bool(cell["note"]) for cell in built] == left_out
        states = [
            press_run(page, index) for index, out in enumerate(left_out) if not out
        ]
        run = page.evaluate(READ_CELLS)
    seconds = time.perf_counter() - begin
    told.append(
        f"{chapter}: {states.count('done')} of {len(states)} cells run, "
        f"{sum(left_out)} left out, {seconds:.0f} s"
    )
    assert set(states) == {"done"}, [c for c in run if c["state"] == "failed"]
    pairs = zip(built, run, left_out, strict=True)
    found = [line for b, r, out in pairs if not out for line in differences(b, r)]
    assert found == [], "\n".join(found)


def differences(built: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """What a cell says otherwise than the page did, less what may differ."""
    found = []
    measured = dict(zip(run["claims"], map(plain, run["evidence"]), strict=True))
    for claim, text in zip(built["claims"], map(plain, built["evidence"]), strict=True):
        if claim not in measured and "64-bit" not in claim:
            found.append(f"not claimed: {claim}")
        elif measured.get(claim, text) != text and not CONDITION.search(claim):
            found.append(f"{claim}: {text} → {measured[claim]}")
    new = set(run["claims"]) - set(built["claims"])
    found += [f"claimed anew: {claim}" for claim in sorted(new)]
    for kind in ("pictures", "tables"):
        if built[kind] != run[kind]:
            found.append(f"{kind} of {built['first']} {built[kind]} → {run[kind]}")
    # IPython breaks long values into lines.
    texts = ["".join(cell["text"].split()) for cell in (built, run)]
    if texts[0] != texts[1]:
        found.append(f"text of {built['first']} {texts[0]} → {texts[1]}")
    return [line for line in found if not any(known in line for known in DIFFERENT)]


def plain(evidence: str) -> str:
    """Without where it is from: the build makes a link of that, the browser cannot."""
    return re.sub(r"(^| · )(recorded|cited): .*", "", evidence)


def unfocused(markup: str) -> str:
    """Without what the theme notes on boxes that scroll, whenever it comes to it."""
    return re.sub(r' (data-)?tabindex="-?\d"', "", markup)


def test_edit_stop_fail_and_reset(browser: Any, site_url: str) -> None:
    with opened(browser, f"{site_url}book/objects.html", site_url) as page:
        first = page.locator("div.cell").first
        built = unfocused(first.locator(".cell_output").inner_html())
        status = page.locator(".live-status")

        first.get_by_role("button", name="Edit").click()
        area = first.get_by_label("Code of cell 1")
        area.fill("print('begun')\nwhile True: pass")
        area.press("Control+Enter")
        output = first.locator(".cell_output")
        output.get_by_text("begun").wait_for()  # streamed: it is not done
        first.get_by_role("button", name="Stop").click()
        status.get_by_text("Python has ended: stopped").wait_for()

        area.fill("import underhood.objects\nif True:")
        area.press("End")
        area.press("Control+End")
        area.press("Enter")
        area.press("Tab")
        area.press_sequentially("1 / 0")
        assert area.input_value().endswith("if True:\n        1 / 0")
        area.press("Control+Enter")
        output.get_by_text("ZeroDivisionError").wait_for()
        assert "Cell 1, line 3, in <module>" in output.inner_text()

        # The cell above runs first, and fails: this one does not run.
        second = page.locator("div.cell").nth(1)
        second.locator("details").evaluate("details => details.open = true")
        second.get_by_role("button", name="Run").click()
        second.get_by_text("not run: cell 1, above, raised").wait_for()

        page.get_by_role("button", name="Reset the page").click()
        assert first.locator("textarea").count() == 0
        assert unfocused(output.inner_html()) == built
        second.get_by_role("button", name="Run").click()
        second.get_by_text("ran after the 1 above").wait_for()
        assert second.locator(".cell_output .claim").count() > 0
        second.get_by_role("button", name="Run").click()  # claims may be said again
        second.get_by_text("ran", exact=True).wait_for()
        assert unfocused(output.inner_html()) == built


def test_other_chapters_lead_to_the_notebook(pages: dict[str, Any]) -> None:
    live = {f"book/{chapter}.html" for chapter in CHAPTERS}
    executed = {name for name, page in pages.items() if page.select(".chapter-facts")}
    assert live < executed
    for name in executed:
        link = pages[name].select_one(".live-intro a[download]")
        assert link is not None, name
        assert (ROOT / "_build" / "html" / name).with_name(link["href"]).is_file()
        assert bool(pages[name].select("#live")) == (name in live)
