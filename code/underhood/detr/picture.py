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
        ax.text(x0, y0 - 1, text, color=ink, fontsize=8, clip_on=True)
    ax.set_axis_off()


def draw_attention(ax: Axes, image: Tensor, weights: Tensor) -> None:
    """A heat map over a scene.

    Args:
        image: (height, width). weights: (rows, columns), any scale.
    """
    height, width = image.shape
    extent = (0, width, height, 0)
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
    ax.imshow(weights, cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear")
    ax.set_axis_off()


def draw_detection(image: Image.Image, found: list[Detection]) -> Figure:
    """The picture for `detect`."""
    figure = Figure(figsize=(8, 8 * image.height / image.width), layout="constrained")
    draw_boxes(figure.subplots(), image, found)
    return figure
