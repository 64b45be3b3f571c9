"""The cover: the ledger's counts, and a card with a picture for each chapter."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
import yaml
from docutils import nodes
from jinja2 import Environment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from bookkit.claims import inline_code
from bookkit.ledger import collect, counts

LOGGER = logging.getLogger(__name__)


class counts_node(nodes.General, nodes.Element):
    """Stands for the ledger's counts until every page has been read."""


class cards_node(nodes.General, nodes.Element):
    """Stands for the cards until every page has been executed."""


class CountsDirective(SphinxDirective):
    """``{counts}``: how many claims this build measured, recorded, cited, corrected."""

    def run(self) -> list[nodes.Node]:
        return [counts_node()]


class CardsDirective(SphinxDirective):
    """``{cards}``: YAML, a list of `chapter` (its page), `picture` (words of the alt
    text of one of its figures) and `text` (a line about it)."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        cards = yaml.safe_load("\n".join(self.content))
        for card in cards:
            if set(card) != {"chapter", "picture", "text"}:
                raise self.error(f"cards: {card} needs chapter, picture and text")
        node = cards_node(cards=cards)
        self.set_source_info(node)
        return [node]


def counts_to_html(app: Any, from_page: str) -> str:
    chapters = collect(app)
    return _COUNTS.render(counts=counts(chapters), chapters=len(chapters))


def cards_to_html(app: Any, node: nodes.Element, from_page: str) -> str:
    folder = Path(from_page).parent
    cards = []
    for card in node["cards"]:
        page = (folder / card["chapter"]).as_posix()
        if page not in app.env.titles:
            _warn(f"cards: no page {page!r}", from_page, node.line)
            continue
        words = html.escape(card["picture"], quote=True)
        pictures = pictures_of(Path(app.outdir).parent, page)
        picture = next((svg for svg in pictures if words in svg.split(">")[0]), None)
        if picture is None:
            message = f"no figure of {page} is described as {card['picture']!r}"
            _warn(f"cards: {message}", from_page, node.line)
            continue
        cards.append(
            {
                "uri": app.builder.get_relative_uri(from_page, page),
                "title": app.env.titles[page].astext(),
                "article": app.env.metadata.get(page, {}).get("article", ""),
                "text": card["text"],
                "picture": picture,
                "claims": len(app.env.bookkit_claims.get(page, [])),
            }
        )
    return _CARDS.render(cards=cards)


def pictures_of(build: Path, page: str) -> list[str]:
    """The SVGs that an executed page shows, in their order."""
    file = build / "jupyter_execute" / f"{page}.ipynb"
    if not file.is_file():
        return []
    markup = [
        output.data.get("text/html", "")
        for cell in nbformat.read(file, as_version=4).cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    return [
        found.group()
        for text in markup
        if 'class="picture"' in text
        for found in [re.search(r"<svg\b.*</svg>", text, re.DOTALL)]
        if found
    ]


def _warn(message: str, page: str, line: int | None) -> None:
    LOGGER.warning(message, location=(page, line), type="bookkit", subtype="page")


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters["code"] = inline_code
_COUNTS = _environment.from_string("""
<div class="cover-counts">
<span><b>{{ chapters }}</b> chapters</span>
<span><b>{{ counts.claims }}</b> claims hold</span>
<span><b>{{ counts.measured }}</b> measured by this build</span>
<span><b>{{ counts.recorded }}</b> recorded elsewhere</span>
<span><b>{{ counts.corrections }}</b> correct the articles</span>
</div>
""")
_CARDS = _environment.from_string("""
<ul class="cards">
{% for card in cards %}
<li><div class="card-picture">{{ card.picture | safe }}</div>
<div class="card-text">
<p class="card-title"><a href="{{ card.uri }}">{{ card.title }}</a></p>
<p class="card-article" lang="zh">{{ card.article }}</p>
<p>{{ card.text | code | safe }}</p>
<p class="card-facts">{{ card.claims }} claims</p>
</div></li>
{% endfor %}
</ul>
""")
