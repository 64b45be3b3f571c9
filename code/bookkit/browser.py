"""A page's cells in the reader's browser: `live-worker.js` runs them through this.

Runs under CPython in WebAssembly, without Jupyter. Standard library only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO, cast

from bookkit import claims, figures, script


class LivePage(script.PageRun):
    """One run of a page whose cells come one at a time, edited or not, and again."""

    def __init__(self, page: str, emit: Callable[[str], object]) -> None:
        """Make the page's module `__main__` and its folder the current one.

        Args:
            page: the path that the page has in the book; there need be no such file.
            emit: takes each claim, picture and table, as HTML.
        """
        super().__init__(Path(page), ())
        self.emit = emit
        self.stated: dict[int, set[str]] = {}
        Path(page).parent.mkdir(parents=True, exist_ok=True)
        os.chdir(Path(page).parent)
        sys.modules["__main__"] = self.module
        sys.displayhook = script._display
        for stream in (sys.stdout, sys.stderr):  # lines are seen as they are printed
            cast(Any, stream).reconfigure(line_buffering=True)
        # `figures` has its own name for it.
        for module in (claims, figures):
            module._display = self._show  # type: ignore[attr-defined]

    def run_cell(self, number: int, source: str, tags: Iterable[str]) -> bool:
        """Run a cell; False if it raised. What it claimed before may be said again."""
        cell = script.Cell(number, 1, source, frozenset(tags))
        self.cells[cell.filename] = cell
        claims._stated -= self.stated.pop(number, set())
        known = set(claims._stated)
        try:
            return self.run(cell)
        finally:
            self.stated[number] = claims._stated - known
            _flush(sys.stdout)
            _flush(sys.stderr)

    def _show(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """In place of `claims._display`: what has a form for the page takes it."""
        if "text/html" in data:
            _flush(sys.stdout)
            self.emit(data["text/html"])
        elif "text/plain" in data:
            print(data["text/plain"])

    def _traceback(self, error: BaseException) -> str:
        # What cannot be parsed has no place in the page but the one it names.
        if isinstance(error, SyntaxError) and error.filename in self.cells:
            error = error.with_traceback(None)
        return super()._traceback(error)

    def _on_page(self, place: re.Match[str]) -> str:
        return f"Cell {place[1].strip('<>').removeprefix('cell ')}, line {place[2]}"


def _flush(stream: TextIO) -> None:
    """A cell may have left anything there."""
    if not getattr(stream, "closed", False):
        stream.flush()
