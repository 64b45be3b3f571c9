"""The book as one document, for print: what is in it, and that it can be printed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader

from bookkit.printed import PDF, join, pages_of, print_to

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
ADDRESS = "https://example.org/book/"


def everything() -> list[str]:
    return pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def document() -> BeautifulSoup:
    return BeautifulSoup(join(SITE, everything(), ADDRESS), "html.parser")


def test_every_chapter_is_in_it_once(document: BeautifulSoup) -> None:
    titles = [each.get_text() for each in document.select("article h1")]
    assert len(titles) == len(set(titles)) == len(everything()) >= 15
    assert len(document.select("article:has(p.claim)")) == 12
    counts = {
        what: len(document.select(f"article {what}"))
        for what in ("pre", "svg", "span.math", "button", "script", "details.hide")
    }
    assert min(counts[what] for what in ("pre", "svg", "span.math")) > 100, counts
    styles = [str(each) for each in document.select("style.formulas")]
    assert styles or document.select('head script[src*="mathjax"]')
    assert not any("../_static" in each for each in styles)
    assert counts["button"] == counts["script"] == counts["details.hide"] == 0, counts


def test_links_stay_inside_or_lead_to_the_published_site(
    document: BeautifulSoup,
) -> None:
    for drawing in document.select("svg"):  # the cover shows some of them again
        drawing.clear()
    ids = [each["id"] for each in document.find_all(id=True)]
    assert len(ids) == len(set(ids))
    links = [each["href"] for each in document.select("article a[href]")]
    inside = [link[1:] for link in links if link.startswith("#")]
    assert len(inside) > 500 and set(inside) <= set(ids)
    outside = {link for link in links if not link.startswith("#")}
    assert all(link.startswith(("https://", "http://", "mailto:")) for link in outside)
    claims = [link for link in outside if link.startswith(ADDRESS + "book/claims")]
    assert claims


def test_each_chapter_leads_to_it_where_the_site_is_published(
    chapters: dict[str, BeautifulSoup],
) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    for page in chapters.values():
        links = [link["href"] for link in page.select(".built a")]
        assert config["html"]["baseurl"] + PDF in links
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text("utf-8"))
    steps = [str(step) for step in workflow["jobs"]["test"]["steps"]]
    (printed,) = (i for i, step in enumerate(steps) if "make pdf" in step)
    (uploaded,) = (i for i, step in enumerate(steps) if "upload-pages" in step)
    assert printed < uploaded


def test_chromium_prints_it(chromium: str, tmp_path: Path) -> None:
    """Two pages of it: text, formulas, links between them, an outline."""
    document, pdf = tmp_path / "two.html", tmp_path / "two.pdf"
    document.write_text(join(SITE, ["book/debugging", "book/glossary"], ADDRESS))
    with ThreadPoolExecutor() as pool:  # this thread has a Playwright of its own
        pool.submit(print_to, pdf, document, SITE, chromium).result()
    found = PdfReader(pdf)
    text = "".join(page.extract_text() for page in found.pages)
    assert "breakpoint" in text and "Glossary" in text
    assert "Glossary" in [
        entry.title for entry in found.outline if hasattr(entry, "title")
    ]
