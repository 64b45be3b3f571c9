"""Pixels inside a drawing, as files beside the pages.

Matplotlib writes an image into the SVG as base64. A page with twenty of them is
heavy before its first word can be read, and what is drawn twice is sent twice.
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

INLINE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
SMALL = 3000  # characters: less than that is not worth a request


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
