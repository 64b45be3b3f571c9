"""One small network on real handwritten digits, trained in several precisions.

Few CPUs have a 16-bit matrix unit, so it is emulated: operands are 16-bit
tensors, the product is computed in float32 and rounded to 16 bits. That is what a
matrix unit with FP32 accumulators promises. An FP16 accumulator is emulated by
rounding the running sum after every 16 products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.mixed_precision.accumulate import linear_with_accumulator
from underhood.mixed_precision.master import MasterWeights, stochastic_bfloat16
from underhood.mixed_precision.scaling import LossScaler


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 digits of 8 × 8 pixels, shuffled and split."""

    train_images: Tensor  # (1437, 64), 0 to 1
    train_labels: Tensor  # (1437,)
    test_images: Tensor  # (360, 64)
    test_labels: Tensor  # (360,)

    def shifted(self) -> Digits:
        """All images one pixel to the right: a new task for a trained network."""
        images = [
            F.pad(each.view(-1, 8, 8), (1, 0))[:, :, :8].reshape(-1, 64)
            for each in (self.train_images, self.test_images)
        ]
        return Digits(images[0], self.train_labels, images[1], self.test_labels)


def load_digits() -> Digits:
    """The data come with scikit-learn; nothing is downloaded."""
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = (torch.tensor(pixels, dtype=torch.float32) / 16)[order]
    targets = torch.tensor(labels)[order]
    return Digits(images[:1437], targets[:1437], images[1437:], targets[1437:])


class Network(nn.Module):
    """64 pixels, two hidden layers with ReLU, 10 logits.

    Args:
        hidden: width of the two hidden layers.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        sizes = [(64, hidden), (hidden, hidden), (hidden, 10)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)

    def forward(
        self, images: Tensor, accumulator: torch.dtype = torch.float32
    ) -> Tensor:
        """Images (batch, 64) to logits (batch, 10), both of the parameters' dtype."""
        x = images
        for index, layer in enumerate(self.layers):
            if index:
                x = torch.relu(x)
            x = _linear(x, layer, accumulator)
        return x


def _linear(x: Tensor, layer: nn.Module, accumulator: torch.dtype) -> Tensor:
    """Each cast rounds going forward, and rounds the gradient coming back."""
    weight, bias = layer.parameters()
    if accumulator == torch.float16:
        return linear_with_accumulator(x, weight, accumulator) + bias
    return F.linear(x.float(), weight.float(), bias.float()).to(x.dtype)


def unscaled() -> LossScaler:
    """A scaler that does nothing."""
    return LossScaler(1.0, dynamic=False)


@dataclass(frozen=True)
class Recipe:
    """How one run computes.

    Args:
        dtype: of weights, activations and gradients.
        master: keep FP32 master weights. Without, each update is rounded to `dtype`;
            the optimizer's own arithmetic stays in FP32.
        scaler: makes the loss scaler.
        accumulator: of the sums inside a matrix product.
        stochastic: round BF16 weights by chance instead of to the nearest.
    """

    dtype: torch.dtype = torch.float32
    master: bool = True
    scaler: Callable[[], LossScaler] = unscaled
    accumulator: torch.dtype = torch.float32
    stochastic: bool = False


@dataclass
class Run:
    """What a run left behind."""

    network: Network
    losses: list[float] = field(default_factory=list)  # mean per image, each step
    scales: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)  # steps
    accuracy: float = 0.0  # on the test images


def train_step(
    network: Network,
    masters: MasterWeights,
    scaler: LossScaler,
    batch: tuple[Tensor, Tensor],
    divisor: float,
    accumulator: torch.dtype = torch.float32,
) -> tuple[float, bool]:
    """One step of mixed-precision training.

    Returns:
        The sum of the losses of the batch, and whether the step was taken.
    """
    images, labels = batch
    dtype = masters.parameters[0].dtype
    masters.optimizer.zero_grad()
    logits = network(images.to(dtype), accumulator)  # forward, in 16 bits
    losses = F.cross_entropy(logits.float(), labels, reduction="sum")  # loss in FP32
    scaler.scale(losses / divisor).backward()  # times S, back in 16 bits
    masters.take_gradients()  # to FP32
    taken = scaler.step(masters.optimizer)  # divide by S, check, update
    scaler.update()  # move S
    masters.give_weights()  # round to 16 bits
    return losses.item(), taken


def train(
    recipe: Recipe,
    start: Network,
    digits: Digits,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 256,
    divisor: float | None = None,
) -> Run:
    """Train a copy of `start` with Adam.

    Args:
        divisor: what the summed loss of a batch is divided by; default is the batch
            size. Larger when the batch is a small part of a large one.
    """
    network = copy.deepcopy(start).to(recipe.dtype)
    masters = MasterWeights(
        network.parameters(), lambda p: torch.optim.Adam(p, learning_rate)
    )
    scaler, run = recipe.scaler(), Run(network)
    draw = torch.Generator().manual_seed(1)
    chance = torch.Generator().manual_seed(2)
    for step in range(steps):
        chosen = torch.randint(len(digits.train_labels), (batch_size,), generator=draw)
        batch = digits.train_images[chosen], digits.train_labels[chosen]
        run.scales.append(scaler.loss_scale)
        loss, taken = train_step(
            network, masters, scaler, batch, divisor or batch_size, recipe.accumulator
        )
        run.losses.append(loss / batch_size)
        if not taken:
            run.skipped.append(step)
        if recipe.stochastic:
            round_by_chance(masters, chance)
        if not recipe.master:
            masters.forget()
    run.accuracy = accuracy(network, digits, recipe.accumulator)
    return run


@torch.no_grad()
def round_by_chance(masters: MasterWeights, chance: torch.Generator) -> None:
    """Copy the masters to the BF16 weights, each rounded up or down by chance."""
    for parameter, master in zip(masters.parameters, masters.masters, strict=True):
        parameter.copy_(stochastic_bfloat16(master.detach(), chance))


@torch.no_grad()
def accuracy(
    network: Network, digits: Digits, accumulator: torch.dtype = torch.float32
) -> float:
    """Share of the test images that the network names."""
    images = digits.test_images.to(next(network.parameters()).dtype)
    named = network(images, accumulator).argmax(1)
    return (named == digits.test_labels).float().mean().item()


def all_gradients(
    network: Network, batch: tuple[Tensor, Tensor], divisor: float
) -> dict[str, Tensor]:
    """Every gradient of one backward pass: "activations" and "weights", flat."""
    network.zero_grad()
    outputs: list[Tensor] = []
    x = batch[0]
    for index, layer in enumerate(network.layers):
        x = _linear(torch.relu(x) if index else x, layer, x.dtype)
        x.retain_grad()
        outputs.append(x)
    (F.cross_entropy(x, batch[1], reduction="sum") / divisor).backward()
    weights = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    flat = [out.grad.flatten() for out in outputs if out.grad is not None]
    network.zero_grad()
    return {"activations": torch.cat(flat), "weights": torch.cat(weights)}


def pretrained(digits: Digits, steps: int = 200) -> Network:
    """A network trained in FP32 on the upright digits."""
    torch.manual_seed(0)
    run = train(Recipe(), Network(), digits, steps=steps, learning_rate=3e-3)
    return run.network
