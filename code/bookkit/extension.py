"""The Sphinx extension that keeps the four promises of a build.

1. A false page fails: every warning is a failure, remembered until mended
   (`failures`).
2. A fresh page is fresh: each chapter's execution is keyed on all that it depends on
   (`freshness`).
3. Numbers are measured: claims are gathered from the executed pages (`ledger`).
4. What is shown is tested: listings come from `code/` (`listing`), and a page that
   defines what `code/` defines is refused (here).
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging as standard_logging
import re
import warnings
from pathlib import Path
from typing import Any

import nbformat
import yaml
from docutils import nodes
from sphinx.util import logging

from bookkit import (
    chapter,
    cover,
    environment,
    execution,
    foot,
    formulas,
    glossary,
    inventory,
    ledger,
    listing,
    live,
    pictures,
    search,
    sources,
)
from bookkit.cells import Page, defined_names, parse_cell, read_page
from bookkit.failures import FailureLog, execution_failure, remember, remembered
from bookkit.freshness import CodeGraph, MissingData, chapter_key

LOGGER = logging.getLogger(__name__)
OWN_TAB_STOPS = "/* tab stops: see site.js */"


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    # The font of the social cards has no Chinese; a box in a card does no harm.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    root, doctrees = Path(app.srcdir), Path(app.doctreedir)
    app.bookkit_log = FailureLog(app)
    app.bookkit_code = CodeGraph(root, doctrees.parent / ".grimp_cache")
    app.bookkit_keys = {}
    app.bookkit_changed = False
    app.bookkit_note = doctrees.parent / "bookkit_failures.json"
    standard_logging.getLogger("sphinx").addHandler(app.bookkit_log)
    _without_thebe(app)
    execution.set_kernel_environment(root)
    execution.survive_dead_kernels()
    execution.keep_cached_outputs()

    # An edit of the extension itself renders every page anew (from the cache).
    own = sorted([*Path(__file__).parent.glob("*.py"), formulas.DRAWER])
    app.add_config_value("bookkit_sources", _digest(own), "env")
    # Without a changed page Sphinx would not copy a changed style sheet either.
    app.add_config_value("bookkit_static", "", "html")
    app.add_config_value("bookkit_preload", [], "html")
    app.add_config_value("bookkit_live", [], "html")
    app.connect("config-inited", _note_static_files)
    app.connect("config-inited", _cite_when_read)
    app.add_node(chapter.facts_node, html=chapter.AS_CONTAINER)
    app.add_directive("cards", cover.CardsDirective)
    app.add_directive("chapter", chapter.ChapterDirective)
    app.add_directive("counts", cover.CountsDirective)
    app.add_directive("code-index", inventory.InventoryDirective)
    app.add_directive("terms", glossary.TermsDirective)
    app.add_directive("environment", environment.EnvironmentDirective)
    app.add_directive("ledger", ledger.LedgerDirective)
    app.add_directive("listing", listing.ListingDirective)
    app.connect("env-get-outdated", _outdated_pages)
    app.connect("source-read", _add_key)
    app.connect("env-purge-doc", _forget_page)
    app.connect("doctree-read", _check_page)
    app.connect("env-get-updated", _render_all_if_any)
    app.connect("doctree-resolved", _fill_in)
    app.connect("html-collect-pages", listing.source_pages)
    app.connect("html-page-context", _preload_fonts)
    app.connect("html-page-context", formulas.draw, priority=800)
    app.connect("html-page-context", _without_idle_scripts, priority=900)
    app.connect("html-page-context", live.add_scripts)
    app.connect("builder-inited", live.announce)
    app.connect("build-finished", _finish)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False}


def _without_thebe(app: Any) -> None:
    """Jupyter Book always loads sphinx-thebe, whose script comes from another site."""
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [
            one for one in listeners if one.handler.__module__ != "sphinx_thebe"
        ]
    app.registry.css_files = [
        sheet for sheet in app.registry.css_files if sheet[0] != "sphinx-thebe.css"
    ]


def _cite_when_read(app: Any, config: Any) -> None:
    """Format the bibliography, which takes seconds, only if a page was read."""
    listeners = app.events.listeners["env-updated"]
    for place, listener in enumerate(listeners):
        if listener.handler.__module__ == "sphinxcontrib.bibtex":

            def when_read(
                app: Any, env: Any, format_all: Any = listener.handler
            ) -> Any:
                return format_all(app, env) if app.bookkit_changed else []

            listeners[place] = listener._replace(handler=when_read)


def _note_static_files(app: Any, config: Any) -> None:
    folders = [Path(app.srcdir, path) for path in config.html_static_path]
    files = [file for folder in folders for file in sorted(folder.rglob("*"))]
    config.bookkit_static = _digest([file for file in files if file.is_file()])


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _outdated_pages(
    app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> set[str]:
    """The pages to read again: those whose key changed, and those that failed."""
    app.bookkit_changed = bool(removed)
    previous = getattr(env, "bookkit_keys", {})
    outdated = remembered(app.bookkit_note) & env.found_docs
    code = sorted(Path(app.srcdir, "code").rglob("*.py"))
    if getattr(env, "bookkit_code_digest", "") != (digest := _digest(code)):
        env.bookkit_code_digest = digest
        special = getattr(env, "bookkit_special", {})
        outdated |= {doc for doc, names in special.items() if "inventory_node" in names}
    # An entry may come while a build runs: then the page that lists them all is newer
    # than the file, and does not know the entry.
    entries = sorted(sources.bibliography(app))
    if getattr(env, "bookkit_entries", entries) != entries:
        outdated |= {key.docname for key in env.get_domain("cite").bibliographies}
    env.bookkit_entries = entries
    for docname in env.found_docs:
        page = _parsed_page(env, docname)
        if not page.is_notebook:
            continue
        try:
            key = chapter_key(page, Path(app.srcdir), app.bookkit_code)
        except MissingData as error:
            # No stale output under a missing file: a key that is never right.
            key = f"missing: {error}"
        app.bookkit_keys[docname] = key
        if previous.get(docname) != key:
            outdated.add(docname)
    if app.bookkit_code.error:
        LOGGER.warning(app.bookkit_code.error, type="bookkit", subtype="code")
    return outdated


def _parsed_page(env: Any, docname: str) -> Page:
    """`read_page`, kept from build to build: that takes seconds for a whole book."""
    text = Path(env.doc2path(docname)).read_text(encoding="utf-8")
    kept = env.__dict__.setdefault("bookkit_pages", {})
    if docname not in kept or kept[docname][0] != text:
        kept[docname] = (text, read_page(text))
    page: Page = kept[docname][1]
    return page


def _add_key(app: Any, docname: str, source: list[str]) -> None:
    """Write the key into the page's `kernelspec`, which jupyter-cache hashes."""
    app.bookkit_changed = True
    key = app.bookkit_keys.get(docname)
    if key is None:
        return
    if key.startswith("missing: "):
        _fail(key.removeprefix("missing: "), docname, 1)
    lines = source[0].split("\n")
    end = lines.index("---", 1)
    front = yaml.safe_load("\n".join(lines[1:end]))
    front["kernelspec"] = {**front["kernelspec"], "bookkit": key}
    # One line of JSON, which is YAML, and as many lines as before: the line
    # numbers of errors stay true.
    padded = [json.dumps(front, ensure_ascii=False)] + ["#"] * (end - 2)
    source[0] = "\n".join(["---", *padded, *lines[end:]])


