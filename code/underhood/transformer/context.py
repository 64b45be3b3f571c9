"""Texts longer than those of the training: biases, slower rotations, windows.

Masks: **True = may attend**, as everywhere in this book.

Sources: Press et al., "Train Short, Test Long", 2022 (ALiBi); Chen et al., 2023
(position interpolation) and Peng et al., "YaRN", 2024, section 3 (NTK-aware scaling);
Beltagy et al., "Longformer", 2020 (sliding window).
"""

from __future__ import annotations

import torch
from torch import Tensor

from underhood.transformer.attention import causal_mask


def alibi_bias(num_heads: int, length: int) -> Tensor:
    """What ALiBi adds to the scores instead of any positions in the tokens.

    Head h takes `2^(-8 h / num_heads)` from a score for each step of distance, h from
    1.

    Args:
        num_heads: a power of two.

    Returns:
        (num_heads, length, length): 0 on the diagonal, negative before it; what comes
        after is for a causal mask.
    """
    if num_heads < 1 or num_heads & (num_heads - 1):
        raise ValueError(f"num_heads: got {num_heads}; a power of two is needed")
    slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
    place = torch.arange(length)
    distance = (place[:, None] - place).clamp(min=0)
    return -slopes[:, None, None] * distance


def stretched_base(base: float, head_dim: int, factor: float) -> float:
    """The base with which RoPE's slowest pair turns `factor` times as slowly.

    The fastest pair turns as before, those between are slowed by degrees ("NTK-aware").
    """
    if head_dim < 4 or factor < 1:
        raise ValueError(
            f"head_dim, factor: got {head_dim}, {factor}; at least 4 and 1 are needed"
        )
    return base * factor ** (head_dim / (head_dim - 2))


def sliding_window_mask(length: int, window: int) -> Tensor:
    """Each token sees itself and the `window - 1` before it: (length, length)."""
    if window < 1:
        raise ValueError(f"window: got {window}; at least 1 is needed")
    return causal_mask(length).triu(1 - window)
