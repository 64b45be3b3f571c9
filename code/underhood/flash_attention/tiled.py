"""FlashAttention in plain PyTorch: never a whole row of scores at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from underhood.flash_attention.partial import (
    empty_partial,
    finish,
    merge,
    partial_attention,
)
from underhood.flash_attention.reference import NO_WINDOW, shape_scores, widen


def blocks(length: int, size: int) -> Iterator[slice]:
    """Cut range(length) into slices of `size`; the last may be shorter."""
    if size < 1:
        raise ValueError(f"size: got {size}; a block has at least one row")
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def tile_kind(
    rows: slice, columns: slice, offset: int, window: tuple[int, int] = (-1, 0)
) -> str:
    """What a tile of scores needs: "full", "masked" or "skipped"; default: causal.

    Query i stands at i + offset and sees `window[0]` keys before that place and
    `window[1]` after it; -1 is no limit. A tile is skipped when no row sees any of
    its columns, and full when all rows see all of them.
    """
    left, right = window
    first, last = rows.start + offset, rows.stop - 1 + offset
    if right >= 0 and columns.start > last + right:
        return "skipped"
    if left >= 0 and columns.stop - 1 < first - left:
        return "skipped"
    sees_end = right < 0 or columns.stop - 1 <= first + right
    sees_start = left < 0 or columns.start >= last - left
    return "full" if sees_end and sees_start else "masked"


def tiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    softmax_scale: float,
    window: tuple[int, int] = NO_WINDOW,
    alibi_slopes: Tensor | None = None,
    softcap: float = 0.0,
    block_q: int = 64,
    block_k: int = 64,
) -> tuple[Tensor, Tensor]:
    """Exact attention with no more than (block_q, block_k) scores at a time.

    Args:
        query: (batch, heads, query_length, head_dim).
        key, value: (batch, key_heads, key_length, head_dim).
        block_q, block_k: the tile size, any number from 1.

    Returns:
        As `reference_attention`.
    """
    q, k, v = widen(query, key, value)
    offset = k.shape[2] - q.shape[2]
    band = (window[0], 0) if causal else window
    outputs, lses = [], []
    for rows in blocks(q.shape[2], block_q):
        tile = q[:, :, rows] * softmax_scale  # (b, h, block_q, head_dim)
        seen = empty_partial(tile, v)
        for columns in blocks(k.shape[2], block_k):
            kind = tile_kind(rows, columns, offset, band)
            if kind == "skipped":
                continue
            scores = tile @ k[:, :, columns].mT  # (b, h, block_q, block_k)
            scores = shape_scores(
                scores, rows, columns, offset,
                NO_WINDOW if kind == "full" else band, alibi_slopes, softcap,
            )  # fmt: skip
            seen = merge(seen, partial_attention(scores, v[:, :, columns]))
        output, lse = finish(seen)
        outputs.append(output)
        lses.append(lse)
    return torch.cat(outputs, dim=2).to(query.dtype), torch.cat(lses, dim=2)


def tiled_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    d_output: Tensor,
    d_lse: Tensor,
    *,
    causal: bool,
    softmax_scale: float,
    window: tuple[int, int] = NO_WINDOW,
    alibi_slopes: Tensor | None = None,
    softcap: float = 0.0,
    block_q: int = 64,
    block_k: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; every tile of weights computed again.

    Args:
        output, lse: what `tiled_attention` gave.
        d_output, d_lse: the gradients of those.

    Source: Dao 2023 (arXiv:2307.08691), Algorithm 2.
    """
    q, k, v = widen(query, key, value)
    offset = k.shape[2] - q.shape[2]
    band = (window[0], 0) if causal else window
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    # A row that sees nothing has the weights exp(-inf - -inf): make them 0.
    nothing = lse == -torch.inf
    shift = lse.masked_fill(nothing, torch.inf)[..., None]
    delta = (d_output.to(q) * output.to(q)).sum(dim=-1) - d_lse
    delta = delta.masked_fill(nothing, 0.0)[..., None]
    for rows in blocks(q.shape[2], block_q):
        tile, do = q[:, :, rows] * softmax_scale, d_output[:, :, rows].to(q)
        for columns in blocks(k.shape[2], block_k):
            kind = tile_kind(rows, columns, offset, band)
            if kind == "skipped":
                continue
            raw = tile @ k[:, :, columns].mT
            scores = shape_scores(
                raw, rows, columns, offset,
                NO_WINDOW if kind == "full" else band, alibi_slopes, softcap,
            )  # fmt: skip
            weights = (scores - shift[:, :, rows]).exp()
            d_weights = do @ v[:, :, columns].mT
            d_scores = weights * (d_weights - delta[:, :, rows])
            if softcap:
                d_scores = d_scores * (1 - torch.tanh(raw / softcap) ** 2)
            dv[:, :, columns] += weights.mT @ do
            dk[:, :, columns] += d_scores.mT @ tile  # tile holds the scale
            dq[:, :, rows] += d_scores @ k[:, :, columns] * softmax_scale
    groups = (key.shape[1], -1)  # query heads that share a key head add up
    dk, dv = (each.unflatten(1, groups).sum(dim=2) for each in (dk, dv))
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


class TiledAttention(torch.autograd.Function):
    """`tiled_attention`, with `tiled_gradients`: it keeps O(N), not O(N^2)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        output, lse = tiled_attention(query, key, value, **options)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.options = options
        return output, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_lse: Tensor) -> Any:
        query, key, value, output, lse = ctx.saved_tensors
        found = tiled_gradients(
            query, key, value, output, lse, d_output, d_lse, **ctx.options
        )
        return *found, None
