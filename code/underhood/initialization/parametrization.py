"""SP, NTK and muP: the same network, with width put in different places.

A layer computes y = multiplier · W x. W is drawn with deviation `std`, and its
learning rate is `rate` times the global one. A parametrization says how the three
depend on the width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LAYERS = ("input", "hidden", "output")
PARAMETRIZATIONS = ("sp", "ntk", "mup")
OPTIMIZERS = ("sgd", "adam")
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Scaling:
    """How one layer depends on the width: y = multiplier · W x.

    Attributes:
        multiplier: in front of the product, at all times.
        std: of W when it is drawn.
        rate: what the layer's learning rate is multiplied by.
    """

    multiplier: float
    std: float
    rate: float

    def shifted(self, theta: float, optimizer: str) -> Scaling:
        """Another scaling of the same training: multiplier · theta, W / theta.

        A gradient with respect to W grows with the multiplier. SGD must take that
        back and shrink the step as W shrinks; Adam divides the gradient out.

        Raises:
            ValueError: an unknown optimizer, or `theta` is not positive.

        Source: Yang & Littwin (2023), Tensor Programs IVb.
        """
        _check_name("optimizer", optimizer, OPTIMIZERS)
        if not theta > 0:
            raise ValueError(f"theta: got {theta}, allowed is a positive number")
        power = 2 if optimizer == "sgd" else 1
        rate = self.rate / theta**power
        return Scaling(self.multiplier * theta, self.std / theta, rate)


def scalings(
    parametrization: str,
    optimizer: str,
    width: int,
    base_width: int,
    in_features: int,
) -> dict[str, Scaling]:
    """The three layers in_features → width → width → out_features.

    At the base width all parametrizations are one.

    Args:
        parametrization: "sp", LeCun's rule and one learning rate; "ntk", weights
            that do not shrink and 1/√width in front; "mup".
        optimizer: "sgd" or "adam".
        width: of both hidden layers.
        base_width: where the learning rate was found.
        in_features: fixed; not a width.

    Raises:
        ValueError: an unknown name, a width or `in_features` below 1.

    Source: Yang et al. (2021), Tensor Programs V, table 8.
    """
    _check_name("parametrization", parametrization, PARAMETRIZATIONS)
    _check_name("optimizer", optimizer, OPTIMIZERS)
    sizes = (width, base_width, in_features)
    if min(sizes) < 1:
        given = ", ".join(map(str, sizes))
        raise ValueError(
            f"width, base_width, in_features: got {given}, allowed is 1 up"
        )
    ratio = width / base_width
    first = in_features**-0.5
    wide, base = width**-0.5, base_width**-0.5
    if parametrization == "sp":
        inner = Scaling(1, wide, 1)
        layers = Scaling(1, first, 1), inner, inner
    elif parametrization == "ntk":
        inner = Scaling(ratio**-0.5, base, 1)
        layers = Scaling(1, first, 1), inner, inner
    elif optimizer == "adam":
        layers = (
            Scaling(1, first, 1),
            Scaling(1, wide, 1 / ratio),
            Scaling(1 / ratio, base, 1),
        )
    else:
        layers = (
            Scaling(1, first, ratio),
            Scaling(1, wide, 1),
            Scaling(1 / ratio, base, ratio),
        )
    return dict(zip(LAYERS, layers, strict=True))


def _check_name(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(f"{name}: got {given!r}, allowed are {', '.join(allowed)}")


def draw(
    scaling: dict[str, Scaling],
    width: int,
    in_features: int,
    out_features: int,
    seed: int = 0,
) -> Parameters:
    """The three matrices, each (out, in), drawn with their deviations."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((width, in_features), (width, width), (out_features, width))
    return {
        name: torch.randn(shape, generator=generator) * scaling[name].std
        for name, shape in zip(LAYERS, shapes, strict=True)
    }


def forward(
    parameters: Parameters, scaling: dict[str, Scaling], x: Tensor
) -> dict[str, Tensor]:
    """The network: relu, relu, logits. √2 makes up for each relu.

    Args:
        parameters: from `draw`.
        scaling: from `scalings`.
        x: (batch, in_features).

    Returns:
        What each layer puts out, before its relu: (batch, out) by name.
    """
    preactivations = {}
    for name in LAYERS:
        x = scaling[name].multiplier * (x @ parameters[name].mT)
        preactivations[name] = x
        x = 2**0.5 * F.relu(x)
    return preactivations


def coordinate_check(
    parametrization: str,
    width: int,
    x: Tensor,
    labels: Tensor,
    *,
    optimizer: str = "adam",
    rate: float = 0.01,
    steps: int = 3,
    base_width: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """How far each layer's output moves in a few steps, per coordinate.

    In a right parametrization the numbers do not depend on the width.

    Args:
        parametrization: see `scalings`.
        width: of the hidden layers.
        x: (batch, in_features), the batch of each step.
        labels: (batch,), classes from 0.
        optimizer: "sgd" or "adam".
        rate: the learning rate at the base width.
        steps: of the optimizer.
        base_width: where all parametrizations agree.
        seed: of the weights.

    Returns:
        By layer, the root mean square of the change of its output.
    """
    classes = int(labels.max()) + 1
    scaling = scalings(parametrization, optimizer, width, base_width, x.shape[1])
    parameters = draw(scaling, width, x.shape[1], classes, seed)
    groups = [
        {"params": parameters[name].requires_grad_(), "lr": rate * scaling[name].rate}
        for name in LAYERS
    ]
    step = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](groups)
    before = forward(parameters, scaling, x)
    for _ in range(steps):
        loss = F.cross_entropy(forward(parameters, scaling, x)["output"], labels)
        step.zero_grad()
        loss.backward()
        step.step()
    after = forward(parameters, scaling, x)
    moved = {name: after[name] - before[name] for name in LAYERS}
    return {name: float(d.detach().square().mean().sqrt()) for name, d in moved.items()}
