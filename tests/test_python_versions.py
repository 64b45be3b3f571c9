"""The four Python chapters hold on every CPython of this machine.

Each page runs, cell by cell, in a plain interpreter of each version found, and in
WebAssembly where Node.js and the npm package `pyodide` are there. Without them the
one in use is enough. What cannot work in WebAssembly, processes and threads, stands
in cells with the tag `needs-processes`; each cell left out is named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bookkit.interpreters import (
    Interpreter,
    NoWebAssembly,
    find_cpythons,
    find_webassembly,
)
from bookkit.script import read_cells

ROOT = Path(__file__).parents[1]
CHAPTERS = ("garbage_collection", "objects", "inheritance", "debugging")
LIMIT = 600.0  # seconds for one page, against a hang; the machine may be busy
AT_ONCE = 2


def _find() -> tuple[list[Interpreter], str]:
    """The interpreters, and why there is none in WebAssembly."""
    found = find_cpythons()
    try:
        return [*found, find_webassembly(ROOT)], ""
    except NoWebAssembly as missing:
        return found, str(missing)


INTERPRETERS, NO_WEBASSEMBLY = _find()


@dataclass(frozen=True)
class Run:
    """What one interpreter said of one page."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def claims(self) -> int:
        """The number of claims on the last line."""
        held = re.search(r"(\d+) claims hold\n\Z", self.output)
        return int(held[1]) if held else 0


def run_page(chapter: str, interpreter: Interpreter) -> Run:
    skipped = ["--skip-tag", "needs-processes"] if interpreter.webassembly else []
    arguments = ["-m", "bookkit.script", "--keep-going", *skipped]
    start = time.perf_counter()
    done = interpreter.run([*arguments, f"book/{chapter}.md"], root=ROOT, timeout=LIMIT)
    seconds = time.perf_counter() - start
    return Run(done.returncode, done.stdout, done.stderr, seconds)


Runs = dict[tuple[str, Interpreter], "Future[Run]"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """The runs that the selected tests ask for, a few at a time, side by side."""
    started: Runs = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for item in request.session.items:
            wanted = getattr(item, "callspec", None)
            if wanted and item.originalname == "test_page_is_true":
                key = (wanted.params["chapter"], wanted.params["interpreter"])
                if page_of(key[0]).is_file():
                    started[key] = pool.submit(run_page, *key)
        yield started
        pool.shutdown(cancel_futures=True)
    report(request, started)


def report(request: pytest.FixtureRequest, started: Runs) -> None:
    """Say which versions were run, with claims and seconds."""
    lines = [f"not run in WebAssembly: {NO_WEBASSEMBLY}"] if NO_WEBASSEMBLY else []
    for (chapter, interpreter), future in started.items():
        if not future.cancelled() and future.exception() is None:
            run = future.result()
            left_out = run.output.count("skipped: ")
            lines.append(
                f"{chapter}: {run.claims} claims, {left_out} cells left out, "
                f"{run.seconds:.1f} s, CPython {interpreter.full_version}"
            )
    plugins = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        plugins.get_plugin("terminalreporter").write_line("\n" + "\n".join(lines))


def page_of(chapter: str) -> Path:
    return ROOT / "book" / f"{chapter}.md"


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda each: each.name)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_page_is_true(chapter: str, interpreter: Interpreter, runs: Runs) -> None:
    if not page_of(chapter).is_file():
        pytest.skip(f"no book/{chapter}.md yet")
    run = runs[chapter, interpreter].result()
    assert run.status == 0, f"CPython {interpreter.full_version}\n{run.errors}"
    assert run.claims > 0
    tags = {"plot", "needs-processes"} if interpreter.webassembly else {"plot"}
    cells = read_cells(page_of(chapter).read_text(encoding="utf-8"))
    left_out = [cell.line for cell in cells if cell.tags & tags]
    named = re.findall(r"^skipped: .*, line (\d+): ", run.output, re.MULTILINE)
    assert [int(line) for line in named] == left_out


@pytest.mark.skipif(bool(NO_WEBASSEMBLY), reason=NO_WEBASSEMBLY)
def test_webassembly_is_cpython_314() -> None:
    assert INTERPRETERS[-1].version[:2] == (3, 14)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_cells_with_plots_hold_no_claim(chapter: str) -> None:
    if not page_of(chapter).is_file():
        pytest.skip(f"no book/{chapter}.md yet")
    cells = read_cells(page_of(chapter).read_text(encoding="utf-8"))
    assert [c.line for c in cells if "plot" in c.tags and c.claims()] == []
