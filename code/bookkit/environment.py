"""What the book was built with, when, on what, and how long each chapter ran."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment
from sphinx.util.docutils import SphinxDirective

from bookkit.cells import imported_names, parse_cell, read_page
from bookkit.freshness import CodeGraph, device, library_versions

TOOLS = {"jupyter_book", "sphinx", "myst_nb", "jupyter_cache", "grimp", "matplotlib"}


class environment_node(nodes.General, nodes.Element):
    """Stands for the report until every page has been executed."""


class EnvironmentDirective(SphinxDirective):
    """``{environment}``: versions, device, date, commit, run time of each chapter."""

    def run(self) -> list[nodes.Node]:
        return [environment_node()]


def facts(app: Any) -> dict[str, str]:
    """The conditions of this build, ready to be read."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(Path(app.srcdir)),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "device": device(),
        "processors": str(os.cpu_count()),
    }


def commit(root: Path) -> str:
    """The commit that is built, marked when the tree differs from it."""
    query = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown (no git)"
    return answer.stdout.strip() or "unknown (not a git checkout)"


def run_times(app: Any) -> list[dict[str, Any]]:
    """Each executed page: seconds, and when its outputs were made."""
    rows = []
    for docname, data in sorted(app.env.nb_metadata.items()):
        ran = data.get("exec_data")
        if ran:
            when = datetime.datetime.fromtimestamp(ran["mtime"], datetime.UTC)
            rows.append(
                {
                    "docname": docname,
                    "title": app.env.titles[docname].astext(),
                    "seconds": ran["runtime"] or 0.0,
                    "when": when.strftime("%Y-%m-%d %H:%M"),
                    "claims": len(app.env.bookkit_claims.get(docname, [])),
                }
            )
    return rows


def versions(app: Any) -> dict[str, str]:
    """The libraries that the chapters use, and the tools that build the book."""
    graph: CodeGraph = app.bookkit_code
    names: set[str] = set()
    for docname in app.env.found_docs:
        text = Path(app.env.doc2path(docname)).read_text(encoding="utf-8")
        for cell in read_page(text).cells:
            names |= imported_names(parse_cell(cell.source))
    _, libraries = graph.reached_from(names)
    return library_versions(libraries | TOOLS, graph.cache_dir)


def to_html(app: Any, from_page: str) -> str:
    rows = run_times(app)
    for row in rows:
        row["uri"] = app.builder.get_relative_uri(from_page, row["docname"])
    total = sum(row["seconds"] for row in rows)
    return _TEMPLATE.render(
        facts=facts(app), rows=rows, total=total, versions=versions(app)
    )


_TEMPLATE = Environment(autoescape=True, trim_blocks=True).from_string("""
<div class="environment">
<div class="table-scroll"><table class="table facts"><tbody>
{% for name, value in facts.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
<h2>Chapters</h2>
<div class="table-scroll"><table class="table facts">
<thead><tr><th scope="col">chapter</th><th scope="col">seconds</th>
<th scope="col">claims</th><th scope="col">executed (UTC)</th></tr></thead><tbody>
{% for row in rows %}
<tr><td><a href="{{ row.uri }}">{{ row.title }}</a></td>
<td>{{ "%.1f" | format(row.seconds) }}</td><td>{{ row.claims }}</td>
<td>{{ row.when }}</td></tr>
{% endfor %}
<tr><th scope="row">all</th><td>{{ "%.1f" | format(total) }}</td><td></td><td></td></tr>
</tbody></table></div>
<h2>Libraries</h2>
<div class="table-scroll"><table class="table facts"><tbody>
{% for name, value in versions.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
</div>
""")
