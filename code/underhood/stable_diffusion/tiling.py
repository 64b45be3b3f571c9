"""A large picture in tiles: less memory, and seams that are blended away.

The result differs from that of the whole picture. A tile does not see past its edge,
and its `GroupNorm`s average over the tile only. As `AutoencoderKL.tiled_decode` of
diffusers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OVERLAP = 0.25  # of a tile


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, out_tile: int
) -> Tensor:
    """`function`, tile by tile.

    Args:
        function: (batch, channels, tile, tile) -> (batch, c, out_tile, out_tile); less
            for tiles at the right and the bottom edge.
        x: (batch, channels, h, w).
        tile, out_tile: edge of a tile, before and after `function`.
    """
    stride, blend = int(tile * (1 - OVERLAP)), int(out_tile * OVERLAP)
    keep = out_tile - blend
    rows = [
        [
            function(x[:, :, top : top + tile, left : left + tile])
            for left in range(0, x.shape[3], stride)
        ]
        for top in range(0, x.shape[2], stride)
    ]
    joined = []
    for i, row in enumerate(rows):
        for j, each in enumerate(row):
            if i > 0:
                each = blend_edge(rows[i - 1][j], each, blend, dim=2)
            if j > 0:
                each = blend_edge(row[j - 1], each, blend, dim=3)
            row[j] = each
        joined.append(torch.cat([each[:, :, :keep, :keep] for each in row], dim=3))
    return torch.cat(joined, dim=2)


def blend_edge(before: Tensor, after: Tensor, width: int, dim: int) -> Tensor:
    """`after`, whose first rows (or columns) come gradually out of `before`'s last."""
    width = min(before.shape[dim], after.shape[dim], width)
    shape = [1] * after.ndim
    shape[dim] = width
    share = (torch.arange(width, device=after.device) / width).view(shape)
    old = before.narrow(dim, before.shape[dim] - width, width)
    new = after.narrow(dim, 0, width)
    mixed = old * (1 - share) + new * share
    rest = after.narrow(dim, width, after.shape[dim] - width)
    return torch.cat([mixed.to(after.dtype), rest], dim=dim)
