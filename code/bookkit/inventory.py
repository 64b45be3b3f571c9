"""The index of the code: every public object of `underhood`, and where it is used."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment
from sphinx.util.docutils import SphinxDirective

from bookkit.cells import read_page
from bookkit.claims import inline_code
from bookkit.listing import NoSuchObject, Source, find_source


@dataclass(frozen=True)
class Entry:
    """A public object: what its package offers by name."""

    name: str
    signature: str
    summary: str
    source: Source


class inventory_node(nodes.General, nodes.Element):
    """Stands for the index until every page has been read."""


class InventoryDirective(SphinxDirective):
    """``{code-index}``: signature, summary, file, pages and tests of each object."""

    def run(self) -> list[nodes.Node]:
        return [inventory_node()]


def public_objects(package: Path, source_root: Path) -> list[Entry]:
    """What the `__all__` of a package names, where it is a function or a class."""
    topic = package.name
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = [str(name) for name in ast.literal_eval(node.value)]
    entries = []
    for name in sorted(names, key=str.lower):
        try:
            source = find_source(f"underhood.{topic}.{name}", source_root)
        except NoSuchObject:
            continue  # a module of the package
        node = ast.parse(source.text).body[0]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            summary = (ast.get_docstring(node) or "").partition("\n\n")[0]
            text = " ".join(summary.split())
            entries.append(Entry(name, signature(node), text, source))
    return entries


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The parameters as written; of a class, those of `__init__`, or its fields."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"({ast.unparse(node.args)}){returns}"
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return re.sub(r"^self(, )?", "", ast.unparse(item.args)).join("()")
    fields = [
        ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)
    ]
    return f"({', '.join(fields)})" if fields and node.decorator_list else ""


def to_html(app: Any, from_page: str) -> str:
    root = Path(app.srcdir)
    pages, tests = _pages(app), _tests(root)
    topics = []
    for package in sorted((root / "code" / "underhood").glob("*/__init__.py")):
        rows = []
        topic = f"underhood.{package.parent.name}"  # `stack` alone may be torch's
        pages_here = {name: text for name, text in pages.items() if topic in text}
        tests_here = {name: text for name, text in tests.items() if topic in text}
        for entry in public_objects(package.parent, root / "code"):
            word = re.compile(rf"\b{re.escape(entry.name)}\b")
            path = entry.source.file.relative_to(root).as_posix()
            file = app.builder.get_relative_uri(from_page, path.removesuffix(".py"))
            rows.append(
                {
                    "entry": entry,
                    "uri": f"{file}#L-{entry.source.first}",
                    "file": path.removeprefix("code/underhood/"),
                    "pages": [
                        (app.env.titles[page].astext(),
                         app.builder.get_relative_uri(from_page, page))
                        for page, text in pages_here.items()
                        if word.search(text)
                    ],
                    "tests": [
                        name for name, text in tests_here.items() if word.search(text)
                    ],
                }
            )  # fmt: skip
        if rows:
            topics.append({"name": package.parent.name, "rows": rows})
    return _TEMPLATE.render(topics=topics)


def _pages(app: Any) -> dict[str, str]:
    """The code of each chapter, and the names that it lists."""
    found = {}
    for docname in sorted(app.env.found_docs):
        text = Path(app.env.doc2path(docname)).read_text(encoding="utf-8")
        page = read_page(text)
        if page.is_notebook:
            listed = re.findall(r"\{listing\} (\S+)", text)
            found[docname] = "\n".join([cell.source for cell in page.cells] + listed)
    return found


def _tests(root: Path) -> dict[str, str]:
    files = sorted((root / "tests").glob("test_*.py"))
    return {file.name: file.read_text(encoding="utf-8") for file in files}


_environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_environment.filters["code"] = inline_code
_TEMPLATE = _environment.from_string("""
<div class="inventory">
{% for topic in topics %}
<section id="code-{{ topic.name }}"><h2>underhood.{{ topic.name }}</h2>
<dl>
{% for row in topic.rows %}
<dt id="{{ topic.name }}.{{ row.entry.name }}"><a href="{{ row.uri }}"><code>
{{- row.entry.name }}</code></a><code class="signature">{{ row.entry.signature }}</code>
</dt>
<dd>{{ row.entry.summary | code | safe }}
<span class="inventory-uses">{{ row.file }}
{%- if row.pages %} · on {% for title, uri in row.pages -%}
<a href="{{ uri }}">{{ title }}</a>{{ ", " if not loop.last }}
{%- endfor %}{% endif %}
{%- if row.tests %} · tested in {{ row.tests | join(", ") }}{% endif %}
</span></dd>
{% endfor %}
</dl></section>
{% endfor %}
</div>
""")
