"""How large a signal is after each layer, on the way up and on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from underhood.initialization.activations import ACTIVATIONS
from underhood.initialization.samplers import (
    fans,
    normal_,
    orthogonal_,
    rule_std,
)


@dataclass(frozen=True)
class Signal:
    """What `trace` saw in a stack of L layers.

    Attributes:
        forward: mean of x² of the input and after each layer, L + 1 numbers.
        backward: mean square of the gradient at the same L + 1 places.
        weights: norm of the gradient of each layer's weights, L numbers.
    """

    forward: list[float]
    backward: list[float]
    weights: list[float]


class Dense(nn.Module):
    """activation(x Wᵀ), with W drawn by a rule of `samplers`, or orthogonal.

    Raises:
        ValueError: an unknown activation or rule.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "identity",
        rule: str = "lecun",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation: got {activation!r}, allowed are {allowed}")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.activation = ACTIVATIONS[activation]
        if rule == "orthogonal":
            orthogonal_(self.weight, generator=generator)
        else:
            std = rule_std(rule, *fans(self.weight))
            normal_(self.weight, std, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return self.activation(x @ self.weight.T)


def dense_stack(
    depth: int, width: int, activation: str, rule: str, seed: int = 0
) -> list[nn.Module]:
    """`depth` square layers, each drawn by `rule`."""
    generator = torch.Generator().manual_seed(seed)
    return [Dense(width, width, activation, rule, generator) for _ in range(depth)]


def trace(layers: Sequence[nn.Module], x: Tensor, seed: int = 0) -> Signal:
    """Send x up through the layers, and a random gradient back down.

    The gradient that arrives at the top is N(0, 1) in every feature, so what comes
    out below it does not depend on any loss.

    Args:
        layers: modules that keep the shape of their input, or change its last
            dimension.
        x: (batch, features).
        seed: of the gradient.
    """
    states = [x.detach().clone().requires_grad_()]
    for layer in layers:
        states.append(layer(states[-1]))
        states[-1].retain_grad()
        layer.zero_grad()
    states[-1].backward(random_gradient(states[-1], seed))
    return Signal(
        forward=[float(state.detach().square().mean()) for state in states],
        backward=[_mean_square(state.grad) for state in states],
        weights=[_gradient_norm(layer) for layer in layers],
    )


def random_gradient(out: Tensor, seed: int = 0) -> Tensor:
    """A standard normal gradient of the shape of `out`.

    The seed is moved far away: a gradient of the seed of the weights would consist
    of the same numbers as they.
    """
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    return torch.randn(out.shape, generator=generator).to(out)


def _mean_square(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.square().mean())


def _gradient_norm(layer: nn.Module) -> float:
    """Over the layer's matrices; a scalar such as ReZero's is not one."""
    grads = [p.grad for p in layer.parameters() if p.ndim == 2 and p.grad is not None]
    return float(sum(g.square().sum() for g in grads)) ** 0.5


def lsuv_(layers: Sequence[nn.Module], x: Tensor) -> None:
    """Scale each layer's weights until its output has second moment 1 on x.

    Initialization by looking at the data instead of by a formula. The source starts
    from orthogonal matrices and measures the sums before the activation; this measures
    what comes after it, and takes any start.

    Args:
        layers: each with matrices to scale, in the order of the forward pass.
        x: (batch, features), real data.

    Raises:
        ValueError: a layer puts out zeros, or its activation is bounded (tanh), so
            that no scale brings its output to 1.

    Source: Mishkin & Matas (2016), All you need is a good init, algorithm 1.
    """
    with torch.no_grad():
        for number, layer in enumerate(layers):
            for _ in range(10):  # a kink may ask for more than one
                size = float(layer(x).square().mean())
                if size == 0 or abs(size - 1) < 1e-3:
                    break
                for parameter in layer.parameters():
                    parameter.div_(size**0.5)
            if not abs(size - 1) < 1e-3:
                raise ValueError(
                    f"layers: number {number} puts out {size:.3g}, "
                    "allowed is what a scale can bring to 1"
                )
            x = layer(x)
