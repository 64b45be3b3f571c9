"""Run the code cells of a page in the plain interpreter that runs this.

    python -m bookkit.script [--skip-tag TAG] [--keep-going] book/objects.md

Cells with the tag `plot` are skipped, and those with any `--skip-tag`; each one left
out is named. Prints what the cells print, and at the end "N claims hold". Standard
library only: no Jupyter, no Markdown parser.
"""

from __future__ import annotations

import argparse
import ast
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bookkit import claims

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,}|:{3,})(.*)")


@dataclass(frozen=True)
class Cell:
    """A code cell; its code starts at `line` of the page (from 1)."""

    number: int  # among the code cells, from 1
    line: int
    source: str
    tags: frozenset[str]

    @property
    def filename(self) -> str:
        """The name that its code is compiled under; its lines count from 1."""
        return f"<cell {self.number}>"

    def claims(self) -> list[str]:
        """The statements that the cell claims, as they are written there."""
        nodes = ast.walk(ast.parse(self.source))
        return [
            ast.unparse(node.args[0])
            for node in nodes
            if isinstance(node, ast.Call)
            and node.args
            and ast.unparse(node.func) == "claim"
        ]


def read_cells(text: str) -> list[Cell]:
    """The code cells of a page, as MyST-NB reads them.

    A cell is a fence of backticks or tildes that is neither indented nor inside
    another fence; a fence of colons is none.

    Raises:
        ValueError: the tags of a cell are not written as `[a, b]` or as `- a` lines.
    """
    lines = text.splitlines()
    cells: list[Cell] = []
    at = 0
    if lines and lines[0].rstrip() == "---":
        at = _find(lines, 1, lambda line: line.rstrip() == "---") + 1
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if re.match(" {0,3}<!--", lines[at]):
            at = _find(lines, at, lambda line: "-->" in line) + 1
            continue
        if fence is None or (fence[1][0] == "`" and "`" in fence[2]):
            at += 1
            continue
        closing = re.compile(rf" {{0,3}}{fence[1]}{fence[1][0]}*\s*")
        end = _find(lines, at + 1, closing.fullmatch)
        colons_or_indented = lines[at][0] in ": "
        if fence[2].startswith("{code-cell}") and not colons_or_indented:
            tags, start = _read_options(lines[:end], at + 1)
            source = "\n".join(lines[start:end])
            cells.append(Cell(len(cells) + 1, start + 1, source, tags))
        at = end + 1
    return cells


def _find(lines: list[str], start: int, matches: Callable[[str], object]) -> int:
    """The index of the first line that matches, else the number of lines."""
    numbers = range(start, len(lines))
    return next((n for n in numbers if matches(lines[n])), len(lines))


def _read_options(lines: list[str], start: int) -> tuple[frozenset[str], int]:
    """The tags in the options of a cell, and the index where its code begins.

    The options are lines of `:name: value`, or YAML between two lines of `---`.
    """
    if start < len(lines) and lines[start].startswith("---"):
        end = _find(lines, start + 1, lambda line: line.startswith("---"))
        options, at = lines[start + 1 : end], end + 1
    else:
        at = _find(lines, start, lambda line: not line.lstrip().startswith(":"))
        options = [line.lstrip()[1:] for line in lines[start:at]]
    if at < len(lines) and not lines[at].strip():
        at += 1  # one blank line may stand between the options and the code
    return _read_tags(options, start + 1), at


def _read_tags(options: list[str], line: int) -> frozenset[str]:
    for index, option in enumerate(options):
        name, _, value = option.partition(":")
        if name.strip() != "tags":
            continue
        value = value.partition(" #")[0].strip()
        if not value:
            after = options[index + 1 :]
            end = _find(after, 0, lambda line: not line.lstrip().startswith("- "))
            return frozenset(item.strip(" -\"'") for item in after[:end])
        if value.startswith("[") and value.endswith("]"):
            items = value[1:-1].split(",")
            return frozenset(item.strip(" \"'") for item in items) - {""}
        raise ValueError(f"line {line}: tags: got {value!r}; write them as [a, b]")
    return frozenset()


