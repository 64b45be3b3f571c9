"""The data of the search: each page with its titles, terms, names and text.

Sphinx's own search finds the pages that hold every word and does not weigh them. The
page `search.html` ranks with MiniSearch (BM25) instead, from what is written here.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes

from bookkit.glossary import terms_of
from bookkit.inventory import public_objects

DATA = "search-data.js"


def write_data(app: Any) -> None:
    """Write `DATA`; a script, as pages opened as files cannot fetch."""
    env, root = app.env, Path(app.srcdir)
    pages = []
    for docname in sorted(env.found_docs):
        topic = root / "code" / "underhood" / Path(docname).name
        names = []
        if (topic / "__init__.py").is_file():
            names = [entry.name for entry in public_objects(topic, root / "code")]
        pages.append(
            {
                "uri": app.builder.get_target_uri(docname),
                "title": env.titles[docname].astext(),
                "article": env.metadata.get(docname, {}).get("article", ""),
                "terms": " ; ".join(
                    f"{term['term']} {term['chinese']}"
                    for term in terms_of(app, docname)
                ),
                "names": " ".join([topic.name, *names]) if names else "",
                "sections": sections(env.get_doctree(docname)),
            }
        )
    text = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    Path(app.outdir, DATA).write_text(
        f"window.SEARCH_PAGES = {text};\n", encoding="utf-8"
    )


def sections(doctree: nodes.document) -> list[dict[str, str]]:
    """Heading, anchor and own text of each section of a page."""
    found = []
    for section in doctree.findall(nodes.section):
        title = section.next_node(nodes.title)
        text = " ".join(
            _text(child)
            for child in section.children
            if not isinstance(child, nodes.section | nodes.title)
        )
        found.append(
            {
                "heading": title.astext() if title else "",
                "anchor": section["ids"][0] if section["ids"] else "",
                "text": " ".join(text.split()),
            }
        )
    return found


def _text(node: nodes.Node) -> str:
    """What a reader sees of a node; markup that the page brings along is stripped."""
    parts = []
    for leaf in node.findall(nodes.Text):
        if isinstance(leaf.parent, nodes.raw):
            markup = re.sub(r"(?s)<(svg|script|style)\b.*?</\1>", " ", str(leaf))
            parts.append(html.unescape(re.sub(r"<[^>]*>", " ", markup)))
        else:
            parts.append(str(leaf))
    return " ".join(parts)
