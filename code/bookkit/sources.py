"""Where numbers that this build did not measure are from: links to what says so."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

RECORDED = re.compile(r'<span data-recorded="([^"]+)">[^<]*</span>')
CITED = re.compile(r'<span data-cited="([^"]+)">[^<]*</span>')


def link_sources(app: Any, markup: str, from_page: str) -> str:
    """Turn the spans that `claims.source_to_html` leaves into links."""
    depth = "../" * from_page.count("/")

    def recording(match: re.Match[str]) -> str:
        path = match.group(1)
        name = html.escape(path.removeprefix("benchmarks/results/"))
        return f'<a href="{depth}{path}">{name}</a>'

    def citation(match: re.Match[str]) -> str:
        return _citation_to_html(app, match.group(1), from_page)

    return CITED.sub(citation, RECORDED.sub(recording, markup))


def copy_recordings(app: Any) -> None:
    """Put the recordings that claims name into the site, where the links lead."""
    for claims in getattr(app.env, "bookkit_claims", {}).values():
        for made in claims:
            source = Path(app.srcdir, made["source"])
            if made["kind"] == "recorded" and source.is_file():
                target = Path(app.outdir, made["source"])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def bibliography(app: Any) -> dict[str, Any]:
    """The entries of the bibliography by key."""
    domain = app.env.domains.get("cite")
    return dict(domain.bibdata.data.entries) if domain else {}


def _citation_to_html(app: Any, key: str, from_page: str) -> str:
    entry = bibliography(app).get(key)
    if entry is None:
        return html.escape(key)  # reported by the check of the page
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = " ".join(people[0].last_names) if people else entry.fields.get("title", key)
    names = re.sub(r"[{}]", "", names) + (" et al." if len(people) > 2 else "")
    if len(people) == 2:
        names += " and " + re.sub(r"[{}]", "", " ".join(people[1].last_names))
    year = entry.fields.get("year", "")
    text = html.escape(f"{names}, {year}" if year else names)
    for citation in app.env.domains["cite"].citations:
        if citation.key == key:
            page = citation.bibliography_key.docname
            uri = app.builder.get_relative_uri(from_page, page)
            return f'<a href="{uri}#{citation.citation_id}">{text}</a>'
    return text