class PageRun:
    """One run of a page: the cells share the namespace of a new `__main__`."""

    def __init__(self, page: Path, cells: Sequence[Cell]) -> None:
        self.page = page
        self.cells = {cell.filename: cell for cell in cells}
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__file__"] = str(page)
        self.failed: list[Cell] = []

    def run(self, cell: Cell) -> bool:
        """Run one cell; say what it raises. A claim that fails is never allowed to."""
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[cell.filename] = (len(cell.source), None, lines, cell.filename)
        try:
            self._execute(cell)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            allowed = "raises-exception" in cell.tags
            if allowed and not isinstance(error, claims.ClaimFailed):
                print(self._traceback(error), end="")
                return True
            print(self._traceback(error), end="", file=sys.stderr)
            self.failed.append(cell)
            return False
        return True

    def _execute(self, cell: Cell) -> None:
        """Compile each statement by itself and display a last expression, as IPython.

        A cell compiled in one piece would share constants between its statements.
        """
        statements = ast.parse(cell.source, cell.filename).body
        for index, statement in enumerate(statements, start=1):
            tree: ast.Module | ast.Interactive = ast.Module([statement], [])
            mode = "exec"
            if index == len(statements) and isinstance(statement, ast.Expr):
                tree, mode = ast.Interactive([statement]), "single"
            code = compile(tree, cell.filename, mode, dont_inherit=True)
            exec(code, self.module.__dict__)

    def _traceback(self, error: BaseException) -> str:
        """The traceback, from the cell on, with the page's name and lines."""
        # `run` and `_execute`; an error of syntax has no frame of the page.
        inner = error.__traceback__
        while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
            inner = inner.tb_next
        text = "".join(traceback.format_exception(type(error), error, inner))
        return re.sub(r'File "(<cell \d+>)", line (\d+)', self._on_page, text)

    def _on_page(self, place: re.Match[str]) -> str:
        line = self.cells[place[1]].line + int(place[2]) - 1
        return f'File "{self.page}", line {line}'


def run_page(
    page: Path, *, skip_tags: Collection[str] = (), keep_going: bool = False
) -> int:
    """Run a page in its folder, as the build does; the number of cells that failed.

    Args:
        page: a MyST notebook.
        skip_tags: leave out the cells with any of these tags.
        keep_going: run the cells after one that failed, too.
    """
    skipped_tags = {"plot", *skip_tags}
    cells = read_cells(page.read_text(encoding="utf-8"))
    run = PageRun(page, cells)
    os.chdir(page.resolve().parent)
    sys.modules["__main__"] = run.module
    sys.displayhook = _display
    for cell in cells:
        skipped = sorted(cell.tags & skipped_tags)
        if skipped:
            print(f"skipped: {page}, line {cell.line}: {', '.join(skipped)}")
            for statement in cell.claims():
                print(f"  its claim: {statement}")
        elif not run.run(cell) and not keep_going:
            break
    count = len(claims._stated)
    if run.failed:
        places = ", ".join(str(cell.line) for cell in run.failed)
        print(f"FAILED: {page}, cells at lines {places}; {count} claims hold")
    else:
        print(f"{count} claims hold")
    return len(run.failed)


def _display(value: object) -> None:
    """Show the last expression of a cell; unlike Python's hook, keep no reference."""
    if value is not None:
        print(repr(value))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if every cell ran and every claim holds."""
    parser = argparse.ArgumentParser(prog="python -m bookkit.script")
    parser.add_argument("page", type=Path)
    parser.add_argument("--skip-tag", action="append", default=[], metavar="TAG")
    parser.add_argument("--keep-going", action="store_true")
    given = parser.parse_args(arguments)
    sys.argv = [str(given.page)]
    failures = run_page(
        given.page, skip_tags=given.skip_tag, keep_going=given.keep_going
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
