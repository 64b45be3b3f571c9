"""DDIM: the same network, without noise on the way, so that steps may be long."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from underhood.stable_diffusion.checks import fraction
from underhood.stable_diffusion.noise import Generators, normal
from underhood.stable_diffusion.noise_schedule import (
    Scheduler,
    Step,
    to_noise,
    to_original,
)


class DDIMScheduler(Scheduler):
    """Read x₀ and ε off x_t, and mix them again with less noise.

    Args:
        clip_sample, clip_sample_range: keep x₀ in ±range; for pixels, not for latents.
        set_alpha_to_one: end at ᾱ = 1, no noise; else at the ᾱ of step 0, as Stable
            Diffusion does.
        **schedule: see `Scheduler`.

    Source: Song et al., "Denoising Diffusion Implicit Models", 2021, equations 12, 16.
    """

    left_out = Scheduler.left_out | {"clip_sample": True, "set_alpha_to_one": True}

    def __init__(
        self,
        *,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = False,
        **schedule: Any,
    ) -> None:
        super().__init__(**schedule)
        self.remember(locals())
        self.final_alpha_cumprod = (
            torch.tensor(1.0) if set_alpha_to_one else self.alphas_cumprod[0]
        )

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *,
        eta: float = 0.0,
        generator: Generators = None,
    ) -> Step:
        """From x_t to x_(t - stride), for t = `timestep`; every tensor (batch, ...).

        t - stride is the next of `timesteps` with the spacing "leading"; with another
        one, only if the number of steps divides that of the training.

        Args:
            eta: noise on the way; 0 none (DDIM), 1 as much as DDPM.

        Raises:
            ValueError: eta is not in [0, 1].
        """
        fraction("eta", eta)
        t = int(timestep)
        ratio = self.alpha_bar(t)
        before = self.alpha_bar(t - self.stride(), self.final_alpha_cumprod)
        x0, noise = self._read(model_output, sample, ratio)
        variance = (1 - before) / (1 - ratio) * (1 - ratio / before)
        std = eta * variance.sqrt()
        mixed = before.sqrt() * x0 + (1 - before - std**2).sqrt() * noise
        if eta > 0:
            mixed = mixed + std * normal(sample.shape, generator).to(sample)
        return Step(mixed, x0)

    def reverse_step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> Step:
        """From x_(t - stride) to x_t, for t = `timestep`: towards the noise.

        The network should be asked at x_t, which is sought; it is asked at
        x_(t - stride) instead, which is nearly the same if steps are short. About
        t - stride see `step`.
        """
        t = int(timestep)
        before = self.alpha_bar(t - self.stride(), self.final_alpha_cumprod)
        x0, noise = self._read(model_output, sample, before)
        ratio = self.alpha_bar(t)
        return Step(ratio.sqrt() * x0 + (1 - ratio).sqrt() * noise, x0)

    def _read(
        self, model_output: Tensor, sample: Tensor, ratio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x₀ and ε in a sample with ᾱ = ratio."""
        mix = (ratio.sqrt(), (1 - ratio).sqrt())
        x0 = to_original(self.prediction_type, model_output, sample, *mix)
        if self.config["clip_sample"]:
            limit = self.config["clip_sample_range"]
            x0 = x0.clamp(-limit, limit)
        return x0, to_noise(self.prediction_type, model_output, sample, *mix)
