"""Two drawings: the order of multiplication, and the chunked form. SVG text."""

from __future__ import annotations

BLUE, ORANGE, GREEN = "#3d85c6", "#d9762b", "#2e9e6b"


def box(x: float, y: float, width: float, height: float, color: str, label: str) -> str:
    """A matrix: a filled rectangle with its name in the middle."""
    middle = f'x="{x + width / 2}" y="{y + height / 2 + 5}"'
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}" '
        f'fill-opacity="0.22" stroke="{color}"/>' + text(middle, label)
    )


def text(place: str, words: str, size: int = 14) -> str:
    """Words, centered at the attributes `place`."""
    return (
        f'<text {place} text-anchor="middle" font-size="{size}" '
        f'fill="currentColor">{words}</text>'
    )


def svg(width: int, height: int, parts: list[str]) -> str:
    """A drawing of that size, in pixels, that shrinks with its page."""
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" '
        f'style="max-width:100%;height:auto">{body}</svg>'
    )


def draw_orders(n: int = 110, d: int = 34) -> str:
    """(Q Kᵀ) V beside Q (Kᵀ V): what is large in between."""
    top, gap = 26, 12
    parts = [text('x="166" y="16"', "(Q Kᵀ) V", 15)]
    parts.append(box(10, top, d, n, BLUE, "Q"))
    parts.append(box(10 + d + gap, top, n, d, BLUE, "Kᵀ"))
    x = 10 + d + 2 * gap + n
    parts.append(text(f'x="{x}" y="{top + 55}"', "="))
    parts.append(box(x + gap, top, n, n, ORANGE, "n × n"))
    parts.append(box(x + 2 * gap + n, top, d, n, BLUE, "V"))
    low = top + n + 50
    parts.append(text(f'x="166" y="{low - 10}"', "Q (Kᵀ V)", 15))
    parts.append(box(10, low, d, n, BLUE, "Q"))
    parts.append(box(10 + d + gap, low, n, d, BLUE, "Kᵀ"))
    parts.append(box(10 + d + 2 * gap + n, low, d, n, BLUE, "V"))
    x = 10 + 2 * d + 3 * gap + n
    parts.append(text(f'x="{x + 4}" y="{low + 55}"', "="))
    parts.append(box(x + 4 + gap, low, d, n, BLUE, "Q"))
    parts.append(box(x + 4 + 2 * gap + d, low, d, d, GREEN, ""))
    middle = f'x="{x + 4 + 2 * gap + 1.5 * d}" y="{low + d / 2 + 4}"'
    parts.append(text(middle, "d × d", 11))
    return svg(350, low + n + 8, parts)


def draw_chunks(chunks: int = 4, size: int = 58) -> str:
    """The causal weights in chunks: triangles are computed, squares become a state."""
    parts = []
    left, top = 14, 22
    for row in range(chunks):
        y = top + row * size
        for column in range(row):
            parts.append(box(left + column * size, y, size, size, GREEN, ""))
        x = left + row * size
        corners = f"{x},{y} {x},{y + size} {x + size},{y + size}"
        parts.append(
            f'<polygon points="{corners}" fill="{ORANGE}" fill-opacity="0.3" '
            f'stroke="{ORANGE}"/>'
        )
        if row:
            middle = f'x="{left + row * size / 2}" y="{y + size / 2 + 5}"'
            parts.append(text(middle, f"Q{row + 1} · S{row}"))
        scores = f'x="{x + size * 0.34}" y="{y + size * 0.8}"'
        parts.append(text(scores, "pairs", 12))
    edge = left + chunks * size
    parts.append(text(f'x="{left + edge / 2}" y="14"', "keys →", 12))
    return svg(edge + 14, top + chunks * size + 8, parts)
