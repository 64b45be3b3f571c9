"""Euler's method with fresh noise: step below the next σ, then add noise up to it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from underhood.stable_diffusion.noise import Generators, normal
from underhood.stable_diffusion.noise_schedule import Step
from underhood.stable_diffusion.schedulers.euler import SigmaScheduler


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """A picture that never settles: with more steps it becomes another one.

    Args:
        **schedule: see `Scheduler`.

    Source: `sample_euler_ancestral` of k-diffusion; the split of σ is that of DDPM.
    """

    def __init__(self, **schedule: Any) -> None:
        super().__init__(**schedule)

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *,
        generator: Generators = None,
    ) -> Step:
        """From σ of `timestep` to the next one; every tensor (batch, ...)."""
        self.stride()
        sigma = self._sigma(timestep)
        assert self.position is not None
        to = self.sigmas[self.position + 1]
        up = (to**2 * (sigma**2 - to**2) / sigma**2).sqrt()  # up² + down² = to²
        down = (to**2 - up**2).sqrt()
        x0 = self._original(model_output, sample.float(), sigma)
        moved = sample + (sample - x0) / sigma * (down - sigma)
        moved = moved + up * normal(sample.shape, generator).to(sample)
        self.position += 1
        return Step(moved.to(model_output.dtype), x0)
