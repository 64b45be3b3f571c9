"""Pages whose cells run in the reader's browser, and the way to the notebook elsewhere.

CPython in WebAssembly is the npm package `pyodide`, served from the site itself: no
page asks anybody else. Without the package the pages have no such cells.
"""

from __future__ import annotations

import html
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.util import logging

from bookkit.cells import read_page

LOGGER = logging.getLogger(__name__)

RUNTIME = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
)
BOOKKIT = ("__init__.py", "browser.py", "claims.py", "figures.py", "script.py")


def announce(app: Any) -> None:
    """Say once per build if the pages stay without Python."""
    if app.config.bookkit_live and not _runtime(app).is_dir():
        LOGGER.info("live cells: none, no npm package `pyodide` (npm ci fetches it)")


def add_scripts(
    app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Scripts only where they are used; Python itself comes when it is asked for."""
    if pagename in getattr(app.env, "bookkit_claims", {}):
        app.add_css_file("live.css")
        if is_live(app, pagename):
            app.add_js_file("live.js", type="module")


def is_live(app: Any, page: str) -> bool:
    """Whether the cells of a page run in the browser."""
    return page in app.config.bookkit_live and _runtime(app).is_dir()


def to_html(app: Any, page: str) -> str:
    """One line under the title: how to run what the page shows."""
    name = html.escape(Path(page).name)
    notebook = f'<a href="{name}.ipynb" download>'
    if not is_live(app, page):
        return f'<p class="live-intro">{notebook}Run it: the notebook</a></p>'
    lock = json.loads((_runtime(app) / "pyodide-lock.json").read_text("utf-8"))
    # The largest two: the rest comes as modules, which report no progress.
    counted = [_runtime(app) / file for file in RUNTIME[2:]]
    size = sum(file.stat().st_size for file in counted)
    total = sum((_runtime(app) / file).stat().st_size for file in RUNTIME)
    version = lock["info"]["python"]
    return (
        f'<p class="live-intro" id="live" data-bytes="{size}" data-page="{page}" '
        f'data-python="{version}">Run and edit the cells right here: “Run” below a '
        f"cell starts CPython {version} in your browser ({total / 1e6:.0f} MB, once, "
        f"from this site). What depends on the version or on 32-bit pointers comes out "
        f"as it does there. Or {notebook}take the notebook</a>.</p>"
    )


def copy_runtime(app: Any) -> None:
    """Put Python and what the pages import beside the pages."""
    pages = [page for page in app.config.bookkit_live if is_live(app, page)]
    if not pages:
        return
    target = Path(app.outdir, "_static", "pyodide")
    target.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME:
        source, copy = _runtime(app) / name, target / name
        if not copy.is_file() or copy.stat().st_mtime != source.stat().st_mtime:
            shutil.copy2(source, copy)
    # None of the packages that the full distribution has is served here.
    lock = json.loads((_runtime(app) / "pyodide-lock.json").read_text("utf-8"))
    (target / "pyodide-lock.json").write_text(json.dumps({**lock, "packages": {}}))
    root = Path(app.srcdir)
    with zipfile.ZipFile(target / "book.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(set(_files(root, pages))):
            # With no date of its own: the same files make the same archive.
            entry = zipfile.ZipInfo(file.relative_to(root).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())


def _files(root: Path, pages: list[str]) -> Iterator[Path]:
    """What the cells of the pages import and read."""
    yield from (root / "code" / "bookkit" / name for name in BOOKKIT)
    yield root / "code" / "underhood" / "__init__.py"
    for page in pages:
        topic = root / "code" / "underhood" / Path(page).name
        yield from topic.rglob("*.py")
        text = (root / f"{page}.md").read_text(encoding="utf-8")
        for pattern in read_page(text).data_patterns():
            yield from root.glob(pattern)


def _runtime(app: Any) -> Path:
    return Path(app.srcdir, "node_modules", "pyodide")
