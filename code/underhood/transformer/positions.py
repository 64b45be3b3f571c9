"""Sinusoidal positions, and why one step further is a rotation.

Source: Vaswani et al., 2017, section 3.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wavelengths(d_model: int, base: float = 10000.0) -> Tensor:
    """Positions per full turn of each (sin, cos) pair: `2π base^(2i/d_model)`.

    Returns:
        (d_model / 2,) in float64, from 2π upwards.
    """
    if d_model < 2 or d_model % 2:
        raise ValueError(f"d_model: got {d_model}; an even number is needed")
    pairs = torch.arange(0, d_model, 2, dtype=torch.float64)
    return 2 * math.pi * base ** (pairs / d_model)


def sinusoidal_positions(
    length: int, d_model: int, base: float = 10000.0, start: int = 0
) -> Tensor:
    """The table that the paper adds to its embeddings.

    Feature `2i` of position `p` is `sin(p / base^(2i/d_model))`, feature `2i + 1` the
    cosine of the same angle: a clock with `d_model / 2` hands.

    Args:
        length: number of positions. start: the first of them.
        d_model: features, even.

    Returns:
        (length, d_model), float32; angles are computed in float64.
    """
    if length < 0 or start < 0:
        raise ValueError(f"length, start: got {length}, {start}; neither below 0")
    positions = torch.arange(start, start + length, dtype=torch.float64)
    angles = positions[:, None] * (2 * math.pi / wavelengths(d_model, base))
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (length, d/2, 2)
    return pairs.flatten(1).float()  # (length, d_model)


def position_rotation(
    offset: int,
    d_model: int,
    base: float = 10000.0,
) -> Tensor:
    """The matrix that turns position p into position p + offset, whatever p is.

    Returns:
        (d_model, d_model), float64, orthogonal, one 2x2 rotation per pair of features:
        `PE(p + offset) = position_rotation(offset) @ PE(p)`.
    """
    angles = offset * 2 * math.pi / wavelengths(d_model, base)
    cos, sin = angles.cos(), angles.sin()
    # sin(a + b) = cos b sin a + sin b cos a
    # cos(a + b) = -sin b sin a + cos b cos a
    blocks = torch.stack([cos, sin, -sin, cos], dim=-1).unflatten(-1, (2, 2))
    return torch.block_diag(*blocks)
