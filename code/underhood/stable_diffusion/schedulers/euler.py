"""Euler's method in σ: walk along the tangent to the next noise level."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from underhood.stable_diffusion.checks import one_of
from underhood.stable_diffusion.noise_schedule import (
    Scheduler,
    Step,
    karras_sigmas,
    timesteps_of_sigmas,
    to_original,
)


class SigmaScheduler(Scheduler):
    """What both samplers of Euler's kind share: samples are x = x₀ + σ ε.

    They are those of the others divided by √ᾱ. `scale_model_input` goes back, because
    the network was trained on the others.
    """

    default_spacing = "linspace"
    interpolates = True

    def __init__(self, **schedule: Any) -> None:
        super().__init__(**schedule)
        if self.config["rescale_betas_zero_snr"]:
            self.alphas_cumprod[-1] = 2**-24  # σ would be infinite
        self._place(self.timesteps.numpy().astype(float), self.training_sigmas()[::-1])

    def _place(
        self, timesteps: np.ndarray, sigmas: np.ndarray, last: float = 0.0
    ) -> None:
        ended = np.concatenate([sigmas, [last]]).astype(np.float32)
        self.sigmas = torch.from_numpy(ended)  # one more than timesteps
        self.timesteps = torch.from_numpy(timesteps.astype(np.float32))
        self.position: int | None = None

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the steps to visit, and their σ."""
        super().set_timesteps(num_inference_steps)
        steps = self.spaced(num_inference_steps)
        known = self.training_sigmas()
        self._place(steps, np.interp(steps, np.arange(len(known)), known))

    @property
    def init_noise_sigma(self) -> Tensor:  # type: ignore[override]
        """The standard deviation of x at the first step."""
        largest = self.sigmas.max()
        if self.spacing == "leading":
            return (largest**2 + 1).sqrt()
        return largest  # no signal at the end of the schedule, says the spacing

    def set_begin_index(self, begin_index: int) -> None:
        """Start at this position of `timesteps` (from a picture, not from noise)."""
        super().set_begin_index(begin_index)
        self.position = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """x / √(σ² + 1): (batch, ...) of variance 1 again."""
        return sample / (self._sigma(timestep) ** 2 + 1).sqrt()

    def _sigma(self, timestep: Tensor | float) -> Tensor:
        if self.position is None:
            self.position = self.position_of(timestep)
        return self.sigmas[self.position]

    def _original(self, model_output: Tensor, sample: Tensor, sigma: Tensor) -> Tensor:
        alpha = 1 / (sigma**2 + 1).sqrt()
        return to_original(
            self.prediction_type, model_output, alpha * sample, alpha, alpha * sigma
        )

    def add_noise(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """x₀ + σ noise, with the σ of each step: (batch, ...)."""
        if self.position is not None:  # in the middle of a run
            positions = [self.position] * len(timesteps)
        else:
            positions = [self.position_of(t) for t in timesteps]
        sigma = self.sigmas[positions].to(original_samples)
        return original_samples + sigma.view(-1, *[1] * (noise.ndim - 1)) * noise


class EulerDiscreteScheduler(SigmaScheduler):
    """dx/dσ = ε: take the tangent to the next σ.

    Args:
        use_karras_sigmas: the σ of Karras et al. between the first and the last one.
        final_sigmas_type: end at σ = "zero", or at that of step 0, "sigma_min".
        **schedule: see `Scheduler`.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
    Models", 2022, algorithm 1 without its correction; as in k-diffusion.
    """

    def __init__(
        self,
        *,
        use_karras_sigmas: bool = False,
        final_sigmas_type: str = "zero",
        **schedule: Any,
    ) -> None:
        super().__init__(**schedule)
        self.remember(locals())
        one_of("final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the steps to visit, and their σ."""
        super().set_timesteps(num_inference_steps)
        known = self.training_sigmas()
        steps, sigmas = self.timesteps.numpy(), self.sigmas[:-1].numpy()
        if self.config["use_karras_sigmas"]:
            ends = float(sigmas[-1]), float(sigmas[0])
            sigmas = karras_sigmas(*ends, num_inference_steps)
            steps = timesteps_of_sigmas(sigmas, known)
        last = known[0] if self.config["final_sigmas_type"] == "sigma_min" else 0.0
        self._place(steps, sigmas, last)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        **options: Any,
    ) -> Step:
        """From σ of `timestep` to the next one; every tensor (batch, ...)."""
        self.stride()
        sigma = self._sigma(timestep)
        x0 = self._original(model_output, sample.float(), sigma)
        derivative = (sample - x0) / sigma  # dx/dσ
        assert self.position is not None
        self.position += 1
        moved = sample + derivative * (self.sigmas[self.position] - sigma)
        return Step(moved.to(model_output.dtype), x0)
