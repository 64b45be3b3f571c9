"""Drawings of the chapter: the UNet with its shapes, and the way of a picture. SVG."""

from __future__ import annotations

from collections.abc import Sequence

from underhood.stable_diffusion.shapes import Stage

BLUE, ORANGE, GREEN, PURPLE = "#3d85c6", "#d9762b", "#2e9e6b", "#b565c2"
WIDTH = 400


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "middle") -> str:
    """Words at a point."""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="currentColor">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, color: str) -> str:
    """A rounded rectangle."""
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'rx="4" fill="{color}" fill-opacity="0.2" stroke="{color}"/>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    """A line with a head at its end."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
        f'stroke="currentColor" stroke-opacity="0.6"{dash} marker-end="url(#head)"/>'
    )


def svg(height: float, parts: Sequence[str]) -> str:
    """A drawing of that height, `WIDTH` wide."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" '
        'fill="currentColor" fill-opacity="0.6"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{1.5 * WIDTH:.0f}" font-family="sans-serif" '
        f'style="max-width:100%;height:auto">{head}{"".join(parts)}</svg>'
    )


def draw_unet(stages: Sequence[Stage]) -> str:
    """The two arms of a UNet and what lies between, with shapes and parameters."""
    down = [s for s in stages if s.name.startswith("down")]
    up = [s for s in stages if s.name.startswith("up")][::-1]
    middle = next(s for s in stages if s.name == "mid_block")
    parts, top, step = [], 46, 74
    parts.append(text(92, 14, f"latent {_shape(_named(stages, 'conv_out'))}"))
    parts.append(text(308, 14, f"noise {_shape(_named(stages, 'conv_out'))}"))
    parts.append(arrow(92, 20, 92, top - 4))
    parts.append(arrow(308, top - 4, 308, 20))
    for i, (left, right) in enumerate(zip(down, up, strict=True)):
        y = top + i * step
        parts += _block(12, y, left) + _block(228, y, right)
        parts.append(arrow(174, y + 25, 225, y + 25, dashed=True))
        if i:
            parts.append(arrow(92, y - 22, 92, y - 3))
            parts.append(arrow(308, y - 3, 308, y - 22))
    bottom = top + len(down) * step
    parts += _block(120, bottom, middle)
    parts.append(arrow(92, bottom - 22, 135, bottom - 3))
    parts.append(arrow(265, bottom - 3, 308, bottom - 22))
    legend = bottom + 76
    parts.append(box(12, legend - 10, 12, 12, ORANGE))
    parts.append(text(29, legend, "attends to the words", 11, "start"))
    parts.append(box(150, legend - 10, 12, 12, BLUE))
    parts.append(text(167, legend, "does not", 11, "start"))
    parts.append(arrow(226, legend - 4, 256, legend - 4, dashed=True))
    parts.append(text(261, legend, "kept for the way up", 11, "start"))
    return svg(legend + 10, parts)


def _named(stages: Sequence[Stage], name: str) -> Stage:
    return next(s for s in stages if s.name == name)


def _shape(stage: Stage) -> str:
    return " × ".join(map(str, stage.shape))


def _block(x: float, y: float, stage: Stage) -> list[str]:
    color = ORANGE if stage.attention else BLUE
    millions = f"{stage.parameters / 1e6:.0f} M"
    return [
        box(x, y, 160, 50, color),
        text(x + 80, y + 21, f"{stage.name} · {millions}"),
        text(x + 80, y + 40, _shape(stage), 13),
    ]


def draw_parts() -> str:
    """Words, noise, steps and pixels: who gives what to whom."""
    rows = [
        ("“a photo of a cat”", PURPLE, "prompt"),
        ("text encoder", PURPLE, "77 × 768"),
    ]
    parts = []
    for i, (label, color, below) in enumerate(rows):
        parts.append(box(12 + 196 * i, 10, 180, 40, color))
        parts.append(text(102 + 196 * i, 28, label, 13))
        parts.append(text(102 + 196 * i, 44, below, 11))
    parts.append(arrow(194, 30, 206, 30))
    columns = [("noise", "4 × 64 × 64", GREEN), ("UNet", "50 steps", ORANGE)]
    columns.append(("decoder", "3 × 512 × 512", BLUE))
    for i, (label, below, color) in enumerate(columns):
        x = 12 + 130 * i
        parts.append(box(x, 90, 116, 44, color))
        parts.append(text(x + 58, 109, label, 13))
        parts.append(text(x + 58, 126, below, 11))
        if i:
            parts.append(arrow(x - 14, 112, x - 2, 112))
    parts.append(arrow(298, 52, 210, 87))
    loop = "M 232 134 C 232 160, 170 160, 170 137"
    parts.append(
        f'<path d="{loop}" fill="none" stroke="currentColor" stroke-opacity="0.6" '
        f'marker-end="url(#head)"/>'
    )
    parts.append(text(200, 172, "a little less noise, again and again", 11))
    return svg(182, parts)
