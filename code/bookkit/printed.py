"""The whole book as one PDF: `make pdf`.

The articles of the built pages are put into one document, so that a link from one
chapter to another stays inside of it, and Chromium prints that. What only a screen has
use for, buttons and the long indexes, stays out.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any
from urllib.parse import urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[2]
PDF = "under-the-hood.pdf"  # in the folder of the built pages
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LEFT_OUT = ("book/claims", "book/code")  # tables to search in
SCREEN_ONLY = (  # a folded cell makes a picture or claims, which are printed
    "script, button, input, .headerlink, .claim-link, .live-bar, .live-intro, "
    "details.hide"
)
FOOT = (
    '<div style="width: 100%; text-align: center; font-size: 8pt; '
    'font-family: sans-serif"><span class="pageNumber"></span></div>'
)
STYLE = """
body { font-size: 10pt; background: white; }
article { break-before: page; }
article:first-of-type { break-before: auto; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; font-size: 8pt; }
figure, tr, .claim, .admonition { break-inside: avoid; }
h1, h2, h3, summary { break-after: avoid; }
.table-scroll, figure.picture { overflow: visible !important; }
table.facts { width: auto; max-width: 100%; }
"""


def find_chromium() -> str | None:
    """The path of the machine's Chromium. The first has no windows, and is faster."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def pages_of(contents: Any) -> list[str]:
    """The pages of a `_toc.yml`, in order, without those that are left out."""
    chapters = [entry for part in contents["parts"] for entry in part["chapters"]]
    pages = [contents["root"], *(entry["file"] for entry in chapters)]
    return [page for page in pages if page not in LEFT_OUT]


def join(site: Path, pages: Sequence[str], address: str) -> str:
    """One HTML document of the pages' articles.

    Args:
        site: the folder of the built pages.
        pages: their names, without suffix, relative to `site`.
        address: where the site is published, for links to what is not in here.

    Returns:
        HTML that expects `site` to be served at `/`.
    """
    soups = {page: _read(site / f"{page}.html") for page in pages}
    heads = [_only(soup, "head") for soup in soups.values()]
    sheets = list(heads[0].select('link[rel="stylesheet"]'))
    # Not every page has formulas; one that has says how they are drawn: by a style for
    # what the build drew, or by scripts.
    styles = [
        re.sub(r'url\("(?:\.\./)*_static', 'url("/_static', str(style))
        for head in heads
        for style in head.select("style.formulas")
    ]
    drawing = [head for head in heads if head.select('script[src*="mathjax"]')]
    scripts = [
        tag
        for head in drawing[:1]
        for tag in head.select("script")
        if "mathjax" in str(tag).lower()
    ]
    for tag in [*sheets, *scripts]:
        for name in {"href", "src"} & set(tag.attrs):
            tag[name] = "/" + normpath(f"{PurePosixPath(pages[0]).parent}/{tag[name]}")
    articles = [_article(page, soups[page], set(pages), address) for page in pages]
    return "\n".join(
        [
            '<!doctype html><html lang="en" data-theme="light"><head>',
            f'<meta charset="utf-8">{_only(soups[pages[0]], "head title")}',
            *map(str, sheets),
            *styles,
            f"<style>{STYLE}</style>",
            *map(str, scripts),
            "</head><body>",
            *articles,
            "</body></html>",
        ]
    )


def _read(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def _only(soup: BeautifulSoup, selector: str) -> Tag:
    (found,) = soup.select(selector)
    return found


def _article(page: str, soup: BeautifulSoup, pages: set[str], address: str) -> str:
    """A page's article, whose ids begin with the name of the page."""
    article = _only(soup, "article.bd-article")
    for tag in article.select(SCREEN_ONLY):
        tag.decompose()
    for tag in article.find_all(id=True):
        if not tag.find_parent("svg"):  # the names inside of a drawing are its own
            tag["id"] = f"{page}:{tag['id']}"
    article["id"] = page
    here = PurePosixPath(page).parent
    for tag in article.find_all("img", src=True):
        tag["src"] = "/" + normpath(f"{here}/{tag['src']}")
    for tag in article.find_all("a", href=True):
        parts = urlsplit(str(tag["href"]))
        if parts.scheme:
            continue
        path = normpath(f"{here}/{parts.path}") if parts.path else f"{page}.html"
        target = path.removesuffix(".html")
        name = f":{parts.fragment}" if parts.fragment else ""
        if target in pages:
            tag["href"] = f"#{target}{name}"
        else:
            tag["href"] = urljoin(address, path) + name.replace(":", "#", 1)
    return str(article)


def print_to(pdf: Path, document: Path, site: Path, chromium: str) -> None:
    """Print `document`, which `join` made, with its formulas drawn."""
    from playwright.sync_api import sync_playwright

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            if path == "/book-as-one-page.html":
                return str(document)
            return super().translate_path(path)

        def log_message(self, *args: Any) -> None:
            pass

    handler = partial(Handler, directory=str(site))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        tab = browser.new_page()
        tab.set_default_timeout(600_000)
        tab.goto(f"http://127.0.0.1:{server.server_port}/book-as-one-page.html")
        tab.evaluate("window.MathJax ? MathJax.startup.promise : null")
        tab.evaluate("document.fonts.ready")
        tab.pdf(
            path=pdf,
            format="A4",
            margin={
                "top": "18mm",
                "bottom": "20mm",
                "left": "18mm",
                "right": "18mm",
            },
            outline=True,
            tagged=True,
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOT,
        )
        browser.close()
        server.shutdown()


def main(root: Path = ROOT) -> None:
    """Print the built site to `PDF`, beside its pages."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit(f"No Chromium: looked for {', '.join(NAMES)}.")
    site = root / "_build" / "html"
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    document = root / "_build" / "book-as-one-page.html"
    text = join(site, pages_of(contents), config["html"]["baseurl"])
    document.write_text(text, encoding="utf-8")
    pdf = site / PDF
    print_to(pdf, document, site, chromium)
    print(f"The book is at file://{pdf}, {pdf.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
