"""The code cells of a page, and what its front matter tells bookkit."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A code cell. `line` is that of its first line of code in the page (from 1)."""

    number: int  # among the code cells, from 1
    line: int
    source: str


@dataclass(frozen=True)
class Page:
    metadata: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def is_notebook(self) -> bool:
        return "kernelspec" in self.metadata

    def data_patterns(self) -> list[str]:
        """The globs under `bookkit: data:`; a string or a list of strings."""
        declared = (self.metadata.get("bookkit") or {}).get("data") or []
        return [declared] if isinstance(declared, str) else list(declared)


@lru_cache(maxsize=64)
def read_page(text: str) -> Page:
    """Read a page the way MyST-NB reads it before it executes the cells."""
    from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
    from myst_parser.config.main import MdParserConfig

    if not is_myst_markdown_notebook(text):
        return Page({}, ())
    # With colon fences, as in every Jupyter Book: a cell inside of one is none.
    config = MdParserConfig(enable_extensions={"colon_fence"})
    notebook = read_myst_markdown_notebook(text, config, add_source_map=True)
    lines = text.splitlines()
    cells: list[Cell] = []
    starts = notebook.metadata["source_map"]
    for start, cell in zip(starts, notebook.cells, strict=True):
        if cell.cell_type == "code":
            line = _first_code_line(lines, start, cell.source)
            cells.append(Cell(len(cells) + 1, line, cell.source))
    return Page(dict(notebook.metadata), tuple(cells))


def _first_code_line(lines: list[str], start: int, source: str) -> int:
    """Skip the options that stand between a cell's fence and its code."""
    first = source.split("\n", 1)[0]
    for index in range(start, len(lines)):
        if lines[index].strip() == first.strip():
            return index + 1
    return start + 1


def parse_cell(source: str) -> ast.Module:
    """The syntax tree of a cell, IPython's own syntax translated.

    A cell that does not parse gives an empty tree: its execution fails anyway.
    """
    try:
        return ast.parse(source)  # nearly always; IPython takes a hundred times as long
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return ast.parse("")


def imported_names(tree: ast.Module) -> set[str]:
    """What a cell imports; of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def defined_names(tree: ast.Module) -> set[str]:
    """The functions and classes that a cell defines at its top level."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}
