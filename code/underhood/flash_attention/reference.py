"""The executable definition of attention: the whole score matrix at once."""

from __future__ import annotations

import torch
from torch import Tensor


def visible_keys(
    rows: slice,
    columns: slice,
    offset: int,
    device: torch.device | None = None,
) -> Tensor:
    """Which keys of `columns` the queries `rows` see when causal.

    Query i sees key j where j <= i + offset. With the offset key_length -
    query_length the last query sees every key (aligned bottom-right, as a KV
    cache needs it).

    Returns:
        (rows, columns), bool, True = visible.
    """
    last = torch.arange(rows.start, rows.stop, device=device) + offset
    keys = torch.arange(columns.start, columns.stop, device=device)
    return keys <= last[:, None]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for the half precisions."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    softmax_scale: float,
) -> tuple[Tensor, Tensor]:
    """softmax(query key^T * softmax_scale) value, by that formula.

    Args:
        query: (batch, heads, query_length, head_dim).
        key, value: (batch, heads, key_length, head_dim).

    Returns:
        The output, as `query`, and the logsumexp of each row of scores,
        (batch, heads, query_length).
    """
    wide = working_dtype(query.dtype)
    q, k, v = query.to(wide), key.to(wide), value.to(wide)
    scores = q @ k.mT * softmax_scale  # (b, h, query_length, key_length)
    if causal:
        rows, columns = slice(0, q.shape[2]), slice(0, k.shape[2])
        offset = columns.stop - rows.stop
        visible = visible_keys(rows, columns, offset, q.device)
        scores = scores.masked_fill(~visible, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    # Not exp(scores - lse): at scores of 1e4, lse is off by 5e-4 in float32. The
    # softmax of a row that sees nothing is NaN; it gives 0.
    weights = scores.softmax(dim=-1).masked_fill(lse[..., None] == -torch.inf, 0.0)
    return (weights @ v).to(query.dtype), lse
