"""Residual blocks: where the norm stands, and how the branch is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.initialization.norms import rms_norm
from underhood.initialization.samplers import normal_
from underhood.initialization.signal import random_gradient

VARIANTS = (
    "no-norm",  # x + F(x)
    "post-norm",  # Vaswani et al. (2017)
    "pre-norm",  # Xiong et al. (2020)
    "gpt2",  # pre-norm; Radford et al. (2019), section 2.3
    "depth-scaled",  # pre-norm; Sun et al. (2025), The Curse of Depth
    "completep",  # pre-norm; Dey et al. (2025)
    "rezero",  # Bachlechner et al. (2021)
    "fixup",  # Zhang et al. (2019), rules 1 and 2, no biases
    "deepnorm",  # Wang et al. (2022), DeepNet, for an encoder
    "sub-norm",  # Wang et al. (2022), Magneto, for an encoder
    "sandwich",  # Ding et al. (2021), CogView; peri-norm since
)


class ResidualBlock(nn.Module):
    """A shortcut and a branch F(x) = W₂ relu(W₁ x) that keeps E[x²], as drawn.

    Args:
        width: of x and of the hidden layer of the branch.
        variant: one of `VARIANTS`.
        layer: 1 for the lowest.
        depth: blocks in the whole stack.
        generator: of the weights.

    Raises:
        ValueError: an unknown variant, or a layer outside 1 … depth.
    """

    def __init__(
        self,
        width: int,
        variant: str,
        layer: int = 1,
        depth: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            allowed = ", ".join(VARIANTS)
            raise ValueError(f"variant: got {variant!r}, allowed are {allowed}")
        if not 1 <= layer <= depth:
            raise ValueError(f"layer: got {layer}, allowed are 1 to {depth}")
        self.variant, self.layer, self.depth = variant, layer, depth
        first, second = branch_gains(variant, depth)
        self.w1 = nn.Parameter(torch.empty(width, width))
        self.w2 = nn.Parameter(torch.empty(width, width))
        normal_(self.w1, first * width**-0.5, generator)
        normal_(self.w2, second * (2 / width) ** 0.5, generator)  # 2: for the relu
        if variant == "rezero":
            self.alpha = nn.Parameter(torch.zeros(()))

    def branch(self, x: Tensor, inner_norm: bool = False) -> Tensor:
        """(..., width) to (..., width)."""
        hidden = F.relu(x @ self.w1.T)
        if inner_norm:  # brings the relu's factor of a half along
            hidden = rms_norm(hidden) / math.sqrt(2)
        return hidden @ self.w2.T

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        match self.variant:
            case "no-norm" | "fixup":
                return x + self.branch(x)
            case "post-norm":
                return rms_norm(x + self.branch(x))
            case "pre-norm" | "gpt2":
                return x + self.branch(rms_norm(x))
            case "depth-scaled":
                return x + self.branch(rms_norm(x) / math.sqrt(self.layer))
            case "completep":
                return x + self.branch(rms_norm(x)) / self.depth
            case "rezero":
                return x + self.alpha * self.branch(x)
            case "deepnorm":
                return rms_norm(self.depth**0.25 * x + self.branch(x))
            case "sub-norm":
                return x + self.branch(rms_norm(x), inner_norm=True)
            case _:  # sandwich
                return x + rms_norm(self.branch(rms_norm(x)))


def branch_gains(variant: str, depth: int) -> tuple[float, float]:
    """What the two matrices of a branch are multiplied by when they are drawn.

    DeepNet and Magneto count layers of two branches each; `depth` counts branches.
    """
    match variant:
        case "gpt2":
            return 1.0, depth**-0.5
        case "fixup":  # L^(-1 / (2m - 2)) with m = 2; zero
            return depth**-0.5, 0.0
        case "deepnorm":  # (8 N)^(-1/4) with N = depth / 2
            beta = (4 * depth) ** -0.25
            return beta, beta
        case "sub-norm":  # √(ln 2N)
            gamma = math.sqrt(math.log(max(depth, 2)))
            return gamma, gamma
        case _:
            return 1.0, 1.0


class Norm(nn.Module):
    """An RMS norm as a layer: the last one of a stack that ends without."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return rms_norm(x)


def residual_stack(
    variant: str, depth: int, width: int, seed: int = 0
) -> list[ResidualBlock]:
    """`depth` blocks of one variant."""
    generator = torch.Generator().manual_seed(seed)
    return [
        ResidualBlock(width, variant, layer, depth, generator)
        for layer in range(1, depth + 1)
    ]


def run(blocks: list[ResidualBlock], x: Tensor) -> Tensor:
    """All blocks in a row, (..., width) to (..., width), with a last norm."""
    for block in blocks:
        x = block(x)
    return rms_norm(x)


def change_by_one_step(blocks: list[ResidualBlock], x: Tensor, rate: float) -> float:
    """How far one step of Adam moves the output, as a share of its size.

    Adam's first step is the sign of the gradient times the learning rate. The
    gradient is that of a random linear function of the output.

    Args:
        blocks: changed by the step.
        x: (batch, width).
        rate: the learning rate.
    """
    before = run(blocks, x)
    parameters = [p for block in blocks for p in block.parameters()]
    gradients = torch.autograd.grad(
        (before * random_gradient(before)).sum(), parameters
    )
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient.sign())
        after = run(blocks, x)
    before = before.detach()
    return float((after - before).norm() / before.norm())
