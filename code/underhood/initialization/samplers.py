"""Where the first weights are drawn from: four laws, and the rules for their spread.

Each sampler fills a tensor in place, as those of `torch.nn.init` do, and takes the
standard deviation that the *result* is to have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_(
    weight: Tensor, std: float, generator: torch.Generator | None = None
) -> Tensor:
    """Fill `weight` from N(0, std²).

    Raises:
        ValueError: `std` is negative or not finite.
    """
    _check_std(std)
    with torch.no_grad():
        return weight.normal_(0.0, std, generator=generator)


def uniform_(
    weight: Tensor, std: float, generator: torch.Generator | None = None
) -> Tensor:
    """Fill `weight` from U(-√3 std, √3 std), whose standard deviation is `std`.

    Raises:
        ValueError: `std` is negative or not finite.
    """
    _check_std(std)
    bound = math.sqrt(3) * std  # the variance of U(-b, b) is (2b)²/12 = b²/3
    with torch.no_grad():
        return weight.uniform_(-bound, bound, generator=generator)


def truncated_variance(cut: float) -> float:
    """The variance of a standard normal that is kept within ±cut.

    1 - 2 cut φ(cut) / (Φ(cut) - Φ(-cut)), with density φ and distribution Φ.

    Raises:
        ValueError: `cut` is below 0.001, where the difference cancels, or infinite.
    """
    if not 1e-3 <= cut < math.inf:
        raise ValueError(f"cut: got {cut}, allowed is a number from 0.001 up")
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * cut * density / math.erf(cut / math.sqrt(2))


def truncated_normal_(
    weight: Tensor,
    std: float,
    cut: float = 2.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill `weight` from a normal cut at ±cut of its own deviations.

    The normal is made wider first, so that what is left has the deviation `std`.

    Args:
        weight: any shape.
        std: of the result, after the cut.
        cut: in standard deviations of the normal that is cut.
        generator: of the random numbers.

    Raises:
        ValueError: `std` is negative or not finite, `cut` is below 0.001 or infinite.
    """
    _check_std(std)
    wider = std / math.sqrt(truncated_variance(cut))
    inside = math.erf(cut / math.sqrt(2))  # the share of the normal that is kept
    with torch.no_grad():
        u = torch.rand(weight.shape, dtype=torch.float64, generator=generator)
        kept = math.sqrt(2) * torch.erfinv((2 * u - 1) * inside)
        return weight.copy_(wider * kept)


def orthogonal_(
    weight: Tensor, gain: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Fill `weight` (rows, columns) with orthonormal rows or columns, times `gain`.

    The shorter side is orthonormal. A square one keeps every length exactly.

    Raises:
        ValueError: `weight` is not a matrix.

    Source: Saxe et al. (2014), Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks.
    """
    if weight.ndim != 2:
        raise ValueError(f"weight: got {weight.ndim} dimensions, allowed are 2")
    rows, columns = weight.shape
    tall = (max(rows, columns), min(rows, columns))
    gaussian = torch.randn(tall, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    # Only with positive diagonals of r is q uniform over the rotations.
    q = q * r.diagonal().sign()
    with torch.no_grad():
        return weight.copy_(gain * (q if rows >= columns else q.T))


def fans(weight: Tensor) -> tuple[int, int]:
    """How many inputs feed one output, and how many outputs one input feeds.

    Args:
        weight: (out_features, in_features, *kernel), as torch stores it.

    Raises:
        ValueError: fewer than two dimensions; a bias has no fans.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight: got {weight.ndim} dimension, allowed are 2 or more")
    field = math.prod(weight.shape[2:])  # 1 for a matrix
    return weight.shape[1] * field, weight.shape[0] * field


RULES = ("lecun", "xavier", "he", "he-fan-out", "torch")


def rule_std(rule: str, fan_in: int, fan_out: int) -> float:
    """The standard deviation of the weights that a rule asks for.

    Args:
        rule: "lecun" 1/in; "xavier" 2/(in + out); "he" 2/in; "he-fan-out" 2/out,
            which holds the gradient instead; "torch" 1/(3 in), what `nn.Linear`
            does unless told otherwise. These are variances.
        fan_in, fan_out: see `fans`.

    Raises:
        ValueError: an unknown rule, a fan below 1.
    """
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in, fan_out: got {fan_in}, {fan_out}, allowed is 1 up")
    variances = {
        "lecun": 1 / fan_in,
        "xavier": 2 / (fan_in + fan_out),
        "he": 2 / fan_in,
        "he-fan-out": 2 / fan_out,
        "torch": 1 / (3 * fan_in),
    }
    if rule not in variances:
        raise ValueError(f"rule: got {rule!r}, allowed are {', '.join(RULES)}")
    return math.sqrt(variances[rule])


def _check_std(std: float) -> None:
    if not (std >= 0 and math.isfinite(std)):
        raise ValueError(f"std: got {std}, allowed is a finite number from 0 up")
