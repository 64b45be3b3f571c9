"""What turns scores into attention: squared ReLU, Laplace, softmax.

Boolean masks: **True = may attend**, as everywhere in this book.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from underhood.transformer.attention import attention_weights


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)². Source: So et al., "Primer", 2021."""
    return torch.relu(x).square()


def laplace(x: Tensor) -> Tensor:
    """A smooth stand-in for `relu_squared`, bounded by 1.

    The distribution function of a normal variable with mean √(1/2) and deviation
    √(1/4π): value and slope at √(1/2) are those of the squared ReLU.

    Source: Ma et al., "Mega", 2023, section 3.2.
    """
    mean, deviation = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
    return 0.5 * (1 + torch.erf((x - mean) / (deviation * math.sqrt(2))))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": relu_squared,
    "laplace": laplace,
}


def attention_matrix(
    query: Tensor,
    key: Tensor,
    kernel: str = "relu2",
    allowed: Tensor | None = None,
) -> Tensor:
    """The matrix A of one head.

    "relu2" and "laplace" take each score by itself and divide by the number of keys
    that the query may attend to, never by the length of the batch: what stands after a
    prefix, or pads it, changes nothing. "softmax" is ordinary attention.

    Args:
        query: (..., query_length, s). key: (..., key_length, s).
        kernel: "relu2", "laplace" or "softmax".
        allowed: broadcastable to (..., query_length, key_length); True = may attend.

    Returns:
        (..., query_length, key_length); a row without any key is 0.

    Source: Hua et al., "Transformer Quality in Linear Time", 2022, equation 5; the
    scale 1/√s before the kernel makes it 1/(ns) relu²(q kᵀ).
    """
    if kernel not in (*KERNELS, "softmax"):
        raise ValueError(
            f"kernel: got {kernel!r}; allowed are 'relu2', 'laplace', 'softmax'"
        )
    if allowed is not None and allowed.dtype != torch.bool:
        raise TypeError(
            f"allowed: got {allowed.dtype}; torch.bool is needed, True = may attend"
        )
    if kernel == "softmax":
        return attention_weights(query, key, allowed)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = KERNELS[kernel](scores)
    if allowed is None:
        return weights / key.shape[-2]
    # A mask of one column stands for all the keys.
    allowed = allowed.expand(*allowed.shape[:-1], key.shape[-2])
    count = allowed.sum(dim=-1, keepdim=True).clamp(min=1)
    return weights * allowed / count
