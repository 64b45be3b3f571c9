"""DDPM: many small steps back, with fresh noise in each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from underhood.stable_diffusion.checks import one_of
from underhood.stable_diffusion.noise import Generators, normal
from underhood.stable_diffusion.noise_schedule import Scheduler, Step, to_original


class DDPMScheduler(Scheduler):
    """Sample x_(t-1) from q(x_(t-1) | x_t, x₀), with the x₀ that the network sees.

    Args:
        variance_type: "fixed_small", the variance of q, or "fixed_large", β_t.
        clip_sample, clip_sample_range: keep x₀ in ±range; for pixels, not for latents.
        **schedule: see `Scheduler`.

    Source: Ho et al. 2020, equations 6 and 7.
    """

    left_out = Scheduler.left_out | {"clip_sample": True}

    def __init__(
        self,
        *,
        variance_type: str = "fixed_small",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        **schedule: Any,
    ) -> None:
        super().__init__(**schedule)
        self.remember(locals())
        one_of("variance_type", variance_type, ("fixed_small", "fixed_large"))

    def previous_timestep(self, timestep: int) -> int:
        """The next one of `timesteps`, or -1 after the last; t - 1 in training."""
        if self.num_inference_steps is None:
            return timestep - 1
        position = int((self.timesteps == timestep).nonzero()[0])
        last = position == len(self.timesteps) - 1
        return -1 if last else int(self.timesteps[position + 1])

    def variance(self, timestep: int) -> Tensor:
        """Of the noise added on the way from `timestep`: a number, at least 1e-20."""
        ratio = self.alpha_bar(timestep)
        before = self.alpha_bar(self.previous_timestep(timestep))
        beta = 1 - ratio / before
        if self.config["variance_type"] == "fixed_large":
            return beta
        return ((1 - before) / (1 - ratio) * beta).clamp(min=1e-20)

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *,
        generator: Generators = None,
    ) -> Step:
        """From x_t to x_(t-1), for t = `timestep`; every tensor (batch, ...)."""
        t = int(timestep)
        ratio = self.alpha_bar(t)
        before = self.alpha_bar(self.previous_timestep(t))
        alpha, beta = ratio / before, 1 - ratio / before
        x0 = to_original(
            self.prediction_type, model_output, sample, ratio.sqrt(), (1 - ratio).sqrt()
        )
        if self.config["clip_sample"]:
            x0 = x0.clamp(
                -self.config["clip_sample_range"], self.config["clip_sample_range"]
            )
        # The mean of q(x_(t-1) | x_t, x₀), equation 7.
        mean = (
            before.sqrt() * beta / (1 - ratio) * x0
            + alpha.sqrt() * (1 - before) / (1 - ratio) * sample
        )
        if t > 0:
            noise = normal(sample.shape, generator).to(sample)
            mean = mean + self.variance(t).sqrt() * noise
        return Step(mean, x0)
