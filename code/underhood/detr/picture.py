"""Drawings: boxes on a scene, attention on a scene, and where queries find things."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from underhood.detr.images import Detection


def draw_boxes(
    ax: Axes,
    image: Tensor | Image.Image,
    found: list[Detection],
    color: str | None = None,
    with_score: bool = True,
) -> None:
    """A picture and what was found in it.

    Args:
        image: (height, width), gray in 0 ... 1, or a picture.
        color: One for all; by class if left out.
    """
    gray: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    height, width = image.shape if isinstance(image, Tensor) else image.size[::-1]
    shown = image if isinstance(image, Tensor) else np.asarray(image)
    ax.imshow(shown, extent=(0, width, height, 0), **gray)
    for each in found:
        ink = color or f"C{each.label % 10}"
        x0, y0, x1, y1 = each.box
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=ink, lw=1.6))
        text = f"{each.name} {each.score:.2f}" if with_score else each.name
        ax.text(
            max(x0, 0),
            max(y0, height / 12),
            text,
            color="white",
            fontsize=7,
            va="bottom",
            bbox={"facecolor": ink, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    ax.set_axis_off()


def draw_attention(ax: Axes, image: Tensor, weights: Tensor) -> None:
    """A heat map over a scene.

    Args:
        image: (height, width). weights: (rows, columns), any scale.
    """
    height, width = image.shape
    extent = (0, width, height, 0)
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
    ax.imshow(
        weights, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear"
    )
    ax.set_axis_off()


def draw_detection(image: Image.Image, found: list[Detection]) -> Figure:
    """The picture for `detect`."""
    figure = Figure(figsize=(8, 8 * image.height / image.width), layout="constrained")
    draw_boxes(figure.subplots(), image, found)
    return figure


_BOXES = (  # x, width, text, shape below, color
    (0, 92, "ResNet", "2048 × 25 × 34", "#3d85c6"),
    (124, 92, "Encoder", "850 × 256", "#d9762b"),
    (248, 92, "Decoder", "100 × 256", "#2e9e6b"),
    (372, 108, "Two heads", "100 × (class, box)", "#b565c2"),
)


def _text(x: float, y: float, text: str, size: int = 11) -> str:
    return (
        f'<text x="{x}" y="{y}" font-family="sans-serif" font-size="{size}" '
        f'fill="currentColor" text-anchor="middle">{text}</text>'
    )


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="1.4"/>'


def draw_architecture() -> str:
    """The path of one picture through DETR, as SVG."""
    parts = []
    for x, width, text, shape, color in _BOXES:
        middle = x + width / 2
        parts.append(
            f'<rect x="{x}" y="38" width="{width}" height="40" rx="5" fill="none" '
            f'stroke="{color}" stroke-width="2"/>'
        )
        parts += [_text(middle, 63, text, 14), _text(middle, 97, shape)]
    parts += [_arrow(f"M{x} 58 h22 m-6 -5 l6 5 l-6 5") for x in (96, 220, 344)]
    notes = (
        (46, "3 × 800 × 1066"),
        (170, "+ positions on Q, K"),
        (294, "100 learned queries"),
    )
    for x, text in notes:
        parts += [_text(x, 14, text), _arrow(f"M{x} 19 v14 m-4 -5 l4 5 l4 -5")]
    body = "".join(parts)
    return (
        f'<svg viewBox="-8 0 496 104" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
