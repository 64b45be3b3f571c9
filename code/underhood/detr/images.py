"""Pictures in, boxes out: the preprocessing and post-processing as published.

Source: facebookresearch/detr, `datasets/transforms.py` and `PostProcess` in
`models/detr.py`; sizes are those of transformers' `DetrImageProcessor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from underhood.detr.boxes import cxcywh_to_xyxy
from underhood.detr.matcher import Predictions
from underhood.detr.model import Detr

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resized_size(
    height: int, width: int, shortest: int = 800, longest: int = 1333
) -> tuple[int, int]:
    """The shorter side becomes `shortest`, unless the longer would pass `longest`.

    Where the longer side decides, the authors' code takes the ratio from the rounded
    shorter side, and its longer side may differ from this one by some pixels.

    Returns:
        Height and width, at least 1. The ratio is kept; the longer side is rounded
        down.

    Raises:
        ValueError: for an image without pixels.
    """
    if min(height, width) < 1:
        raise ValueError(f"the image must have pixels, got {height} x {width}")
    low, high = min(height, width), max(height, width)
    exact = float(shortest)
    if high / low * shortest > longest:
        exact = longest * low / high
    target = round(exact)
    if low == target:
        return height, width
    target = max(target, 1)
    if width < height:
        return int(exact * height / width), target
    return target, int(exact * width / height)


def preprocess(
    images: list[Image.Image], shortest: int = 800, longest: int = 1333
) -> tuple[Tensor, Tensor]:
    """Resize, scale to 0 ... 1, normalize by ImageNet's colors, pad to one size.

    Returns:
        pixel_values (batch, 3, height, width), zero on padding, which lies to the
        right and below; pixel_mask (batch, height, width), True on the image.
    """
    if not images:
        raise ValueError("images must not be empty")
    arrays = []
    for image in images:
        height, width = resized_size(image.height, image.width, shortest, longest)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        arrays.append((pixels - mean[:, None, None]) / std[:, None, None])
    height = max(array.shape[1] for array in arrays)
    width = max(array.shape[2] for array in arrays)
    pixel_values = torch.zeros(len(arrays), 3, height, width)
    pixel_mask = torch.zeros(len(arrays), height, width, dtype=torch.bool)
    for index, array in enumerate(arrays):
        pixel_values[index, :, : array.shape[1], : array.shape[2]] = array
        pixel_mask[index, : array.shape[1], : array.shape[2]] = True
    return pixel_values, pixel_mask


@dataclass(frozen=True)
class Detection:
    """
    Attributes:
        label: Class index. name: Its name, if the model knows one.
        score: Confidence, 0 ... 1.
        box: Corners (x0, y0, x1, y1) in pixels of the original image.
        query: Which query found it.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    query: int


def postprocess(
    outputs: Predictions,
    sizes: list[tuple[int, int]],
    threshold: float = 0.5,
    names: dict[int, str] | None = None,
) -> list[list[Detection]]:
    """Per image the queries that see something, the surest first.

    Args:
        sizes: Height and width of each original image, before padding.
        threshold: What is less sure is left out.
    """
    if len(sizes) != len(outputs.logits):
        raise ValueError(f"sizes must be {len(outputs.logits)}, got {len(sizes)}")
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)
    corners = cxcywh_to_xyxy(outputs.pred_boxes)
    found = []
    for index, (height, width) in enumerate(sizes):
        boxes = corners[index] * corners.new_tensor([width, height, width, height])
        rows = zip(labels[index].tolist(), scores[index].tolist(), boxes.tolist(),
                   range(len(boxes)), strict=True)  # fmt: skip
        kept = [
            Detection(label, (names or {}).get(label, str(label)), score, tuple(box), i)
            for label, score, box, i in rows
            if score > threshold
        ]
        found.append(sorted(kept, key=lambda each: -each.score))
    return found


@torch.no_grad()
def detect(
    model: Detr,
    image: Image.Image,
    threshold: float = 0.9,
    shortest: int = 800,
    longest: int = 1333,
) -> list[Detection]:
    """What a published model sees in a picture.

    Args:
        model: As from `Detr.from_pretrained`, three channels in.
        threshold: 0.9 is what the authors' notebook shows.
        shortest, longest: Sides after resizing, see `resized_size`.
    """
    model.eval()
    pixel_values, pixel_mask = preprocess([image], shortest, longest)
    device = next(model.parameters()).device
    outputs = model(pixel_values.to(device), pixel_mask.to(device))
    size = (image.height, image.width)
    return postprocess(outputs, [size], threshold, model.config.id2label)[0]
