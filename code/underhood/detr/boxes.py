"""Boxes: two formats, IoU and generalized IoU.

Source: facebookresearch/detr, `util/box_ops.py`; GIoU: Rezatofighi et al., 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _check(boxes: Tensor, name: str) -> None:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{name} must have 4 numbers last, got {tuple(boxes.shape)}")


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) of center, width, height to the two corners (x0, y0, x1, y1)."""
    _check(boxes, "boxes")
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) of two corners to center, width, height."""
    _check(boxes, "boxes")
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + second) / 2, second - first], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """boxes: (..., 4) as corners. Returns (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def check_corners(boxes: Tensor, name: str = "boxes") -> None:
    """Refuse boxes whose second corner lies left of or above the first.

    A box without area is allowed: a fresh model may predict one.

    Raises:
        ValueError: naming the first bad box, also when a number is not finite.
    """
    _check(boxes, name)
    good = (boxes[..., 2:] >= boxes[..., :2]).all(-1) & boxes.isfinite().all(-1)
    if not bool(good.all()):
        index = int((~good).flatten().nonzero()[0])
        bad = [round(x, 4) for x in boxes.reshape(-1, 4)[index].tolist()]
        raise ValueError(
            f"{name} must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, all finite; "
            f"box {index} is {bad}"
        )


def in_single(x: Tensor) -> Tensor:
    """x in float32 at least: in float16 the areas of small boxes underflow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def box_iou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of all pairs.

    Args:
        first: (..., n, 4) as corners; second: (..., m, 4).

    Returns:
        IoU and union, each (..., n, m), float32 at least. Two boxes without area
        have IoU 0.
    """
    first, second = in_single(first), in_single(second)
    a, b = first[..., :, None, :], second[..., None, :, :]
    low, high = torch.max(a, b)[..., :2], torch.min(a, b)[..., 2:]
    inter = (high - low).clamp(min=0).prod(-1)
    union = area(a) + area(b) - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny), union


def generalized_box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the share of the enclosing box that neither covers.

    1 for equal boxes, towards -1 the farther they are apart. Unlike IoU it has a
    gradient when the boxes do not touch. Two boxes without area have no IoU: they
    get 0 if they are equal, -1 if not.

    Args:
        first: (..., n, 4) as corners; second: (..., m, 4).

    Returns:
        (..., n, m), in [-1, 1], float32 at least.

    Raises:
        ValueError: for a box whose corners are swapped, or not finite.
    """
    check_corners(first, "first")
    check_corners(second, "second")
    first, second = in_single(first), in_single(second)
    iou, union = box_iou(first, second)
    a, b = first[..., :, None, :], second[..., None, :, :]
    hull = (torch.max(a, b)[..., 2:] - torch.min(a, b)[..., :2]).prod(-1)
    return iou - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def paired_giou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU of row i with row i only: (n, 4) and (n, 4) as corners to (n,)."""
    return generalized_box_iou(first[:, None], second[:, None])[:, 0, 0]