def _forget_page(app: Any, env: Any, docname: str) -> None:
    for name in ("bookkit_claims", "bookkit_keys", "bookkit_special"):
        if not hasattr(env, name):
            setattr(env, name, {})
        getattr(env, name).pop(docname, None)


def _check_page(app: Any, doctree: nodes.document) -> None:
    """Look at a page that has just been executed, or taken from the cache."""
    env, docname = app.env, app.env.docname
    filled = (
        ledger.ledger_node,
        environment.environment_node,
        inventory.inventory_node,
    )
    special = [node for node in filled if next(doctree.findall(node), None)]
    env.bookkit_special[docname] = [node.__name__ for node in special]
    ran = env.nb_metadata.get(docname, {}).get("exec_data")
    if docname not in app.bookkit_keys or not ran:
        return
    page = _parsed_page(env, docname)
    path = Path(app.outdir).parent / "jupyter_execute" / f"{docname}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    if not ran["succeeded"]:
        number, line, reason = execution_failure(notebook)
        at = page.cells[number - 1].line + line - 1
        _fail(f"cell {number}, line {line}: {reason}", docname, at)
        return
    env.bookkit_keys[docname] = app.bookkit_keys[docname]
    claims = env.bookkit_claims[docname] = ledger.claims_of(notebook)
    if not claims:
        _fail("a chapter without a claim", docname, 1)
    for made in claims:
        if made["kind"] == "recorded" and not _declares(app, page, made["source"]):
            message = f"{made['source']} is not declared under `bookkit: data:`"
            _fail(message, docname, 1)
        elif made["kind"] != "recorded" and made["source"]:
            _check_citation(app, made["source"], docname)
    for cell in page.cells:
        for name in sorted(defined_names(parse_cell(cell.source))):
            where = _public_definitions(app).get(name)
            if where:
                message = f"defines `{name}`, which {where} defines: show it by listing"
                _fail(f"cell {cell.number}: {message}", docname, cell.line)


def _declares(app: Any, page: Any, path: str) -> bool:
    root = Path(app.srcdir)
    return any(root / path in root.glob(pattern) for pattern in page.data_patterns())


def _check_citation(app: Any, key: str, docname: str) -> None:
    if key not in sources.bibliography(app):
        _fail(f"cited: no entry {key!r} in the bibliography", docname, 1)


