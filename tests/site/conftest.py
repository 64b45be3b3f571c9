"""Tests of the built site read `_build/html`; `make site-tests` builds it first."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

SITE = Path(__file__).parents[2] / "_build" / "html"


@pytest.fixture(scope="session")
def pages() -> dict[str, BeautifulSoup]:
    """Every page of the site by its address, parsed."""
    files = sorted(SITE.rglob("*.html"))
    assert files, f"no site in {SITE}: run `make book` first"
    return {
        file.relative_to(SITE).as_posix(): BeautifulSoup(
            file.read_text(encoding="utf-8"), "html.parser"
        )
        for file in files
        if "_static" not in file.parts
    }


@pytest.fixture(scope="session")
def chapters(pages: dict[str, BeautifulSoup]) -> dict[str, BeautifulSoup]:
    """The pages that carry claims of their own."""
    return {name: page for name, page in pages.items() if page.select("p.claim")}
