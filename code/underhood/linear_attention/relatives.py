"""The neighbors of linear attention: fewer pairs, or fewer keys, under a softmax.

Each takes query, key and value of shape (batch, heads, length, head_dim).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor
) -> Tensor:
    """Softmax attention over the visible pairs; a row that sees nothing gives 0.

    Args:
        visible: boolean, broadcast to (batch, heads, query_length, key_length).
    """
    scores = query @ key.mT * query.shape[-1] ** -0.5
    hidden = ~visible.to(scores.device)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return weights.nan_to_num(0.0) @ value


def check_divisible(name: str, given: int, by: int) -> None:
    """Raises ValueError if `by` does not divide it."""
    if given % by:
        raise ValueError(f"{name}: got {given}, allowed are multiples of {by}")


def local_pattern(length: int, window: int, *, causal: bool = False) -> Tensor:
    """Query i sees the keys less than `window` away: (length, length)."""
    age = torch.arange(length)[:, None] - torch.arange(length)
    return (age.abs() < window) & ((age >= 0) | (not causal))


def strided_pattern(length: int, stride: int, *, causal: bool = False) -> Tensor:
    """Near keys, and every `stride`-th one (Child et al. 2019, section 4.2)."""
    age = torch.arange(length)[:, None] - torch.arange(length)
    every = age % stride == 0
    return (every & ((age >= 0) | (not causal))) | local_pattern(
        length, stride, causal=causal
    )


def lsh_attention(
    query: Tensor,
    value: Tensor,
    *,
    num_buckets: int,
    chunk_size: int,
    causal: bool = False,
    seed: int = 0,
) -> Tensor:
    """One round of Reformer: hash, sort, attend within neighboring chunks.

    Queries are the keys, too (unit length as keys). A token attends to its own and
    the previous chunk of the sorted order. The paper lets it see itself only if it sees
    nothing else; here it always does.

    Source: Kitaev et al. (2020), Reformer, section 2; one hash round.
    """
    batch, heads, length, dim = query.shape
    check_divisible("length", length, chunk_size)
    check_divisible("num_buckets", num_buckets, 2)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.randn(dim, num_buckets // 2, generator=generator).to(query)
    rotated = query @ rotation
    bucket = torch.cat([rotated, -rotated], -1).argmax(-1)  # (batch, heads, length)
    tokens = torch.arange(length, device=query.device)
    order = (bucket * length + tokens).argsort(-1)
    pieces = (batch, heads, length // chunk_size, chunk_size)

    def sorted_chunks(x: Tensor) -> Tensor:
        index = order[..., None].expand(-1, -1, -1, x.shape[-1])
        return x.gather(2, index).view(*pieces, x.shape[-1])

    def with_previous(x: Tensor) -> Tensor:
        return torch.cat([x.roll(1, 2), x], 3)  # twice as many keys as queries

    where = order.view(pieces)
    key, place = with_previous(sorted_chunks(query)), with_previous(where)
    same = bucket.gather(2, order).view(pieces)
    visible = same[..., :, None] == with_previous(same)[..., None, :]
    if causal:
        visible &= place[..., None, :] <= where[..., :, None]
    out = masked_attention(
        sorted_chunks(query),
        F.normalize(key, dim=-1),
        with_previous(sorted_chunks(value)),
        visible,
    )
    back = order.argsort(-1)[..., None].expand_as(value)
    return out.reshape(value.shape).gather(2, back)


def linformer_attention(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor
) -> Tensor:
    """Attention over m mixtures of all keys (Wang et al. 2020, eq. 7).

    Args:
        projection: (m, length), learned in the paper; the length is fixed with it.
    """
    key, value = projection @ key, projection @ value  # m of each
    return F.scaled_dot_product_attention(query, key, value)


def pooled_attention(
    query: Tensor, key: Tensor, value: Tensor, *, stride: int, causal: bool = False
) -> Tensor:
    """Attention over averages of `stride` neighbors; length divisible by it.

    With `causal` a query sees the blocks that have ended; the first ones see none.
    """
    length = key.shape[2]
    check_divisible("length", length, stride)
    pooled_key = key.unflatten(2, (-1, stride)).mean(3)
    pooled_value = value.unflatten(2, (-1, stride)).mean(3)
    tokens = torch.arange(length, device=key.device)
    ended = tokens[stride - 1 :: stride] <= tokens[:, None]  # the last of each block
    return masked_attention(query, pooled_key, pooled_value, ended | (not causal))
