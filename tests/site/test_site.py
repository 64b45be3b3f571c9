"""The site as built: a ledger of what the pages show, links that lead somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
PLACE = "/under-the-hood/"  # where the pages of the repository are served
Pages = dict[str, BeautifulSoup]


def listed_chapters() -> list[str]:
    """The topics of the table of contents that have code of their own."""
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    names = [
        line.split("book/")[1] for line in contents.splitlines() if "book/" in line
    ]
    code = ROOT / "code" / "underhood"
    return [n for n in names if (code / n).is_dir() or (code / f"{n}.py").is_file()]


def test_every_chapter_has_page_code_and_test(chapters: Pages) -> None:
    names = listed_chapters()
    assert len(names) >= 2
    for name in names:
        assert f"book/{name}.html" in chapters
        assert list((ROOT / "tests").glob(f"test_{name}*.py")), name


def test_ledger_holds_exactly_what_the_pages_show(
    pages: Pages, chapters: Pages
) -> None:
    ledger = json.loads((SITE / "book/claims.json").read_text(encoding="utf-8"))
    in_file = {
        (f"{chapter['chapter']}.html", claim["anchor"])
        for chapter in ledger["chapters"]
        for claim in chapter["claims"]
    }
    on_pages = {
        (name, line["id"])
        for name, page in chapters.items()
        for line in page.select("p.claim")
    }
    in_table = {
        (f"book/{row.a['href'].partition('#')[0]}", row.a["href"].partition("#")[2])
        for row in pages["book/claims.html"].select(".ledger-table tbody tr")
    }
    assert in_file == on_pages == in_table
    assert ledger["counts"]["claims"] == len(on_pages)


def test_links_and_anchors_inside_the_site_lead_somewhere(pages: Pages) -> None:
    ids = {
        name: {tag["id"] for tag in page.select("[id]")} for name, page in pages.items()
    }
    broken = []
    for name, page in pages.items():
        for link in page.select("a[href]"):
            address = urlparse(link["href"])
            if address.scheme or address.netloc or link["href"].startswith("#!"):
                continue
            path = unquote(address.path)
            base = (SITE / name).parent
            if path.startswith(PLACE):  # of 404.html, which is shown anywhere
                base, path = SITE, path.removeprefix(PLACE)
            target = (base / path).resolve() if path else (SITE / name).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append((name, link["href"], "no such file"))
                continue
            page_name = target.relative_to(SITE).as_posix()
            fragment = unquote(address.fragment)
            if fragment and page_name in ids and fragment not in ids[page_name]:
                broken.append((name, link["href"], "no such anchor"))
    assert not broken


def test_every_figure_says_what_is_to_be_seen(chapters: Pages) -> None:
    for name, page in chapters.items():
        for picture in page.select("figure.picture"):
            label = picture.svg.get("aria-label", "")
            assert len(label.split()) >= 4, (name, label)
        for image in page.select("article img"):
            assert image.get("alt", "").strip(), (name, image.get("src"))


def test_ids_are_unique_on_each_page(chapters: Pages) -> None:
    for name, page in chapters.items():
        ids = [tag["id"] for tag in page.select("[id]")]
        assert len(ids) == len(set(ids)), (name, {i for i in ids if ids.count(i) > 1})
