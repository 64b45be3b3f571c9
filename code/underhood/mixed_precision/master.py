"""Master weights: FP32 copies that remember what 16 bits cannot.

Also the two ways to do without: stochastic rounding and Kahan summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

ALLOWED = (torch.float16, torch.bfloat16, torch.float32)


class MasterWeights:
    """FP32 copies of low-precision parameters, and the optimizer that moves them.

    Args:
        parameters: of the model: float16, bfloat16, or float32, where the copy buys
            nothing.
        make_optimizer: called with the list of master weights.

    Raises:
        TypeError: a parameter is none of these.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        make_optimizer: Callable[[list[Tensor]], Optimizer],
    ) -> None:
        self.parameters = list(parameters)
        for parameter in self.parameters:
            if parameter.dtype not in ALLOWED:
                raise TypeError(
                    f"parameters: got {parameter.dtype}, allowed: {ALLOWED}"
                )
        self.masters = [
            p.detach().clone().float().requires_grad_() for p in self.parameters
        ]
        self.optimizer = make_optimizer(self.masters)

    def _pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        return zip(self.parameters, self.masters, strict=True)

    def take_gradients(self) -> None:
        """Add the gradients of the model to those of the masters, in float32."""
        for parameter, master in self._pairs():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad + gradient
            parameter.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the masters into the parameters of the model."""
        for parameter, master in self._pairs():
            parameter.copy_(master)

    @torch.no_grad()
    def forget(self) -> None:
        """Set the masters to the rounded parameters, as if there were none."""
        for parameter, master in self._pairs():
            master.copy_(parameter)


def stochastic_bfloat16(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 rounded to bfloat16 with the exact value as its mean.

    BF16 is the upper half of FP32. Add a random lower half, and the carry rounds up
    with the probability that the dropped bits say. Finite numbers only.

    Raises:
        TypeError: `x` is not float32.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"x: got {x.dtype}, allowed is torch.float32")
    noise = torch.empty_like(x, dtype=torch.int32)
    noise.random_(1 << 16, generator=generator)
    bits = (x.contiguous().view(torch.int32) + noise) & -(1 << 16)
    return bits.view(torch.float32).bfloat16()


class StochasticRounding:
    """`weight += update` in bfloat16, rounded up or down by chance."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, weight: Tensor, update: Tensor) -> Tensor:
        return stochastic_bfloat16(weight.float() + update.float(), self.generator)


class KahanSummation:
    """`weight += update` in 16 bits, with a second 16-bit number for what was lost."""

    def __init__(self) -> None:
        self.lost: Tensor | None = None

    def __call__(self, weight: Tensor, update: Tensor) -> Tensor:
        if self.lost is None:
            self.lost = torch.zeros_like(weight)
        update = update.to(weight.dtype) + self.lost
        larger = weight + update
        self.lost = update - (larger - weight)
        return larger


def round_to_nearest(weight: Tensor, update: Tensor) -> Tensor:
    """`weight + update`, as the dtype of the weight does it."""
    return (weight.float() + update.float()).to(weight.dtype)
