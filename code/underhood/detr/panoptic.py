"""A mask per query: DETR for panoptic segmentation.

Source: Carion et al., 2020, section 4.4; facebookresearch/detr,
`models/segmentation.py`. The names of the parameters are those of the folders
published on Hugging Face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.detr.config import DetrConfig
from underhood.detr.files import load_weights, read_config
from underhood.detr.model import Detr, DetrOutput, shrink_mask


class MaskAttention(nn.Module):
    """Where each query looks: attention weights without values.

    One softmax over all heads and cells together, not one per head.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(d_model, d_model)
        self.k_linear = nn.Linear(d_model, d_model)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            queries: (batch, queries, d_model). memory: (batch, cells, d_model).
            mask: (batch, height, width), True where the image is.

        Returns:
            (batch, queries, heads, height, width).
        """
        q = self.q_linear(queries).unflatten(-1, (self.num_heads, -1))
        k = self.k_linear(memory).unflatten(-1, (self.num_heads, -1))
        scores = torch.einsum("bqhd,bchd->bqhc", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~mask.flatten(1)[:, None, None], -torch.inf)
        weights = scores.flatten(2).softmax(-1)  # (batch, queries, heads * cells)
        return weights.view(*scores.shape[:3], *mask.shape[1:])


class MaskHead(nn.Module):
    """From attention maps up to masks: three times the size doubles, as in an FPN."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        d, first = config.d_model, config.d_model + config.num_heads
        channels = [first, d // 2, d // 4, d // 8, d // 16]
        self.lay1 = nn.Conv2d(first, first, 3, padding=1)
        self.gn1 = nn.GroupNorm(8, first)
        for index in range(2, 6):
            before, after = channels[index - 2 : index]
            conv = nn.Conv2d(before, after, 3, padding=1)
            self.add_module(f"lay{index}", conv)
            self.add_module(f"gn{index}", nn.GroupNorm(min(8, after), after))
        self.out_lay = nn.Conv2d(channels[-1], 1, 3, padding=1)
        for index, width in enumerate(config.widths[-2::-1][:3], start=1):
            adapter = nn.Conv2d(width, channels[index], 1)
            self.add_module(f"adapter{index}", adapter)

    def _block(self, index: int, x: Tensor) -> Tensor:
        conv, norm = getattr(self, f"lay{index}"), getattr(self, f"gn{index}")
        return F.relu(norm(conv(x)))

    def forward(self, projected: Tensor, maps: Tensor, finer: list[Tensor]) -> Tensor:
        """
        Args:
            projected: (batch, d_model, height, width), the last features.
            maps: (batch, queries, heads, height, width).
            finer: Three earlier feature maps, from coarse to fine.

        Returns:
            (batch, queries, 8 · height, 8 · width), logits.
        """
        batch, queries = maps.shape[:2]
        x = projected[:, None].expand(-1, queries, -1, -1, -1)
        x = torch.cat([x, maps], dim=2).flatten(0, 1)  # (batch * queries, ...)
        x = self._block(2, self._block(1, x))
        for index, features in enumerate(finer, start=1):
            lateral = getattr(self, f"adapter{index}")(features)
            lateral = lateral.repeat_interleave(queries, dim=0)
            x = lateral + F.interpolate(x, size=lateral.shape[-2:])
            x = self._block(index + 2, x)
        return self.out_lay(x).view(batch, queries, *x.shape[-2:])


@dataclass
class PanopticOutput(DetrOutput):
    """
    Attributes:
        pred_masks: (batch, queries, height / 4, width / 4), logits.
    """

    pred_masks: Tensor | None = None


class DetrPanoptic(nn.Module):
    """DETR, and a mask for each of its queries."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        if len(config.widths) < 4:
            raise ValueError(
                f"widths must have 4 stages for the mask head, got {config.widths}"
            )
        self.config = config
        self.detr = Detr(config)
        self.mask_head = MaskHead(config)
        self.bbox_attention = MaskAttention(config.d_model, config.num_heads)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> DetrPanoptic:
        """A published `detr-resnet-50-panoptic` (`-101`, `-dc5`); as of `Detr`."""
        model = cls(read_config(Path(directory)))
        load_weights(model, Path(directory))
        return model.eval()

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None
    ) -> PanopticOutput:
        """Arguments as of `Detr`."""
        detr = self.detr
        maps = detr.features(pixel_values)
        mask = shrink_mask(pixel_mask, pixel_values, maps[-1])
        memory, positions = detr.model.encode(maps[-1], mask, None)
        hidden = detr.model.decode(memory, positions, mask)
        size = (maps[-1].shape[2], maps[-1].shape[3])
        output = detr.heads(hidden, memory, size)
        where = self.bbox_attention(hidden[-1], memory, mask)
        projected = detr.model.input_projection(maps[-1])
        masks = self.mask_head(projected, where, maps[-2::-1][:3])
        return PanopticOutput(**vars(output), pred_masks=masks)


def dice_loss(logits: Tensor, masks: Tensor, objects: int) -> Tensor:
    """1 - 2·|A∩B| / (|A| + |B|), smoothed by 1: large and small masks count alike.

    Args:
        logits, masks: (n, pixels). objects: What the sum is divided by.
    """
    share = logits.sigmoid()
    overlap = 2 * (share * masks).sum(1)
    return (1 - (overlap + 1) / (share.sum(1) + masks.sum(1) + 1)).sum() / objects


def sigmoid_focal_loss(
    logits: Tensor, masks: Tensor, objects: int, alpha: float = 0.25, gamma: float = 2
) -> Tensor:
    """Cross-entropy per pixel in which what is easy hardly counts (Lin et al., 2017).

    Args:
        logits, masks: (n, pixels). objects: What the sum is divided by.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    share = logits.sigmoid()
    wrong = share * (1 - masks) + (1 - share) * masks
    balance = alpha * masks + (1 - alpha) * (1 - masks)
    return (balance * wrong**gamma * entropy).mean(1).sum() / objects


@dataclass
class Segment:
    """One area of the panoptic image."""

    id: int
    label: int
    score: float


def merge_masks(
    logits: Tensor,
    pred_masks: Tensor,
    size: tuple[int, int],
    threshold: float = 0.85,
    overlap: float = 0.8,
    stuff: frozenset[int] = frozenset(),
) -> tuple[Tensor, list[Segment]]:
    """Let the queries compete for each pixel: no two segments overlap.

    Args:
        logits: (queries, classes + 1). pred_masks: (queries, h, w), of one image.
        size: Height and width of the result.
        threshold: Queries with less confidence do not compete.
        overlap: A query that wins no more than this share of its own mask is left
            out: it is mostly hidden.
        stuff: Labels without instances (sky, grass); their segments become one.

    Returns:
        (height, width) of segment ids, 0 where there is none; and the segments.
    """
    scores, labels = logits.softmax(-1).max(-1)
    keep = (labels != logits.shape[-1] - 1) & (scores > threshold)
    scores, labels = scores[keep], labels[keep]
    image = torch.zeros(size, dtype=torch.int32, device=logits.device)
    if not len(scores):
        return image, []
    share = pred_masks[keep].sigmoid()[None]
    share = F.interpolate(share, size=size, mode="bilinear")[0]
    share = share * scores[:, None, None]
    winner = share.argmax(0)
    segments: list[Segment] = []
    for index, (score, label) in enumerate(
        zip(scores.tolist(), labels.tolist(), strict=True)
    ):
        won, own = winner == index, share[index] >= 0.5
        hidden = won.sum() <= overlap * own.sum()
        if hidden or not won.any() or not own.any():
            continue
        same = [s for s in segments if label in stuff and s.label == label]
        if not same:
            segments.append(Segment(len(segments) + 1, label, score))
        image[won] = (same or segments[-1:])[0].id
    return image, segments
