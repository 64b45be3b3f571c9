"""Why scores are divided by √d: the size of q·k, and what a softmax makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from underhood.initialization.norms import rms_norm


def softmax_jacobian_norm(scores: Tensor) -> Tensor:
    """The Frobenius norm of ∂ softmax(s) / ∂s = diag(p) - p pᵀ, row by row.

    ‖J‖² = Σ pᵢ² ((1 - pᵢ)² + Σ_{j≠i} pⱼ²). No n × n matrix is made, and no
    terms cancel: saturated rows, too, are exact up to rounding.

    Args:
        scores: (..., keys).

    Returns:
        (...).
    """
    p = scores.softmax(-1)
    top = p.argmax(-1, keepdim=True)
    rest = p.scatter(-1, top, 0.0)
    # What the largest leaves is the sum of the others; 1 - p would cancel.
    gap = (1 - p).scatter(-1, top, rest.sum(-1, keepdim=True))
    others = p.square().sum(-1, keepdim=True) - p.square()
    others = others.scatter(-1, top, rest.square().sum(-1, keepdim=True))
    return (p.square() * (gap.square() + others)).sum(-1).sqrt()


def random_scores(
    dim: int, queries: int, keys: int, seed: int = 0, align: float = 0.0
) -> Tensor:
    """q·k of standard normal queries and keys of `dim` features, unscaled.

    Args:
        dim: d.
        queries, keys: rows and columns of the result.
        seed: of both.
        align: from 0 to 1; how much of query i is key i.

    Returns:
        (queries, keys), float64.

    Raises:
        ValueError: `align` outside 0 … 1, or more queries than keys with it.
    """
    if not 0 <= align <= 1 or (align and queries > keys):
        raise ValueError(f"align: got {align}, allowed are 0 to 1, a key per query")
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(queries + keys, dim, dtype=torch.float64, generator=generator)
    query, key = both.split([queries, keys])
    if align:
        query = align * key[:queries] + (1 - align**2) ** 0.5 * query
    return query @ key.T


def soft_cap(scores: Tensor, cap: float) -> Tensor:
    """cap · tanh(scores / cap): the identity near 0, and never beyond ±cap.

    Raises:
        ValueError: `cap` is not positive.

    Source: Gemma Team (2024), Gemma 2, section 2.
    """
    if not cap > 0:
        raise ValueError(f"cap: got {cap}, allowed is a positive number")
    return cap * torch.tanh(scores / cap)


def qk_norm_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """scale · q·k with both brought to root mean square 1 first.

    Args:
        query: (..., queries, dim).
        key: (..., keys, dim).
        scale: learned where it is used; the scores are at most scale · dim.

    Source: Henry et al. (2020), Query-Key Normalization for Transformers.
    """
    return scale * rms_norm(query) @ rms_norm(key).mT


def qk_clip_(w_query: Tensor, w_key: Tensor, largest: float, limit: float) -> None:
    """Shrink both projections of a head, if its largest score went over the limit.

    Each takes the root of limit / largest, so that the score itself is at the limit.

    Args:
        w_query, w_key: (head_dim, width), changed in place, after the optimizer.
        largest: score of the head in this step, over all of the batch.
        limit: 100 in the source.

    Source: Kimi Team (2025), Kimi K2, section 2.1, MuonClip.
    """
    if largest > limit:
        factor = (limit / largest) ** 0.5
        with torch.no_grad():
            w_query.mul_(factor)
            w_key.mul_(factor)


def t5_query_key_std(width: int, head_dim: int) -> tuple[float, float]:
    """Deviations of T5's query and key weights. T5 does not divide its scores.

    Only the query's carries the 1/√head_dim that other models put on the scores.

    Args:
        width: d_model.
        head_dim: d_kv.

    Source: google-research/t5 and `T5PreTrainedModel._init_weights` in transformers.
    """
    return (width * head_dim) ** -0.5, width**-0.5
