"""How good are the pictures, and are they new?

Sources: Yoon et al., "Diffusion Probabilistic Models Generalize when They Fail to
Memorize", 2023, for `memorized`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from underhood.stable_diffusion.data import COLORS, SHAPES, EmojiSet


def psnr(pictures: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels: (pictures,).

    Args:
        pictures, originals: (pictures, 3, height, width), uint8.
    """
    error = (pictures.float() - originals.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def distances(pictures: Tensor, originals: Tensor) -> Tensor:
    """Root of the mean squared difference of pixels, each against each.

    Args:
        pictures: (a, 3, height, width), uint8. originals: (b, 3, height, width), uint8.

    Returns:
        (a, b), from 0 to 255.
    """
    left, right = pictures.flatten(1).double(), originals.flatten(1).double()
    return torch.cdist(left, right) / left.shape[1] ** 0.5


def top_k(distance: Tensor, own: Tensor, k: int) -> float:
    """How often a picture's own original is among the k nearest ones.

    Args:
        distance: (pictures, originals). own: (pictures,), the row of its original.
    """
    nearest = distance.topk(k, largest=False).indices  # (pictures, k)
    return (nearest == own[:, None]).any(1).double().mean().item()


def memorized(distance: Tensor) -> Tensor:
    """Is the nearest training picture under a third as far as the next: (pictures,).

    Args:
        distance: (pictures, training pictures).
    """
    first, second = distance.topk(2, largest=False).values.unbind(1)
    return first < second / 3


class Verdict(NamedTuple):
    """What a picture looks like."""

    color: str
    shape: str


class Judge:
    """Names color and shape of a picture, by the training pictures of the grid.

    A shape is the average silhouette of its pictures, a color the average of the pixels
    inside of theirs.
    """

    def __init__(self, emoji: EmojiSet) -> None:
        seen = set(emoji.training().tolist())
        cells = {
            (color, shape): emoji.images[row]
            for shape, pattern in SHAPES.items()
            for color in COLORS
            if (row := emoji.find(pattern.format(color))) in seen
        }
        self.shapes = torch.stack(
            [
                torch.stack([mask(p) for (_, s), p in cells.items() if s == shape])
                .float()
                .mean(0)
                for shape in SHAPES
            ]
        )  # (shapes, height, width)
        self.colors = torch.stack(
            [
                torch.stack(
                    [paint_of(p) for (c, _), p in cells.items() if c == color]
                ).mean(0)
                for color in COLORS
            ]
        )  # (colors, 3)

    def __call__(self, picture: Tensor) -> Verdict:
        """Judge one picture: (3, height, width), uint8."""
        shape = (self.shapes - mask(picture).float()).square().mean((1, 2)).argmin()
        color = (self.colors - paint_of(picture)).square().sum(1).argmin()
        return Verdict(COLORS[int(color)], list(SHAPES)[int(shape)])


def mask(picture: Tensor) -> Tensor:
    """Where a picture is not white: (height, width)."""
    return picture.amin(0) < 200


def paint_of(picture: Tensor) -> Tensor:
    """The average color where a picture is not white: (3,), from 0 to 255."""
    inside = mask(picture)
    if not inside.any():
        return torch.full((3,), 255.0)
    return picture[:, inside].float().mean(1)
