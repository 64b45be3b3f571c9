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
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bookkit import claims

ALWAYS_SKIPPED = frozenset({"plot"})
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
        """The name that its code is compiled under; lines count from the cell's."""
        return f"<cell {self.number}>"

    def claims(self) -> list[str]:
        """The statements that the cell claims, as written."""
        calls = (n for n in ast.walk(ast.parse(self.source)) if isinstance(n, ast.Call))
        return [
            ast.unparse(call.args[0])
            for call in calls
            if call.args and ast.unparse(call.func) == "claim"
        ]


def read_cells(text: str) -> list[Cell]:
    """The code cells of a page, as MyST-NB reads them.

    A cell is a fence of backticks or tildes, not indented, not inside another fence.

    Raises:
        ValueError: the tags of a cell are neither `[a, b]` nor a list of `- a`.
    """
    lines = text.splitlines()
    cells: list[Cell] = []
    at = _end_of_front_matter(lines)
    while at < len(lines):
        comment = lines[at].lstrip().startswith("<!--")
        opening = _FENCE.fullmatch(lines[at])
        if comment:
            at = _index(lines, at, lambda line: "-->" in line) + 1
        elif opening is None or (opening[1][0] == "`" and "`" in opening[2]):
            at += 1
        else:
            closing = re.compile(rf" {{0,3}}{opening[1][0]}{{{len(opening[1])},}}\s*")
            end = _index(lines, at + 1, lambda line: bool(closing.fullmatch(line)))
            is_fence = opening[1][0] in "`~" and lines[at][0] != " "
            if is_fence and opening[2].startswith("{code-cell}"):
                tags, start = _read_options(lines, at + 1, end)
                source = "\n".join(lines[start:end])
                cells.append(Cell(len(cells) + 1, start + 1, source, tags))
            at = end + 1
    return cells


def _index(lines: list[str], start: int, matches: types.FunctionType | object) -> int:
    raise NotImplementedError
