"""The glossary: a term, its Chinese name, the chapter that explains it, a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class TermsDirective(SphinxDirective):
    """``{terms}``: YAML, a list of `[term, 中文, chapter, meaning]`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        terms = yaml.safe_load("\n".join(self.content))
        folder = Path(self.env.docname).parent
        known: dict[str, list[dict[str, str]]] = {}
        items = nodes.definition_list(classes=["terms"])
        for term, chinese, chapter, meaning in sorted(
            terms, key=lambda t: t[0].lower()
        ):
            page = (folder / chapter).as_posix()
            if page not in self.env.found_docs:
                raise self.error(f"terms: {term}: there is no page {page!r}")
            anchor = "term-" + re.sub(r"\W+", "-", term.lower())
            known.setdefault(page, []).append(
                {"term": term, "chinese": chinese, "anchor": anchor}
            )
            name = nodes.term("", f"{term} ", ids=[anchor])
            name += nodes.inline("", chinese, classes=["chinese", "language-zh"])
            text = nodes.paragraph("", "", *_with_code(meaning), nodes.Text(" "))
            link, _ = self.state.inline_text(f"{{doc}}`{chapter}`", self.lineno)
            text += link
            items += nodes.definition_list_item("", name, nodes.definition("", text))
        self.env.bookkit_terms = (self.env.docname, known)  # type: ignore[attr-defined]
        return [items]


def terms_of(app: Any, page: str) -> list[dict[str, str]]:
    """The terms that a page explains, with the addresses of their entries."""
    if not hasattr(app.env, "bookkit_terms"):
        return []
    glossary, known = app.env.bookkit_terms
    if glossary not in app.env.found_docs:
        return []
    base = app.builder.get_relative_uri(page, glossary)
    return [
        {**entry, "uri": f"{base}#{entry['anchor']}"} for entry in known.get(page, [])
    ]


def _with_code(text: str) -> list[nodes.Node]:
    parts = text.split("`")
    return [
        nodes.literal("", part) if number % 2 else nodes.Text(part)
        for number, part in enumerate(parts)
    ]
