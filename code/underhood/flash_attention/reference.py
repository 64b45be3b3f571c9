"""The executable definition of attention: the whole score matrix at once."""

from __future__ import annotations

import torch
from torch import Tensor

NO_WINDOW = (-1, -1)


def visible_keys(
    rows: slice,
    columns: slice,
    offset: int,
    device: torch.device | None = None,
    window: tuple[int, int] = (-1, 0),
) -> Tensor:
    """Which keys of `columns` the queries `rows` see; by default causal.

    Query i stands at key i + offset, and sees `window[0]` keys before that one and
    `window[1]` after it; -1 is no limit. With the offset key_length - query_length
    the last query stands at the last key (aligned bottom-right, as a KV cache needs).

    Returns:
        (rows, columns), bool, True = visible.
    """
    left, right = window
    position = torch.arange(rows.start, rows.stop, device=device)[:, None] + offset
    column = torch.arange(columns.start, columns.stop, device=device)
    visible = torch.ones(len(position), len(column), dtype=torch.bool, device=device)
    if left >= 0:
        visible &= column >= position - left
    if right >= 0:
        visible &= column <= position + right
    return visible


def shape_scores(
    scores: Tensor,
    rows: slice,
    columns: slice,
    offset: int,
    window: tuple[int, int],
    alibi_slopes: Tensor | None,
    softcap: float,
) -> Tensor:
    """Soft-cap, ALiBi and mask, in this order, of (a tile of) scaled scores.

    Args:
        scores: (batch, heads, rows, columns).
        alibi_slopes: (batch, heads) or None.
        softcap: 0 is none.

    Source: Press et al. 2022 (arXiv:2108.12409), with the distance for both sides as
    in flash-attn; Gemma 2 (arXiv:2408.00118) for the soft-cap.
    """
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        position = torch.arange(rows.start, rows.stop, device=scores.device) + offset
        column = torch.arange(columns.start, columns.stop, device=scores.device)
        distance = (position[:, None] - column).abs()
        scores = scores - alibi_slopes[:, :, None, None].to(scores) * distance
    if window != NO_WINDOW:
        visible = visible_keys(rows, columns, offset, scores.device, window)
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for the half precisions."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def widen(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All in the working dtype, and a key head for every query head."""
    wide, group = working_dtype(query.dtype), query.shape[1] // key.shape[1]
    k, v = (each.to(wide).repeat_interleave(group, dim=1) for each in (key, value))
    return query.to(wide), k, v


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    softmax_scale: float,
    window: tuple[int, int] = NO_WINDOW,
    alibi_slopes: Tensor | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """softmax(query key^T * softmax_scale) value, by that formula.

    Args:
        query: (batch, heads, query_length, head_dim).
        key, value: (batch, key_heads, key_length, head_dim).
        alibi_slopes: (batch, heads).

    Returns:
        The output, as `query`, and the logsumexp of each row of scores,
        (batch, heads, query_length).
    """
    q, k, v = widen(query, key, value)
    rows, columns = slice(0, q.shape[2]), slice(0, k.shape[2])
    band = (window[0], 0) if causal else window
    scores = shape_scores(  # (batch, heads, query_length, key_length)
        q @ k.mT * softmax_scale,
        rows, columns, columns.stop - rows.stop, band, alibi_slopes, softcap,
    )  # fmt: skip
    lse = scores.logsumexp(dim=-1)
    # Not exp(scores - lse): at scores of 1e4, lse is off by 5e-4 in float32. The
    # softmax of a row that sees nothing is NaN; it gives 0.
    nothing = lse[..., None] == -torch.inf
    weights = scores.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)
    return (weights @ v).to(query.dtype), lse
