"""Which query answers for which object: a minimum-cost one-to-one assignment.

Source: Carion et al., 2020, equation 1; facebookresearch/detr, `models/matcher.py`.
"""

from __future__ import annotations

from typing import Protocol, TypedDict

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from underhood.detr.boxes import cxcywh_to_xyxy, generalized_box_iou


class Target(TypedDict):
    """The objects of one image.

    class_labels: (objects,), int64. boxes: (objects, 4), center and size in shares
    of the image, as the model predicts them.
    """

    class_labels: Tensor
    boxes: Tensor


class Predictions(Protocol):
    """What is matched: logits (batch, queries, classes + 1) and pred_boxes."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def pred_boxes(self) -> Tensor: ...


Match = tuple[Tensor, Tensor]


def matching_cost(
    logits: Tensor,
    pred_boxes: Tensor,
    class_labels: Tensor,
    boxes: Tensor,
    cost_class: float = 1.0,
    cost_bbox: float = 5.0,
    cost_giou: float = 2.0,
) -> Tensor:
    """What it costs to let query i answer for object j.

    The class part is minus the probability, not minus its logarithm: then it
    is of the size of the other two, and one hopeless class cannot outweigh a
    perfect box.

    Args:
        logits: (batch, queries, classes + 1).
        pred_boxes: (batch, queries, 4), center and size.
        class_labels: (batch, objects).
        boxes: (batch, objects, 4), center and size.

    Returns:
        (batch, queries, objects).
    """
    index = class_labels[:, None].expand(-1, logits.shape[1], -1)
    probability = logits.softmax(-1).gather(-1, index)
    distance = (pred_boxes[:, :, None] - boxes[:, None]).abs().sum(-1)
    corners = cxcywh_to_xyxy(pred_boxes), cxcywh_to_xyxy(boxes)
    giou = generalized_box_iou(*corners)
    return -cost_class * probability + cost_bbox * distance - cost_giou * giou


@torch.no_grad()
def hungarian_match(
    outputs: Predictions,
    targets: list[Target],
    cost_class: float = 1,
    cost_bbox: float = 5,
    cost_giou: float = 2,
) -> list[Match]:
    """The cheapest one-to-one assignment, image by image.

    Args:
        outputs: logits (batch, queries, classes + 1), pred_boxes (batch, queries, 4).
        targets: One per image, see `Target`.

    Returns:
        Per image the matched queries, ascending, and their objects, each
        (min(queries, objects),).

    Raises:
        ValueError: for costs that are all zero, outputs that are not finite, other
            numbers of images, labels that are not int64 or out of range, boxes
            without area or outside 0 to 1.
    """
    if cost_class == cost_bbox == cost_giou == 0:
        raise ValueError("cost_class, cost_bbox and cost_giou must not all be 0")
    finite = {
        "logits": outputs.logits < torch.inf,  # -inf may rule out a class
        "pred_boxes": outputs.pred_boxes.isfinite(),
    }
    for name, good in finite.items():
        if not bool(good.all()):
            raise ValueError(f"outputs: {name} must be finite; did training diverge?")
    batch, _, classes = outputs.logits.shape
    check_targets(targets, batch, classes)
    counts = [len(target["class_labels"]) for target in targets]
    # One batch of costs for all images; what is padding is cut off below.
    labels = pad_sequence([t["class_labels"] for t in targets], batch_first=True)
    boxes = pad_sequence([t["boxes"].float() for t in targets], batch_first=True)
    cost = matching_cost(
        outputs.logits.float(), outputs.pred_boxes.float(), labels, boxes,
        cost_class, cost_bbox, cost_giou,
    )  # fmt: skip
    solved = [
        linear_sum_assignment(each[:, :count])
        for each, count in zip(cost.cpu().numpy(), counts, strict=True)
    ]
    return [(torch.as_tensor(i), torch.as_tensor(j)) for i, j in solved]


def check_targets(targets: list[Target], batch: int, classes: int) -> None:
    """Refuse what would be matched or learned without a sign of trouble.

    Args:
        classes: Outputs of the class head, "no object" included.
    """
    if len(targets) != batch:
        raise ValueError(f"targets must be {batch}, one per image, got {len(targets)}")
    for index, target in enumerate(targets):
        if target["boxes"].shape != (len(target["class_labels"]), 4):
            raise ValueError(
                f"targets[{index}]: boxes must be ({len(target['class_labels'])}, 4) "
                f"as there are class_labels, got {tuple(target['boxes'].shape)}"
            )
        if target["class_labels"].dtype != torch.int64:
            raise ValueError(
                f"targets[{index}]: class_labels must be int64, also where there are "
                f"none, got {target['class_labels'].dtype}"
            )
    labels = torch.cat([target["class_labels"] for target in targets])
    boxes = torch.cat([target["boxes"] for target in targets])
    known = (labels >= 0) & (labels < classes - 1)
    good = (boxes[:, 2:] > 0).all(-1) & ((boxes >= 0) & (boxes <= 1)).all(-1)
    if bool((known & good).all()):
        return
    bad = int((~(known & good)).nonzero()[0])
    owner = [i for i, t in enumerate(targets) for _ in t["class_labels"]][bad]
    if not bool(known[bad]):
        raise ValueError(
            f"targets[{owner}]: class_labels must lie in 0 ... {classes - 2} "
            f'({classes - 1} is "no object"), got {int(labels[bad])}'
        )
    raise ValueError(
        f"targets[{owner}]: boxes must be center and size in shares of the image, "
        f"with an area, got {boxes[bad].tolist()}"
    )
