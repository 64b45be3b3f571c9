"""The ledger: every claim of the book, as measured by this build."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment
from sphinx.util.docutils import SphinxDirective

from bookkit.claims import CLAIM_KEY, inline_code, source_to_html
from bookkit.sources import link_sources


class ledger_node(nodes.General, nodes.Element):
    """Stands for the ledger until every page has been read."""


class LedgerDirective(SphinxDirective):
    """``{ledger}``: the claims of all chapters, counted, with a filter box."""

    def run(self) -> list[nodes.Node]:
        return [ledger_node()]


def claims_of(notebook: Any) -> list[dict[str, str]]:
    """The claims among the outputs of an executed page, in their order."""
    return [
        output.metadata[CLAIM_KEY]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if CLAIM_KEY in output.get("metadata", {})
    ]


def collect(app: Any) -> list[dict[str, Any]]:
    """The ledger as data: one entry a chapter, in the order of the book."""
    env = app.env
    chapters = []
    for docname in _reading_order(env):
        claims = env.bookkit_claims.get(docname)
        if claims:
            title = env.titles[docname].astext()
            chapters.append({"chapter": docname, "title": title, "claims": claims})
    return chapters


def counts(chapters: list[dict[str, Any]]) -> dict[str, int]:
    """How many claims there are in all, of each kind, and how many correct."""
    claims = [claim for chapter in chapters for claim in chapter["claims"]]
    kinds = Counter(claim["kind"] for claim in claims)
    return {
        "claims": len(claims),
        "measured": kinds["measured"],
        "recorded": kinds["recorded"],
        "cited": kinds["cited"],
        "corrections": sum(bool(claim["corrects"]) for claim in claims),
    }


def write_json(app: Any, pages: set[str]) -> None:
    """Put `claims.json` beside each page that shows the ledger."""
    chapters = collect(app)
    text = json.dumps(
        {"counts": counts(chapters), "chapters": chapters}, indent=1, ensure_ascii=False
    )
    for page in pages:
        file = Path(app.outdir, page).with_name("claims.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


def to_html(app: Any, from_page: str) -> str:
    chapters = collect(app)
    for chapter in chapters:
        chapter["uri"] = app.builder.get_relative_uri(from_page, chapter["chapter"])
    markup = _TEMPLATE.render(chapters=chapters, counts=counts(chapters))
    return link_sources(app, markup, from_page)


def _reading_order(env: Any) -> list[str]:
    """The pages as the table of contents lists them."""
    order, pending = [], [env.config.root_doc]
    while pending:
        docname = pending.pop(0)
        if docname not in order:
            order.append(docname)
            pending = env.toctree_includes.get(docname, []) + pending
    return order


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters["code"] = inline_code
_environment.filters["source"] = source_to_html
_TEMPLATE = _environment.from_string("""
<div class="ledger">
<p class="ledger-counts">
  <span><b>{{ counts.claims }}</b> claims</span>
  <span><b>{{ counts.measured }}</b> measured by this build</span>
  <span><b>{{ counts.recorded }}</b> recorded elsewhere</span>
  <span><b>{{ counts.cited }}</b> cited</span>
  <span><b>{{ counts.corrections }}</b> correct the articles</span>
</p>
<p class="ledger-filter">
  <label for="ledger-filter">Filter</label>
  <input id="ledger-filter" type="search" placeholder="softmax, refcount, recorded …"
         autocomplete="off">
  <label><input id="ledger-corrects" type="checkbox"> corrections only</label>
  <output id="ledger-shown" for="ledger-filter ledger-corrects"></output>
</p>
{% for chapter in chapters %}
<section class="ledger-chapter" data-chapter="{{ chapter.chapter }}">
<h2><a href="{{ chapter.uri }}">{{ chapter.title }}</a>
    <small>{{ chapter.claims | length }}</small></h2>
<div class="table-scroll"><table class="table ledger-table">
<thead><tr><th scope="col">claim</th><th scope="col">measured</th>
<th scope="col">expected</th><th scope="col">kind</th></tr></thead>
<tbody>
{% for claim in chapter.claims %}
<tr{% if claim.corrects %} data-corrects{% endif %} data-anchor="{{ claim.anchor }}">
<td><a href="{{ chapter.uri }}#{{ claim.anchor }}">
{{- claim.statement | code | safe }}</a>
{%- if claim.corrects %}
<div class="claim-corrects">The article: {{ claim.corrects | code | safe }}</div>
{%- endif %}</td>
<td data-label="measured">{{ claim.measured }}</td>
<td data-label="expected">{{ claim.expected }}</td>
<td data-label="kind">{{ claim.kind }}
{%- if claim.source %} <span class="claim-source">{{ claim | source | safe }}</span>
{%- endif %}
</td></tr>
{% endfor %}
</tbody></table></div>
</section>
{% endfor %}
</div>
<script>
(() => {
  const text = document.getElementById("ledger-filter");
  const corrects = document.getElementById("ledger-corrects");
  const rows = [...document.querySelectorAll(".ledger tbody tr")];
  const sections = [...document.querySelectorAll(".ledger-chapter")];
  const apply = () => {
    const words = text.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const chapter = row.closest("section").dataset.chapter;
      const content = (chapter + " " + row.textContent).toLowerCase();
      const hit = words.every((word) => content.includes(word))
        && (!corrects.checked || "corrects" in row.dataset);
      row.hidden = !hit;
      shown += hit;
    }
    for (const section of sections)
      section.hidden = !section.querySelector("tbody tr:not([hidden])");
    document.getElementById("ledger-shown").value =
      shown === rows.length ? "" : `${shown} of ${rows.length}`;
  };
  text.addEventListener("input", apply);
  corrects.addEventListener("change", apply);
})();
</script>
""")
