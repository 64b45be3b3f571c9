"""A picture for the chapter: the orders in which parts can be merged."""

from __future__ import annotations

BLUE, GREEN, ORANGE = "#3d85c6", "#2e9e6b", "#d9762b"


def draw_merge_orders() -> str:
    """SVG text: four parts merged in a loop, in a tree, and in a ring."""
    titles = ((101, "loop"), (345, "tree"), (569, "ring"))
    shapes = [_text(x, 18, title, 13) for x, title in titles]
    shapes += [*_loop(), *_tree(), *_ring()]
    tip = (
        '<marker id="merge-tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
    )
    return (
        '<svg viewBox="0 0 690 216" width="690" '
        'xmlns="http://www.w3.org/2000/svg">'
        f"<defs>{tip}</defs>{''.join(shapes)}</svg>"
    )


def _loop() -> list[str]:
    shapes = []
    for i in range(4):
        y = 36 + i * 44
        shapes += [
            _part(8, y, 70, f"keys {i + 1}", BLUE),
            _arrow(78, y + 13, 124, y + 13),
        ]
        shapes.append(_part(126, y, 70, "state", GREEN))
        if i:
            shapes.append(_arrow(161, y - 18, 161, y - 2))
    return shapes


def _tree() -> list[str]:
    shapes = [_part(318, y, 56, "merge", GREEN) for y in (58, 146)]
    for i in range(4):
        y = 36 + i * 44
        shapes.append(_part(236, y, 62, f"keys {i + 1}", BLUE))
        shapes.append(_arrow(298, y + 13, 316, 71 if i < 2 else 159))
    shapes.append(_part(398, 102, 56, "merge", GREEN))
    return [*shapes, _arrow(374, 71, 396, 109), _arrow(374, 159, 396, 121)]


def _ring() -> list[str]:
    places = ((528, 36), (606, 106), (528, 176), (484, 106))
    shapes = [
        _part(x, y, 76, f"GPU {i + 1}", ORANGE) for i, (x, y) in enumerate(places)
    ]
    return [
        *shapes,
        _arrow(604, 58, 636, 103),
        _arrow(636, 133, 604, 180),
        _arrow(534, 175, 516, 134),
        _arrow(516, 105, 534, 64),
    ]


def _part(x: float, y: float, width: float, label: str, color: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="26" rx="4" '
        f'fill="{color}" fill-opacity="0.25" stroke="{color}"/>'
        + _text(x + width / 2, y + 17.5, label, 12)
    )


def _text(x: float, y: float, label: str, size: int) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{size}" '
        f'fill="currentColor">{label}</text>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" '
        f'stroke-width="1.2" marker-end="url(#merge-tip)"/>'
    )
