"""COCO's format, in and out, and COCO's measure: average precision.

Source: https://cocodataset.org/#format-data and #detection-eval; `pycocotools`.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from underhood.detr.boxes import cxcywh_to_xyxy
from underhood.detr.matcher import Predictions, Target


def detections(outputs: Predictions, width: float, height: float) -> list[list[Any]]:
    """Every query as a detection: the best class that is an object, and its box.

    Returns:
        Per image a list of (label, score, [x, y, width, height] in pixels).
    """
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)  # (batch, queries)
    corners = cxcywh_to_xyxy(outputs.pred_boxes)
    corners = corners * corners.new_tensor([width, height, width, height])
    sizes = torch.cat([corners[..., :2], corners[..., 2:] - corners[..., :2]], -1)
    images = zip(labels.tolist(), scores.tolist(), sizes.tolist(), strict=True)
    return [list(zip(*image, strict=True)) for image in images]


def ground_truth(targets: list[Target], width: float, height: float) -> dict[str, Any]:
    """The targets as a COCO dataset; images are numbered from 1."""
    annotations: list[dict[str, Any]] = []
    for image, target in enumerate(targets, start=1):
        labels, boxes = target["class_labels"], target["boxes"]
        corners = cxcywh_to_xyxy(boxes) * boxes.new_tensor([width, height] * 2)
        for label, (x0, y0, x1, y1) in zip(
            labels.tolist(), corners.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image,
                    "category_id": label, "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                }
            )  # fmt: skip
    classes = sorted({each["category_id"] for each in annotations})
    return {
        "images": [
            {"id": i + 1, "width": width, "height": height} for i in range(len(targets))
        ],
        "annotations": annotations,
        "categories": [{"id": each, "name": str(each)} for each in classes],
    }


def average_precision(
    found: list[list[Any]],
    targets: list[Target],
    width: float,
    height: float,
    sizes: tuple[float, float] = (32.0, 96.0),
) -> dict[str, float]:
    """COCO's average precision, by `pycocotools`.

    Args:
        found: Per image (label, score, [x, y, width, height]), see `detections`.
        targets: One per image.
        sizes: Where "small" and "medium" end, as the side of a square in pixels.

    Returns:
        AP over the IoU thresholds 0.5, 0.55, ... 0.95; AP50, AP75; AP_S, AP_M, AP_L.
        -1 where there are no objects of that size.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = ground_truth(targets, width, height)
        truth.createIndex()
        rows = [
            [image, *box, score, label]
            for image, each in enumerate(found, start=1)
            for label, score, box in each
        ]
        if not rows:
            return dict.fromkeys(("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"), 0.0)
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        small, medium = (side**2 for side in sizes)
        limit = 1e10
        evaluation.params.areaRng = [
            [0, limit], [0, small], [small, medium], [medium, limit],
        ]  # fmt: skip
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
    return {n: float(v) for n, v in zip(names, evaluation.stats, strict=False)}
