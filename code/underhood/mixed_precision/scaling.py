"""Loss scaling: a static factor, or one that a small state machine finds.

The states and their transitions are those of `torch.amp.GradScaler` (PyTorch 2.13,
torch/amp/grad_scaler.py) and of its kernel `torch._amp_update_scale_`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

READY, UNSCALED, STEPPED = "ready", "unscaled", "stepped"


class LossScaler:
    """Multiplies the loss, divides the gradients, and skips steps that overflowed.

    For each step, in this order: `scale(loss).backward()`, `unscale_(optimizer)` if
    the gradients are to be read or clipped, `step(optimizer)`, `update()`.

    Args:
        init_scale: the first scale; a power of two makes scaling exact.
        growth_factor: factor after `growth_interval` steps without overflow, > 1.
        backoff_factor: factor after a step with overflow, between 0 and 1.
        growth_interval: how many clean steps in a row make it grow.
        dynamic: False keeps `init_scale` for good; overflows still skip.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        *,
        dynamic: bool = True,
    ) -> None:
        self.loss_scale = _float32(init_scale)
        if not (init_scale > 0 and math.isfinite(self.loss_scale)):
            raise ValueError(f"init_scale: got {init_scale}, allowed is a number > 0")
        if not growth_factor > 1:
            raise ValueError(f"growth_factor: got {growth_factor}, allowed is > 1")
        if not 0 < backoff_factor < 1:
            raise ValueError(f"backoff_factor: got {backoff_factor}, allowed is (0, 1)")
        if growth_interval < 1:
            raise ValueError(f"growth_interval: got {growth_interval}, allowed is >= 1")
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.dynamic = dynamic
        self.clean_steps = 0
        self._stage: dict[int, str] = {}  # by optimizer, since the last update
        self._overflow: dict[int, bool] = {}

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale, in float32: in FP16 the product could overflow."""
        return loss.float() * self.loss_scale

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, in place, and look for inf and NaN.

        Raises:
            RuntimeError: they were divided already since the last `update`.
            TypeError: a gradient is FP16; it could underflow again.
        """
        stage = self._stage.get(id(optimizer), READY)
        if stage != READY:
            raise RuntimeError(f"unscale_: the optimizer is already {stage}")
        overflow = False
        inverse = 1.0 / self.loss_scale if self.loss_scale else math.inf
        for gradient in _gradients(optimizer):
            if gradient.dtype == torch.float16:
                raise TypeError("gradient: got float16, allowed is float32")
            gradient.mul_(inverse)
            overflow |= not bool(torch.isfinite(gradient).all())
        self._stage[id(optimizer)] = UNSCALED
        self._overflow[id(optimizer)] = overflow

    def step(self, optimizer: Optimizer) -> bool:
        """`optimizer.step()`, unless a gradient overflowed; then nothing is touched.

        Returns:
            Whether the step was taken.

        Raises:
            RuntimeError: called twice since the last `update`.
        """
        if self._stage.get(id(optimizer)) == STEPPED:
            raise RuntimeError("step: called twice without update()")
        if self._stage.get(id(optimizer), READY) == READY:
            self.unscale_(optimizer)
        taken = not self._overflow[id(optimizer)]
        if taken:
            optimizer.step()
        self._stage[id(optimizer)] = STEPPED
        return taken

    def update(self) -> None:
        """Move the scale: down after an overflow, up after enough clean steps.

        Raises:
            RuntimeError: no gradient was looked at since the last `update`.
        """
        if not self._overflow:
            raise RuntimeError(
                "update: no step() or unscale_() since the last update()"
            )
        if self.dynamic:
            self._move(any(self._overflow.values()))
        self._stage.clear()
        self._overflow.clear()

    def _move(self, overflow: bool) -> None:
        if overflow:
            self.loss_scale = _float32(self.loss_scale * self.backoff_factor)
            self.clean_steps = 0
            return
        self.clean_steps += 1
        if self.clean_steps == self.growth_interval:
            larger = _float32(self.loss_scale * self.growth_factor)
            if math.isfinite(larger):  # a scale of infinity would be none
                self.loss_scale = larger
            self.clean_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Under the names that `torch.amp.GradScaler` uses."""
        return {
            "scale": self.loss_scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.clean_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError if an entry is missing."""
        self.loss_scale = float(state["scale"])
        self.growth_factor = state["growth_factor"]
        self.backoff_factor = state["backoff_factor"]
        self.growth_interval = state["growth_interval"]
        self.clean_steps = state["_growth_tracker"]


def _float32(number: float) -> float:
    """What PyTorch's scaler would hold of it."""
    return torch.tensor(number, dtype=torch.float32).item()


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    groups = optimizer.param_groups
    found = [p.grad for group in groups for p in group["params"]]
    return [gradient for gradient in found if gradient is not None]
