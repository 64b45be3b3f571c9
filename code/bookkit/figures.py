"""Pictures and tables of a page, readable in the light and in the dark theme."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bookkit.claims import _display, inline_code

INK = "#010203"  # matplotlibrc draws text and axes in it


def show(picture: Any, *, alt: str, caption: str = "") -> None:
    """Put a figure on the page, as an SVG inside it.

    Args:
        picture: a matplotlib figure, an object with an attribute `svg`, or SVG text.
            In SVG text, `currentColor` is the text color of the theme.
        alt: what is to be seen, for those who cannot see it; required.
        caption: one line below the picture; `code` in backticks.
    """
    if not alt.strip():
        raise ValueError("alt: empty; say what is to be seen")
    svg = _svg_of(picture)
    label = html.escape(" ".join(alt.split()), quote=True)
    svg = re.sub(r"<svg\b", f'<svg role="img" aria-label="{label}"', svg, count=1)
    line = f"<figcaption>{inline_code(caption)}</figcaption>" if caption else ""
    data = {"text/html": f'<figure class="picture">{svg}{line}</figure>'}
    _display({**data, "text/plain": f"[figure: {alt}]"}, {})


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = ""
) -> None:
    """Put a table on the page; `code` in backticks in any cell.

    Args:
        columns: the headings.
        rows: one sequence of cells each, as long as `columns`; floats are shown
            with four digits, everything else as text.
        caption: one line above the table.
    """
    body = [[_cell(value) for value in row] for row in rows]
    for row in body:
        if len(row) != len(columns):
            raise ValueError(f"rows: {row} has {len(row)} cells, not {len(columns)}")
    # A heading without words is none: a screen reader would read out an empty one.
    head = "".join(
        f'<th scope="col">{inline_code(name)}</th>' if name else "<td></td>"
        for name in columns
    )
    lines = [
        "<tr>" + "".join(f"<td>{inline_code(cell)}</td>" for cell in row) + "</tr>"
        for row in body
    ]
    title = f"<caption>{inline_code(caption)}</caption>" if caption else ""
    markup = (
        f'<div class="table-scroll"><table class="table facts">{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
    text = "\n".join(" | ".join(row) for row in [list(columns), *body])
    _display({"text/html": markup, "text/plain": text}, {})


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _svg_of(picture: Any) -> str:
    if hasattr(picture, "savefig"):
        return _svg_of_figure(picture)
    svg = getattr(picture, "svg", picture)
    if not isinstance(svg, str) or "<svg" not in svg:
        raise TypeError(
            f"picture: got {type(picture).__name__}; allowed are a matplotlib figure, "
            f"an object with `svg`, SVG text"
        )
    return _with_own_ids(svg[svg.index("<svg") :])


def _svg_of_figure(figure: Any) -> str:
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    # The salt makes the ids inside the SVG the same in every build.
    with plt.rc_context({"svg.hashsalt": "bookkit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = _with_own_ids(text[text.index("<svg") :])
    return text.replace(INK, "currentColor")


def _with_own_ids(svg: str) -> str:
    """Two figures on one page must not share ids."""
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(?<![\w-])id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
