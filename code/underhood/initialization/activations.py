"""Moments of activations under a Gaussian input, by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "selu": F.selu,
}


def gaussian_expectation(function: Activation, points: int = 80) -> float:
    """E[function(z)] for z from N(0, 1), by Gauss-Legendre quadrature.

    Both half lines are done apart: relu and elu have a kink at 0, and no rule of
    Gauss converges quickly across a kink. Beyond 12 the density is below 1e-31.

    Args:
        function: elementwise, smooth on either side of 0.
        points: per half line.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    z = torch.from_numpy(6 * (nodes + 1))  # from (-1, 1) to (0, 12)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    mass = density * torch.from_numpy(6 * weights)
    return float(((function(z) + function(-z)) * mass).sum())


def second_moment(function: Activation, variance: float = 1.0) -> float:
    """E[function(x)²] for x from N(0, variance).

    Raises:
        ValueError: `variance` is negative.
    """
    if not variance >= 0:
        raise ValueError(f"variance: got {variance}, allowed is a number from 0 up")
    scale = math.sqrt(variance)
    return gaussian_expectation(lambda z: function(scale * z).square())


def gain(function: Activation) -> float:
    """What the weights are multiplied by, to get a second moment of 1 back."""
    return 1 / math.sqrt(second_moment(function))


def solve_selu() -> tuple[float, float]:
    """SELU's scale λ and α: a Gaussian goes in, mean 0 and variance 1 come out.

    selu(x) = λ x above 0, λ α (eˣ - 1) below. With E[eᵏᶻ; z < 0] = exp(k²/2) Φ(-k)
    both conditions are sums of known numbers. The first has no λ in it.

    Source: Klambauer et al. (2017), Self-Normalizing Neural Networks.
    """
    below_1 = math.exp(0.5) * _normal_cdf(-1)
    below_2 = math.exp(2.0) * _normal_cdf(-2)
    alpha = 1 / math.sqrt(2 * math.pi) / (0.5 - below_1)
    square = 0.5 + alpha**2 * (below_2 - 2 * below_1 + 0.5)
    return 1 / math.sqrt(square), alpha


def slope_moment(function: Activation, variance: float = 1.0) -> float:
    """E[function'(x)²] for x from N(0, variance): what a gradient is multiplied by."""

    def slope(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]

    return second_moment(slope, variance)


def depth_map(
    function: Activation, weight_variance: float, depth: int, start: float = 1.0
) -> list[float]:
    """The second moments that theory predicts before each of `depth` layers.

    Args:
        function: after each matrix.
        weight_variance: times the fan-in.
        depth: layers.
        start: the second moment of the input.

    Returns:
        `depth` + 1 second moments of the activations, the input's first.

    Source: Poole et al. (2016), Exponential expressivity in deep neural networks
    through transient chaos, eq. 3.
    """
    moments = [start]
    for _ in range(depth):
        moments.append(second_moment(function, weight_variance * moments[-1]))
    return moments


def _normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))
