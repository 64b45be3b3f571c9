"""Attention with any similarity, as the article defines it: two loops."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Similarity = Callable[[Tensor, Tensor], Tensor]


def attention_by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    similarity: Similarity,
    *,
    causal: bool = False,
) -> Tensor:
    """o_i = sum_j sim(q_i, k_j) v_j / sum_j sim(q_i, k_j), one pair at a time.

    Args:
        query: (query_length, head_dim).
        key: (key_length, head_dim).
        value: (key_length, value_dim).
        similarity: takes one query and one key, gives a number; not negative,
            or the result is no average.
        causal: query i sees the keys 0..i only.

    Returns:
        (query_length, value_dim).

    Source: Wang et al. (2018), Non-local Neural Networks, eq. 1.
    """
    rows = []
    for i, q in enumerate(query):
        visible = i + 1 if causal else len(key)
        total, weighted = query.new_zeros(()), value.new_zeros(value.shape[-1])
        for k, v in zip(key[:visible], value[:visible], strict=True):
            weight = similarity(q, k)
            total = total + weight
            weighted = weighted + weight * v
        rows.append(weighted / total)
    return torch.stack(rows)
