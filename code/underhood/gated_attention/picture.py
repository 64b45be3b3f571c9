"""Three layers side by side: FFN, GLU, GAU."""

from __future__ import annotations

BLUE, ORANGE, GREEN = "#3d85c6", "#d9762b", "#2e9e6b"
WIDTH, HEIGHT = 64, 30


def _box(x: float, y: float, text: str, color: str) -> str:
    return (
        f'<rect x="{x - WIDTH / 2}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
        f'fill="{color}" fill-opacity="0.16" stroke="{color}"/>'
        f'<text x="{x}" y="{y + 20}" text-anchor="middle">{text}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="currentColor"/>'


def _times(x: float, y: float) -> str:
    return (
        f'<circle cx="{x}" cy="{y}" r="9" fill="none" stroke="currentColor"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">×</text>'
    )


def _gated(x: float, attention: bool) -> list[str]:
    """A gate on the left, a value on the right, their product on top."""
    left, right = x - 38, x + 38
    parts = [_box(left, 190, "φ(xWᵤ)", ORANGE), _box(right, 190, "φ(xWᵥ)", BLUE)]
    parts += [_line(x, 245, left, 220), _line(x, 245, right, 220)]
    top = 190
    if attention:
        parts += [_box(right, 135, "A ·", GREEN), _line(right, 190, right, 165)]
        top = 135
    parts += [_line(left, 190, x - 7, 107), _line(right, top, x + 7, 107)]
    parts += [_times(x, 100), _line(x, 91, x, 80), _box(x, 50, "W_o", "#888888")]
    return parts


def anatomy() -> str:
    """FFN, GLU and GAU as SVG, input at the bottom."""
    places = {"FFN": 70, "GLU": 215, "GAU": 375}
    parts = [_box(70, 190, "φ(xWᵤ)", BLUE), _line(70, 245, 70, 220)]
    parts += [_line(70, 190, 70, 80), _box(70, 50, "W_o", "#888888")]
    parts += _gated(places["GLU"], attention=False)
    parts += _gated(places["GAU"], attention=True)
    for name, x in places.items():
        parts += [_line(x, 50, x, 36)]
        parts += [f'<text x="{x}" y="26" text-anchor="middle">{name}</text>']
        parts += [f'<text x="{x}" y="260" text-anchor="middle">x</text>']
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 460 270" '
        'font-size="13" font-family="sans-serif" fill="currentColor">'
        + "".join(parts)
        + "</svg>"
    )
