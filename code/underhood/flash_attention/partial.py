"""Attention over a part of the keys, and how two parts become one.

The parts form a commutative monoid: `merge` is associative and commutative,
and `empty_partial` is its identity. So the keys may be cut anywhere, and the
parts be computed anywhere and merged in any order: in a loop (FlashAttention),
in a tree over blocks of a GPU (split-KV decoding), in a ring of machines.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Partial(NamedTuple):
    """Attention of rows over some of the keys, not yet divided."""

    max: Tensor  # (..., rows): the largest score; -inf if no key is visible
    sum: Tensor  # (..., rows): sum of exp(score - max)
    output: Tensor  # (..., rows, head_dim): sum of exp(score - max) * value


def empty_partial(scores: Tensor, value: Tensor) -> Partial:
    """The identity of `merge`: attention over no key at all.

    Args:
        scores, value: as in `partial_attention`; only shape and dtype count.
    """
    maximum = scores.new_full(scores.shape[:-1], -torch.inf)
    output = scores.new_zeros((*scores.shape[:-1], value.shape[-1]))
    return Partial(maximum, torch.zeros_like(maximum), output)


def partial_attention(scores: Tensor, value: Tensor) -> Partial:
    """Attention over the keys of one tile.

    Args:
        scores: (..., rows, keys), scaled; -inf where a key may not be seen.
        value: (..., keys, head_dim).
    """
    # The result does not depend on the maximum: no gradient goes through it.
    maximum = scores.detach().amax(dim=-1)  # (..., rows)
    weights = (scores - _finite(maximum)[..., None]).exp()
    return Partial(maximum, weights.sum(dim=-1), weights @ value)


def merge(first: Partial, second: Partial) -> Partial:
    """Attention over the keys of both (Milakov and Gimelshein 2018, 3.1)."""
    maximum = torch.maximum(first.max, second.max)
    shift = _finite(maximum)
    scale_1 = (first.max - shift).exp()[..., None]
    scale_2 = (second.max - shift).exp()[..., None]
    return Partial(
        maximum,
        first.sum * scale_1[..., 0] + second.sum * scale_2[..., 0],
        first.output * scale_1 + second.output * scale_2,
    )


def finish(partial: Partial) -> tuple[Tensor, Tensor]:
    """Divide: the attention output, and the logsumexp of the scores.

    A row that saw no key gets the output 0 and the logsumexp -inf.
    """
    nothing = partial.sum == 0
    total = partial.sum.masked_fill(nothing, 1.0)
    lse = (partial.max + total.log()).masked_fill(nothing, -torch.inf)
    return partial.output / total[..., None], lse


def _finite(maximum: Tensor) -> Tensor:
    """The maximum to subtract: 0 for -inf, because -inf - -inf is NaN."""
    return maximum.masked_fill(maximum == -torch.inf, 0.0)
