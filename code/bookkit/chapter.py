"""The lines under a chapter's title: article, prerequisites, reading and run time."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.util.docutils import SphinxDirective

WORDS_A_MINUTE = 220
CODE_LINES_A_MINUTE = 30


class chapter_node(nodes.General, nodes.Element):
    """Stands for what is known once the page has been executed."""


class facts_node(nodes.container, nodes.Invisible):
    """Looks as a container does; the descriptions of a page for other sites skip it."""


AS_CONTAINER = (
    lambda writer, node: writer.visit_container(node),
    lambda writer, node: writer.depart_container(node),
)


class ChapterDirective(SphinxDirective):
    """``{chapter}``: with `:article:` (its Chinese title) and `:prerequisites:`."""

    option_spec = {
        "article": directives.unchanged_required,
        "prerequisites": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        for option in self.option_spec:
            if option not in self.options:
                raise self.error(f"chapter: needs the option :{option}:")
        title = html.escape(self.options["article"])
        self.env.metadata[self.env.docname]["article"] = self.options["article"]
        markup = f'<p class="chapter-article" lang="zh">{title}</p>'
        article = nodes.raw("", markup, format="html")
        needed, messages = self.state.inline_text(
            self.options["prerequisites"], self.lineno
        )
        prerequisites = nodes.paragraph("", "", nodes.Text("Prerequisites: "), *needed)
        facts = facts_node("", prerequisites, chapter_node())
        facts["classes"] = ["chapter-facts"]
        return [article, facts, *messages]


def to_html(app: Any, doctree: nodes.document, page: str) -> str:
    ran = app.env.nb_metadata.get(page, {}).get("exec_data") or {}
    claims = app.env.bookkit_claims.get(page, [])
    facts = [
        f"Reading time {reading_minutes(doctree)} min",
        f"run time {ran.get('runtime') or 0.0:.1f} s",
        f"{len(claims)} claims hold",
    ]
    return f"<p>{' · '.join(facts)}</p>"


def reading_minutes(doctree: nodes.document) -> int:
    """Prose by its words, code in sight by its lines; outputs come for free."""
    words = sum(len(text.astext().split()) for text in doctree.findall(nodes.paragraph))
    hidden = {
        block
        for fold in doctree.findall(HideCodeCellNode)
        for block in fold.findall(nodes.literal_block)
    }
    lines = sum(
        block.astext().count("\n") + 1
        for block in doctree.findall(nodes.literal_block)
        if block.get("language") not in (None, "none", "myst-ansi")
        and block not in hidden
    )
    return max(1, round(words / WORDS_A_MINUTE + lines / CODE_LINES_A_MINUTE))
