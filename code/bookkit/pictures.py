"""Lighter drawings: pixels as files beside the pages, and none of what nobody sees.

Matplotlib writes an image into the SVG as base64. A page with twenty of them is
heavy before its first word can be read, and what is drawn twice is sent twice. It also
writes a style sheet into each drawing, which holds for the whole page: the browser
computes every style of the page anew for every drawing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image

DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
INLINE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
SMALL = 3000  # characters: less than that is not worth a request

# Of a drawing by Matplotlib: what it says about itself, indents, a style sheet, and
# millionths of a point.
NOT_SEEN = re.compile(
    r"<metadata>.*?</metadata>|\s+(?=</?(?:g|defs|path|use)\b)", re.DOTALL
)
SHEET = re.compile(r'<style type="text/css">\*\{([^}]*)\}</style>')
LINES = 'stroke-linejoin="round" stroke-linecap="butt"'
PLACES = re.compile(r'(?<= )(?:d|x|y)="[^"]*"')
FRACTION = re.compile(r"\d+\.\d{3,}")


def lighten(app: Any, doctree: nodes.document) -> None:
    """Leave out of a page's drawings what cannot be seen."""
    if app.builder.format != "html":
        return
    for raw in doctree.findall(nodes.raw):
        if "<svg" in raw.astext():
            raw.children = [nodes.Text(DRAWING.sub(_lighter, raw.astext()))]


def _lighter(drawing: re.Match[str]) -> str:
    svg = drawing[0]
    if not SHEET.search(svg):
        return svg
    svg = SHEET.sub("", svg).replace("<svg ", f"<svg {LINES} ", 1)
    svg = NOT_SEEN.sub("", svg)
    return PLACES.sub(lambda place: FRACTION.sub(_rounded, place[0]), svg)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def move_out(app: Any, doctree: nodes.document, docname: str) -> None:
    """Write the images of a page's drawings to `_images`, and name them there."""
    if app.builder.format != "html":
        return
    folder = Path(app.outdir, "_images")
    depth = "../" * docname.count("/")

    def as_file(found: re.Match[str]) -> str:
        if len(found[1]) < SMALL:
            return found[0]
        return f"{depth}_images/{_write(base64.b64decode(found[1]), folder)}"

    for raw in doctree.findall(nodes.raw):
        if "data:image/png" in raw.astext():
            raw.children = [nodes.Text(INLINE.sub(as_file, raw.astext()))]


def _write(png: bytes, folder: Path) -> str:
    """The name of the file: that of its content, so one file for equal pictures."""
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.webp"
    if not (folder / name).is_file():
        packed = io.BytesIO()
        Image.open(io.BytesIO(png)).save(packed, "WebP", lossless=True, method=6)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(packed.getvalue())
    return name
