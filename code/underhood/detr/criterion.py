"""The loss of a set: match first, then compare pair by pair.

Source: Carion et al., 2020, section 3.1; facebookresearch/detr, `SetCriterion` in
`models/detr.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.detr.boxes import cxcywh_to_xyxy, in_single, paired_giou
from underhood.detr.matcher import Match, Predictions, Target, hungarian_match
from underhood.detr.model import DetrOutput

WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


class SetCriterion(nn.Module):
    """Cross-entropy over all queries, L1 and GIoU over the matched ones.

    Args:
        num_labels: Classes without "no object".
        no_object_weight: Most queries are "no object"; each counts this much.
    """

    class_weight: Tensor

    def __init__(self, num_labels: int, no_object_weight: float = 0.1) -> None:
        super().__init__()
        self.num_labels = num_labels
        weight = torch.ones(num_labels + 1)
        weight[num_labels] = no_object_weight
        self.register_buffer("class_weight", weight)

    def forward(self, output: DetrOutput, targets: list[Target]) -> dict[str, Tensor]:
        """All losses by name; those of earlier decoder layers end in `_0`, `_1`, ...

        Each layer is matched anew. `cardinality_error` is for the log only: it has
        no gradient.
        """
        losses = self.one_layer(output, targets)
        for index, earlier in enumerate(output.auxiliary):
            part = self.one_layer(earlier, targets)
            losses |= {
                f"{name}_{index}": value
                for name, value in part.items()
                if name in WEIGHTS
            }
        return losses

    def one_layer(
        self,
        output: Predictions,
        targets: list[Target],
        matches: list[Match] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of one layer; with given matches, as some training tricks do.

        Raises:
            ValueError: for another number of classes; as of `hungarian_match`.
        """
        if output.logits.shape[-1] != self.num_labels + 1:
            raise ValueError(
                f"logits must have num_labels + 1 = {self.num_labels + 1} classes "
                f"last, got {tuple(output.logits.shape)}"
            )
        matches = hungarian_match(output, targets) if matches is None else matches
        return {
            "loss_ce": self.loss_labels(output, targets, matches),
            **self.loss_boxes(output, targets, matches),
            "cardinality_error": self.cardinality_error(output, targets),
        }

    def loss_labels(
        self, output: Predictions, targets: list[Target], matches: list[Match]
    ) -> Tensor:
        """Weighted cross-entropy; the unmatched must say "no object"."""
        image, query = _image_and_query(matches)
        wanted = output.logits.new_full(
            output.logits.shape[:2], self.num_labels, dtype=torch.long
        )
        wanted[image, query] = _matched(targets, matches, "class_labels")
        logits = in_single(output.logits)
        return F.cross_entropy(logits.mT, wanted, self.class_weight.to(logits.dtype))

    def loss_boxes(
        self, output: Predictions, targets: list[Target], matches: list[Match]
    ) -> dict[str, Tensor]:
        """L1 and 1 - GIoU of the matched pairs, per object of the batch."""
        predicted = in_single(output.pred_boxes[_image_and_query(matches)])
        wanted = in_single(_matched(targets, matches, "boxes"))
        objects = max(sum(len(t["class_labels"]) for t in targets), 1)
        giou = paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return {
            "loss_bbox": (predicted - wanted).abs().sum() / objects,
            "loss_giou": (1 - giou).sum() / objects,
        }

    @torch.no_grad()
    def cardinality_error(self, output: Predictions, targets: list[Target]) -> Tensor:
        """By how many the number of predicted objects is off, on average."""
        found = (output.logits.argmax(-1) != self.num_labels).sum(1)
        counts = [len(target["class_labels"]) for target in targets]
        return (found - found.new_tensor(counts)).abs().float().mean()


def _image_and_query(matches: list[Match]) -> tuple[Tensor, Tensor]:
    """Indices of all matched queries of the batch: two of (matched,)."""
    counts = torch.tensor([len(query) for query, _ in matches])
    image = torch.arange(len(matches)).repeat_interleave(counts)
    return image, torch.cat([query for query, _ in matches])


def _matched(targets: list[Target], matches: list[Match], key: str) -> Tensor:
    """Labels or boxes of all matched objects, in the order of the queries."""
    pairs = zip(targets, matches, strict=True)
    return torch.cat([target[key][index] for target, (_, index) in pairs])  # type: ignore[literal-required]


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum over all decoder layers: 1 · CE + 5 · L1 + 2 · GIoU."""
    weighted = [
        WEIGHTS["_".join(name.split("_")[:2])] * value
        for name, value in losses.items()
        if name.startswith("loss_")
    ]
    return torch.stack(weighted).sum() if weighted else torch.zeros(())
