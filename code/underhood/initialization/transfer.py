"""Many small trainings at once: one for each learning rate and each seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from underhood.initialization.norms import rms_norm
from underhood.initialization.parametrization import Parameters, draw, forward, scalings
from underhood.initialization.residual import residual_stack

Loss = Callable[[Parameters, Tensor, Tensor], Tensor]


class Adam:
    """Adam for a stack of models, each with a learning rate of its own.

    Args:
        parameters: each (models, *shape); changed in place by `step`.
        factors: by parameter, what the learning rates are multiplied by.
        betas, eps: as in `torch.optim.Adam`, whose second beta is 0.999 unless told
            otherwise; the runs here are too short for that.

    Source: Kingma & Ba (2015), algorithm 1.
    """

    def __init__(
        self,
        parameters: Parameters,
        factors: dict[str, float],
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.factors = parameters, factors
        self.betas, self.eps, self.count = betas, eps, 0
        self.mean = {k: torch.zeros_like(p) for k, p in parameters.items()}
        self.square = {k: torch.zeros_like(p) for k, p in parameters.items()}

    def step(self, gradients: Parameters, rates: Tensor) -> None:
        """One step. rates: (models,)."""
        self.count += 1
        beta1, beta2 = self.betas
        bias1, bias2 = 1 - beta1**self.count, math.sqrt(1 - beta2**self.count)
        for name, parameter in self.parameters.items():
            gradient, mean = gradients[name], self.mean[name]
            square = self.square[name]
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            # The corrections go to the scalars: each pass over the tensors costs.
            root = square.sqrt().add_(self.eps * bias2)
            size = rates * self.factors[name] * bias2 / bias1
            size = size.view(-1, *[1] * (parameter.ndim - 1))  # (models, 1, ...)
            parameter.addcmul_(torch.div(mean, root, out=root), size, value=-1)


def train_together(
    loss: Loss,
    parameters: Parameters,
    rates: Tensor,
    x: Tensor,
    labels: Tensor,
    *,
    factors: dict[str, float] | None = None,
    steps: int = 30,
    batch_size: int = 64,
    warmup: int = 0,
    seed: int = 0,
) -> Tensor:
    """Train a stack of models on the same batches; the losses of each step.

    Args:
        loss: of one model and one batch.
        parameters: each (models, *shape); changed in place.
        rates: (models,), the learning rates.
        x: (examples, features).
        labels: (examples,).
        factors: by parameter, on the learning rate; 1 if not given.
        steps, batch_size: how long, and on how much.
        warmup: steps over which the rates rise linearly from near 0.
        seed: of the batches.

    Returns:
        (steps, models); the loss before each step.
    """
    step = vmap(grad_and_value(loss), in_dims=(0, None, None))
    optimizer = Adam(parameters, factors or dict.fromkeys(parameters, 1.0))
    generator = torch.Generator().manual_seed(seed)
    history = []
    for number in range(1, steps + 1):
        chosen = torch.randint(len(x), (batch_size,), generator=generator)
        gradients, losses = step(parameters, x[chosen], labels[chosen])
        optimizer.step(gradients, rates * min(1, number / max(warmup, 1)))
        history.append(losses)
    return torch.stack(history)


def width_sweep(
    parametrization: str,
    width: int,
    rates: Sequence[float],
    x: Tensor,
    labels: Tensor,
    *,
    seeds: int = 2,
    steps: int = 40,
    last: int = 10,
    base_width: int = 32,
) -> Tensor:
    """Loss by learning rate: a network of this width for each rate and each seed.

    Args:
        parametrization: see `scalings`.
        width: of the hidden layers.
        rates: learning rates at the base width.
        x: (examples, features).
        labels: (examples,), classes from 0.
        seeds: initializations for each rate.
        steps: of Adam.
        last: how many of the steps the loss is averaged over.
        base_width: where all parametrizations agree.

    Returns:
        (seeds, rates), the mean loss of the last steps.
    """
    classes = int(labels.max()) + 1
    scaling = scalings(parametrization, "adam", width, base_width, x.shape[1])
    drawn = [draw(scaling, width, x.shape[1], classes, seed) for seed in range(seeds)]
    models = {
        name: torch.stack([d[name] for d in drawn for _ in rates]) for name in scaling
    }

    def loss(parameters: Parameters, batch: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(forward(parameters, scaling, batch)["output"], target)

    losses = train_together(
        loss,
        models,
        torch.tensor(rates).repeat(seeds),
        x,
        labels,
        factors={name: s.rate for name, s in scaling.items()},
        steps=steps,
    )
    return losses[-last:].mean(0).view(seeds, len(rates))


def depth_sweep(
    variant: str,
    depth: int,
    rates: Sequence[float],
    x: Tensor,
    labels: Tensor,
    *,
    seeds: int = 1,
    steps: int = 100,
    warmup: int = 0,
) -> Tensor:
    """Train deep residual networks of one variant: one for each rate and each seed.

    The stream is as wide as the data; after the last norm a matrix reads it out.

    Args:
        variant: see `residual.VARIANTS`.
        depth: blocks of two matrices each.
        rates: of Adam.
        x: (examples, features).
        labels: (examples,), classes from 0.
        seeds: initializations for each rate.
        steps: of Adam.
        warmup: of these, with rising rates.

    Returns:
        (steps, seeds, rates), the loss of each step.
    """
    width, classes = x.shape[1], int(labels.max()) + 1
    models = [
        residual_stack(variant, depth, width, seed)
        for seed in range(seeds)
        for _ in rates
    ]
    blocks = models[0]
    names = [name for name, _ in blocks[0].named_parameters()]
    parameters = {  # each (models, depth, *shape)
        name: torch.stack(
            [
                torch.stack([getattr(b, name).detach() for b in model])
                for model in models
            ]
        )
        for name in names
    }
    parameters["readout"] = torch.zeros(len(models), classes, width)

    def loss(given: Parameters, batch: Tensor, target: Tensor) -> Tensor:
        # unbind: the gradient of each layer is stacked once, not padded and added.
        layers = zip(*(given[name].unbind() for name in names), strict=True)
        for block, own in zip(blocks, layers, strict=True):
            batch = functional_call(block, dict(zip(names, own, strict=True)), (batch,))
        return F.cross_entropy(rms_norm(batch) @ given["readout"].T, target)

    losses = train_together(
        loss,
        parameters,
        torch.tensor(rates).repeat(seeds),
        x,
        labels,
        steps=steps,
        warmup=warmup,
    )
    return losses.view(steps, seeds, len(rates))


def valley(rates: Sequence[float], losses: Tensor, within: float = 2.0) -> float:
    """The middle of the rates that do well, in powers of two.

    The very best rate jumps from seed to seed where a valley is flat; the middle of
    all that come within a factor of the best does not.

    Args:
        rates: (rates,).
        losses: (rates,).
        within: the factor.

    Raises:
        ValueError: no loss is finite.
    """
    losses = losses.nan_to_num(math.inf)
    limit = within * losses.min()
    if not limit < math.inf:
        raise ValueError("losses: got none that is finite, allowed is one or more")
    pairs = zip(rates, losses, strict=True)
    good = [math.log2(rate) for rate, loss in pairs if loss <= limit]
    return sum(good) / len(good)
