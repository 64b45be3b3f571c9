"""FlashAttention in plain PyTorch: never a whole row of scores at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from underhood.flash_attention.partial import (
    empty_partial,
    finish,
    merge,
    partial_attention,
)
from underhood.flash_attention.reference import visible_keys, working_dtype


def blocks(length: int, size: int) -> Iterator[slice]:
    """Cut range(length) into slices of `size`; the last may be shorter."""
    if size < 1:
        raise ValueError(f"size: got {size}; a block has at least one row")
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def tile_kind(rows: slice, columns: slice, offset: int) -> str:
    """What a causal tile of scores needs: "full", "masked" or "skipped".

    Query i sees key j where j <= i + offset. A tile is skipped when its last
    row does not see its first column, full when its first row sees its last.
    """
    if columns.start > rows.stop - 1 + offset:
        return "skipped"
    if columns.stop - 1 <= rows.start + offset:
        return "full"
    return "masked"


def tiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    softmax_scale: float,
    block_q: int = 64,
    block_k: int = 64,
) -> tuple[Tensor, Tensor]:
    """Exact attention with no more than (block_q, block_k) scores at a time.

    Args:
        query: (batch, heads, query_length, head_dim).
        key, value: (batch, heads, key_length, head_dim).
        block_q, block_k: the tile size, any number from 1.

    Returns:
        As `reference_attention`.
    """
    wide = working_dtype(query.dtype)
    q, k, v = query.to(wide), key.to(wide), value.to(wide)
    query_length, key_length = q.shape[2], k.shape[2]
    offset = key_length - query_length
    outputs, lses = [], []
    for rows in blocks(query_length, block_q):
        tile = q[:, :, rows] * softmax_scale  # (b, h, block_q, head_dim)
        seen = empty_partial(tile, v)
        for columns in blocks(key_length, block_k):
            kind = tile_kind(rows, columns, offset) if causal else "full"
            if kind == "skipped":
                break  # and so are all tiles to its right
            scores = tile @ k[:, :, columns].mT  # (b, h, block_q, block_k)
            if kind == "masked":
                visible = visible_keys(rows, columns, offset, q.device)
                scores = scores.masked_fill(~visible, -torch.inf)
            seen = merge(seen, partial_attention(scores, v[:, :, columns]))
        output, lse = finish(seen)
        outputs.append(output)
        lses.append(lse)
    return torch.cat(outputs, dim=2).to(query.dtype), torch.cat(lses, dim=2)