def _public_definitions(app: Any) -> dict[str, str]:
    """The public functions and classes of `code/`, and the file of each."""
    if not hasattr(app, "bookkit_definitions"):
        app.bookkit_definitions = {}
        code = Path(app.srcdir) / "code"
        for file in sorted(set(code.rglob("*.py")) - set(code.glob("bookkit/**/*.py"))):
            try:
                tree = ast.parse(file.read_text(encoding="utf-8"))
            except SyntaxError:
                continue  # told by the import graph
            path = file.relative_to(app.srcdir).as_posix()
            for name in defined_names(tree):
                if not name.startswith("_"):
                    app.bookkit_definitions.setdefault(name, path)
    return app.bookkit_definitions


def _render_all_if_any(app: Any, env: Any) -> set[str]:
    """When a page was read, render all: links between pages are checked again."""
    return set(env.found_docs) if app.bookkit_changed else set()


def _fill_in(app: Any, doctree: nodes.document, docname: str) -> None:
    """Put the parts in place that need every page to have been read."""
    for raw in doctree.findall(nodes.raw):
        if 'class="claim ' in raw.astext():
            linked = sources.link_sources(app, raw.astext(), docname)
            raw.children = [nodes.Text(linked)]
    made = {
        ledger.ledger_node: lambda node: ledger.to_html(app, docname),
        environment.environment_node: lambda node: environment.to_html(app, docname),
        chapter.chapter_node: lambda _: (
            chapter.to_html(app, doctree, docname) + live.to_html(app, docname)
        ),
        listing.listing_link: lambda n: listing.link_to_html(app, n, docname),
        inventory.inventory_node: lambda _: inventory.to_html(app, docname),
        cover.counts_node: lambda _: cover.counts_to_html(app, docname),
        cover.cards_node: lambda node: cover.cards_to_html(app, node, docname),
    }
    for kind, to_html in made.items():
        for node in list(doctree.findall(kind)):
            node.replace_self(nodes.raw("", to_html(node), format="html"))
    doctree.append(nodes.raw("", foot.to_html(app, docname), format="html"))
    pictures.lighten(app, doctree)
    pictures.move_out(app, doctree, docname)


def _preload_fonts(
    app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Text is drawn once, in its own type: nothing moves while the page loads."""
    for font in app.config.bookkit_preload:
        link = '<link rel="preload" as="font" type="font/woff2" crossorigin href="'
        link += context["pathto"](f"_static/{font}", resource=True) + '">'
        context["metatags"] = context.get("metatags", "") + link


def _without_idle_scripts(
    app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """MathJax weighs as much as the rest of a page: only where it has work to do."""
    body = context.get("body", "")
    if 'class="math' not in body or "<mjx-container" in body:
        context["script_files"] = [
            script
            for script in context.get("script_files", [])
            if "mathjax" not in str(getattr(script, "filename", ""))
        ]


def _without_tab_stops(app: Any) -> None:
    """Take a part out of the theme's script that `site.js` does without a pause.

    It asks for the size of every box of code at once, when the page is there: a second
    or more in which the reader cannot scroll, and again whenever something changes.
    """
    script = Path(app.outdir, "_static", "scripts", "pydata-sphinx-theme.js")
    text = script.read_text(encoding="utf-8")
    call = r',"complete"===document\.readyState\?(\w+)\(\):'
    call += r'window\.addEventListener\("load",\1\)'
    if found := re.search(call, text):
        # As long as it was: the source map stays true.
        instead = OWN_TAB_STOPS.ljust(len(found[0]))
        script.write_text(text.replace(found[0], instead), encoding="utf-8")
    elif OWN_TAB_STOPS not in text:
        message = f"{script.name} does not set tab stops as it did: see extension.py"
        LOGGER.warning(message, type="bookkit", subtype="theme")


def _finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        _without_tab_stops(app)
    standard_logging.getLogger("sphinx").removeHandler(app.bookkit_log)
    log = app.bookkit_log
    docnames = {app.env.path2doc(str(Path(app.srcdir, page))) for page in log.pages()}
    made_before = Path(app.outdir, search.DATA).is_file()
    if exception is None and (app.bookkit_changed or not made_before):
        special = getattr(app.env, "bookkit_special", {})
        pages = {doc for doc, names in special.items() if "ledger_node" in names}
        ledger.write_json(app, pages)
        sources.copy_recordings(app)
        foot.write_notebooks(app)
        search.write_data(app)
        live.copy_runtime(app)
    remember(app.bookkit_note, {name for name in docnames if name})
    if log.failures:
        app.statuscode = 1
        count = len([page for page in log.pages() if page])
        # As an error, because `--quiet` drops what is only information.
        LOGGER.error(f"\nThis book is not true: {count} page(s) to mend.")
        LOGGER.error(log.report())


def _fail(message: str, docname: str, line: int) -> None:
    LOGGER.warning(message, location=(docname, line), type="bookkit", subtype="page")
