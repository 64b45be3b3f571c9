"""Attention over keys in several places: outputs over parts of the keys merge.

An output and its logsumexp are all that has to travel. The parts may be pieces of a
cache, each with a block of a GPU of its own (split-KV decoding), or the shares of
machines that pass their keys around (ring attention). Gradients flow through both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from underhood.flash_attention.interface import checked_lengths, flash_attention


def merge_outputs(outputs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint parts of the keys.

    Args:
        outputs: (parts, ..., rows, head_dim).
        lses: (parts, ..., rows), natural log; -inf where a part showed a row nothing.

    Returns:
        The output (..., rows, head_dim), in the dtype of `outputs`, and the
        logsumexp (..., rows).
    """
    nothing = (lses == -torch.inf).all(dim=0)
    lse = lses.masked_fill(nothing, 0.0).logsumexp(dim=0)
    weights = (lses - lse).exp()[..., None]  # 0 for a part that showed nothing
    merged = (weights * outputs.to(weights)).sum(dim=0)
    return merged.to(outputs.dtype), lse.masked_fill(nothing, -torch.inf)


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    splits: int,
    key_lengths: Tensor | None = None,
    softmax_scale: float | None = None,
    softcap: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One query per sequence over a long cache, in `splits` pieces at once.

    The pieces become heads of a view of the cache, and the query heads that share a
    key head become the rows of one tile, so a key is read once for all of them.

    Args:
        query: (batch, heads, 1, head_dim).
        key, value: (batch, key_heads, key_length, head_dim): the cache.
        splits: how many pieces; it divides key_length.
        key_lengths: (batch,) or (batch, key_heads), int: how much of it is filled.

    Returns:
        The output, as `query`, and the logsumexp, (batch, heads, 1).

    Raises:
        ValueError, TypeError: an argument is not as above.

    Source: Flash-Decoding (Dao et al. 2023).
    """
    batch, heads, rows, _ = query.shape
    key_heads, key_length = key.shape[1:3]
    if rows != 1:
        raise ValueError(f"query: got {rows} rows; one per sequence can be decoded")
    if splits < 1 or key_length % splits:
        raise ValueError(
            f"splits: got {splits}; it must divide the {key_length} keys of the cache"
        )
    size = key_length // splits
    lengths = checked_lengths(key_lengths, key)
    if lengths is None:
        lengths = torch.full((batch, key_heads), key_length, device=key.device)
    starts = torch.arange(0, key_length, size, device=key.device)
    filled = (lengths[..., None] - starts).clamp(0, size)  # of each piece
    group = query.reshape(batch, key_heads, 1, heads // key_heads, -1)
    pieces = [each.unflatten(2, (splits, size)).flatten(1, 2) for each in (key, value)]
    outputs, lses = flash_attention(
        group.expand(-1, -1, splits, -1, -1).flatten(1, 2),
        *pieces,
        key_lengths=filled.flatten(1),  # (batch, key_heads * splits)
        softmax_scale=softmax_scale,
        softcap=softcap,
        return_lse=True,
        backend=backend,
    )
    shape = (key_heads, splits)
    output, lse = merge_outputs(
        outputs.unflatten(1, shape).movedim(2, 0),
        lses.unflatten(1, shape).movedim(2, 0),
    )
    return output.reshape(query.shape), lse.reshape(batch, heads, 1)


def ring_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    causal: bool = False,
    backend: str = "auto",
) -> list[Tensor]:
    """Each rank holds a share of one sequence; keys and values go round the ring.

    A simulation in one process of what every rank computes, and when. The shares are
    in order; each is (batch, heads, length, head_dim). Between the hops a running
    output is at least float32, or each hop would round it.

    Raises:
        ValueError: the ranks do not all have a share of each, or, if `causal`, a rank
            has not as many keys as queries.

    Source: Liu et al. 2023 (arXiv:2310.01889).
    """
    ranks = len(queries)
    _check_shares(queries, keys, values, causal)
    results: list[tuple[Tensor, Tensor] | None] = [None] * ranks
    for hop in range(ranks):
        for rank in range(ranks):
            source = (rank - hop) % ranks  # whose keys have arrived here
            if causal and source > rank:
                continue  # they are all in the future
            output, lse = flash_attention(
                queries[rank],
                keys[source],
                values[source],
                causal=causal and source == rank,
                return_lse=True,
                backend=backend,
            )
            output = output.to(lse.dtype)
            so_far = results[rank]
            if so_far is not None:
                outputs = torch.stack([so_far[0], output])
                lses = torch.stack([so_far[1], lse])
                output, lse = merge_outputs(outputs, lses)
            results[rank] = output, lse
    return [
        result[0].to(query.dtype)
        for result, query in zip(results, queries, strict=True)
        if result is not None
    ]


def _check_shares(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    causal: bool,
) -> None:
    if not len(queries) == len(keys) == len(values):
        raise ValueError(
            f"keys, values: got {len(keys)} and {len(values)} shares; needed are "
            f"{len(queries)}, one for each share of queries"
        )
    rows = [query.shape[2] for query in queries]
    columns = [key.shape[2] for key in keys]
    if causal and rows != columns:
        raise ValueError(
            f"keys: got shares of {columns}; if causal, they must be as long as "
            f"those of queries, {rows}"
        )
