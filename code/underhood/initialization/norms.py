"""Normalization, written out: one function, and which axes it looks at."""

from __future__ import annotations

import torch
from torch import Tensor

Axes = int | tuple[int, ...]

# What each norm averages over, for x of (batch, channels, height, width).
AXES = {"batch": (0, 2, 3), "instance": (2, 3), "layer": (1, 2, 3)}


def center(x: Tensor, dim: Axes = -1) -> Tensor:
    """x without its mean over `dim`."""
    return x - x.mean(dim, keepdim=True)


def rms_norm(x: Tensor, dim: Axes = -1, eps: float = 0.0) -> Tensor:
    """x divided by its root mean square over `dim`; √d x / |x| for one axis.

    Args:
        x: any shape; 16-bit numbers are squared in float32.
        dim: the axes to average over.
        eps: under the root; it decides what becomes of tiny inputs. At 0, a row
            of zeros becomes NaN.

    Source: Zhang & Sennrich (2019), Root Mean Square Layer Normalization, eq. 3.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)
    return (wide * scale).to(x.dtype)


def standardize(x: Tensor, dim: Axes = -1, eps: float = 0.0) -> Tensor:
    """Mean 0 and variance 1 over `dim`: center, then RMS norm.

    Over the features this is LayerNorm without its parameters; see `AXES`.

    Source: Ba et al. (2016), Layer Normalization, eq. 3.
    """
    return rms_norm(center(x, dim), dim, eps)


def dynamic_tanh(x: Tensor, alpha: float = 0.5) -> Tensor:
    """tanh(alpha x): bounded as a norm's output is, and no statistics at all.

    Source: Zhu et al. (2025), Transformers without Normalization, section 4.
    """
    return torch.tanh(alpha * x)
