"""Formulas drawn by the build: readers get them as text, without a script to wait for.

The MathJax that the site would send to browsers runs here under Node.js, and its output
stands on the page. Without Node.js it is sent, as Sphinx does.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

DRAWER = Path(__file__).with_suffix(".cjs")
FONTS = "_static/mathjax/output/chtml/fonts/woff-v2"
# As high as the letters of the text: the x-height of IBM Plex Sans over that of TeX.
SCALE = 1.167
WRITTEN = re.compile(
    r'(?P<open><(?P<tag>span|div) class="math [^>]*>)(?P<number>\s*<span class="eqno">'
    r".*?</span>)?(?P<tex>[^<]*)(?=</(?P=tag)>)",
    re.DOTALL,
)
DELIMITED = re.compile(r"\s*(?:\\\((.*)\\\)|\\\[(.*)\\\]|(\\begin.*))\s*", re.DOTALL)


def draw(
    app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Draw the formulas of a page; a formula with a mistake is a failure."""
    node, body = shutil.which("node"), context.get("body", "")
    written = list(WRITTEN.finditer(body))
    if not node or not written:
        return
    found = [DELIMITED.fullmatch(html.unescape(each["tex"])) for each in written]
    if None in found or len(found) != body.count('class="math '):
        message = "formula: written in a way that formulas.py does not know"
        LOGGER.warning(message, location=pagename, type="bookkit", subtype="page")
        return
    formulas = [(tex[1] or tex[2] or tex[3], not tex[1]) for tex in found if tex]
    fonts = context["pathto"](FONTS, resource=True)
    task = {"fonts": fonts, "scale": SCALE, "formulas": formulas}
    made = _draw_all(node, task)
    for (tex, _), drawn in zip(formulas, made["drawn"], strict=True):
        for mistake in re.findall(r'<mjx-merror data-mjx-error="(.*?)"', drawn):
            message = f"formula: {html.unescape(mistake)}: {tex}"
            LOGGER.warning(message, location=pagename, type="bookkit", subtype="page")
    results = iter(made["drawn"])
    context["body"] = WRITTEN.sub(
        lambda each: each["open"] + (each["number"] or "") + next(results), body
    )
    style = re.sub(r"\s+", " ", made["style"])
    context["metatags"] = (
        context.get("metatags", "") + f'<style class="formulas">{style}</style>'
    )


def _draw_all(node: str, task: dict[str, Any]) -> dict[str, Any]:
    package = find_spec("sphinx-mathjax-offline")
    assert package and package.origin
    mathjax = Path(package.origin).parent / "static" / "mathjax"
    run = subprocess.run(
        [node, str(DRAWER), str(mathjax)],
        input=json.dumps(task),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    made: dict[str, Any] = json.loads(run.stdout)
    return made
