"""What the article says of DETR, measured on a model: duplicates, depth, queries."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from underhood.detr.boxes import box_iou, cxcywh_to_xyxy
from underhood.detr.coco import average_precision, detections
from underhood.detr.matcher import Predictions, Target, hungarian_match
from underhood.detr.model import Detr, DetrOutput
from underhood.detr.scenes import SIZE, Scenes
from underhood.detr.transformer import DecoderLayer

Found = list[list[Any]]
LIMITS = (16.0, 22.0)  # pixels: where "small" and "medium" digits end


def look(model: Detr, scenes: Scenes, with_attentions: bool = False) -> DetrOutput:
    """The model's output for scenes, without gradients."""
    model.eval()
    with torch.no_grad():
        return model(scenes.pixel_values(), with_attentions=with_attentions)


def score(outputs: Predictions, targets: list[Target]) -> dict[str, float]:
    """Average precision of outputs on scenes; sizes end at `LIMITS`."""
    return score_found(detections(outputs, SIZE, SIZE), targets)


def score_found(found: Found, targets: list[Target]) -> dict[str, float]:
    """Average precision of detections (label, score, box)."""
    return average_precision(found, targets, SIZE, SIZE, LIMITS)


def suppress(found: list[Any], limit: float = 0.7) -> list[Any]:
    """Non-maximum suppression: of detections that overlap, the surest stays.

    Args:
        found: (label, score, [x, y, width, height]) of one image.
        limit: Boxes of one label with a greater IoU say the same.
    """
    kept: list[Any] = []
    for each in sorted(found, key=lambda row: -row[1]):
        rivals = [other for other in kept if other[0] == each[0]]
        if not rivals or _overlap(each, rivals).max() <= limit:
            kept.append(each)
    return kept


def duplicates(found: Found, sure: float = 0.5, limit: float = 0.7) -> float:
    """Detections per image that say again what a surer one says."""
    confident = [[row for row in image if row[1] > sure] for image in found]
    doubled = sum(len(image) - len(suppress(image, limit)) for image in confident)
    return doubled / len(found)


def _overlap(one: Any, others: list[Any]) -> Tensor:
    corners = torch.tensor([one[2], *(other[2] for other in others)])
    corners[:, 2:] += corners[:, :2]
    return box_iou(corners[:1], corners[1:])[0]


def silence_queries(model: Detr) -> Detr:
    """A copy whose queries cannot hear each other: self-attention adds nothing.

    The first layer stays: its self-attention adds a constant, the same for all.
    """
    deaf = copy.deepcopy(model)
    for layer in deaf.model.decoder.layers[1:]:
        assert isinstance(layer, DecoderLayer)
        layer.self_attn.out_proj.weight.data.zero_()
        layer.self_attn.out_proj.bias.data.zero_()
    return deaf


@dataclass
class Specialty:
    """Where the confident boxes of one query lie.

    Attributes:
        centers: (n, 2), shares of the image. labels: (n,). scores: (n,).
    """

    centers: Tensor
    labels: Tensor
    scores: Tensor

    def spread(self) -> float:
        """Root mean square distance from their mean."""
        return float(
            (self.centers - self.centers.mean(0)).square().sum(1).mean().sqrt()
        )


def specialties(outputs: Predictions, sure: float = 0.5) -> list[Specialty]:
    """For each query where it finds things, and what."""
    scores, labels = outputs.logits.softmax(-1)[..., :-1].max(-1)
    result = []
    for query in range(scores.shape[1]):
        chosen = scores[:, query] > sure
        result.append(
            Specialty(
                outputs.pred_boxes[chosen, query, :2],
                labels[chosen, query],
                scores[chosen, query],
            )
        )
    return result


def matched_queries(outputs: Predictions, targets: list[Target]) -> list[list[int]]:
    """Per image the query of each object."""
    answers = []
    for queries, objects in hungarian_match(outputs, targets):
        order = objects.argsort()
        answers.append(queries[order].tolist())
    return answers


def matched_iou(outputs: Predictions, targets: list[Target]) -> float:
    """Mean IoU of the matched pairs of all images."""
    total, count = 0.0, 0
    for index, (queries, objects) in enumerate(hungarian_match(outputs, targets)):
        got = cxcywh_to_xyxy(outputs.pred_boxes[index, queries])
        want = cxcywh_to_xyxy(targets[index]["boxes"][objects])
        total += float(box_iou(got, want)[0].diagonal().sum())
        count += len(objects)
    return total / max(count, 1)
