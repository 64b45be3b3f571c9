"""Each chapter as a notebook to take away: complete, with outputs, and it runs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"


def test_every_chapter_can_be_taken_away(chapters: dict[str, object]) -> None:
    for page in chapters:
        notebook = nbformat.read(HTML / page.replace(".html", ".ipynb"), as_version=4)
        nbformat.validate(notebook)
        first, *cells = (c for c in notebook.cells if c.cell_type == "code")
        assert "git" in first.source and "pip" in first.source
        assert any(cell.outputs for cell in cells)
        assert "bookkit" not in notebook.metadata.kernelspec


def test_a_notebook_runs_outside_of_the_book(tmp_path: Path) -> None:
    file = HTML / "book" / "objects.ipynb"
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    environment = {k: v for k, v in os.environ.items() if k != "BOOK_ROOT"}
    place = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, resources=place)
    client.execute(env=environment)
    claims = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "claim" in str(output.get("data", {}).get("text/html", ""))
    ]
    assert len(claims) > 50
