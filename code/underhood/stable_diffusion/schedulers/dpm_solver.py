"""DPM-Solver++: a second-order multistep method for x₀; the sampler of 20 steps."""

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


class DPMSolverMultistepScheduler(Scheduler):
    """Solve the linear part of the equation exactly, the rest by the last two x₀.

    In λ = log(√ᾱ / √(1 - ᾱ)) the path is x(λ) = σ x(s)/σ(s) + σ ∫ e^λ x₀(λ) dλ.

    Args:
        solver_order: 1 (then it is DDIM) or 2. solver_type: how x₀ is continued at
            order 2, "midpoint" or "heun".
        lower_order_final: with fewer than 15 steps, do the last one at order 1.
        euler_at_final: do the last one at order 1 in any case.
        use_karras_sigmas: the σ of Karras et al.
        final_sigmas_type: end at σ = "zero", or at that of step 0, "sigma_min".
        **schedule: see `Scheduler`.

    Source: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
    Probabilistic Models", 2022, algorithm 2.
    """

    default_spacing = "linspace"
    interpolates = True

    def __init__(
        self,
        *,
        solver_order: int = 2,
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        final_sigmas_type: str = "zero",
        **schedule: Any,
    ) -> None:
        super().__init__(**schedule)
        self.remember(locals())
        one_of("solver_order", solver_order, (1, 2))
        one_of("solver_type", solver_type, ("midpoint", "heun"))
        one_of("final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))
        if self.config["rescale_betas_zero_snr"]:
            self.alphas_cumprod[-1] = 2**-24  # λ would be infinite
        self._place(self.timesteps.numpy(), self.training_sigmas()[::-1])

    def _place(
        self, timesteps: np.ndarray, sigmas: np.ndarray, last: float = 0.0
    ) -> None:
        ended = np.concatenate([sigmas, [last]]).astype(np.float32)
        self.sigmas = torch.from_numpy(ended)  # one more than timesteps
        self.timesteps = torch.from_numpy(timesteps).long()
        self.position: int | None = None
        self.originals: list[Tensor] = []  # x₀ of the last steps

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the steps to visit, and their σ.

        Raises:
            ValueError: also if order 2 is asked for and two steps have the same σ.
        """
        super().set_timesteps(num_inference_steps)
        steps = self.spaced(num_inference_steps).round()
        known = self.training_sigmas()
        if self.config["use_karras_sigmas"]:
            sigmas = karras_sigmas(known[0], known[-1], num_inference_steps)
            steps = timesteps_of_sigmas(sigmas, known).round()
        else:
            sigmas = np.interp(steps, np.arange(len(known)), known)
        if self.config["solver_order"] == 2 and (np.diff(sigmas) >= 0).any():
            raise ValueError(
                f"num_inference_steps: got {num_inference_steps}; two of the steps "
                f"would have the same σ; take fewer, or timestep_spacing 'trailing'"
            )
        last = known[0] if self.config["final_sigmas_type"] == "sigma_min" else 0.0
        self._place(steps, sigmas, last)

    def spaced(self, steps: int) -> np.ndarray:
        """One step more than asked for, without its last: the end is not t = 0."""
        if self.spacing == "trailing":
            return super().spaced(steps)
        return super().spaced(steps + 1)[:-1]

    def set_begin_index(self, begin_index: int) -> None:
        """Start at this position of `timesteps` (from a picture, not from noise)."""
        super().set_begin_index(begin_index)
        self.position = begin_index

    def add_noise(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """alpha · x₀ + sigma · noise, at the σ of each step: (batch, ...)."""
        if self.position is not None:  # in the middle of a run
            positions = [self.position] * len(timesteps)
        else:
            positions = [self.position_of(t) for t in timesteps]
        alpha, sigma = alpha_sigma(self.sigmas[positions].to(original_samples))
        shape = (-1,) + (1,) * (noise.ndim - 1)
        return alpha.view(shape) * original_samples + sigma.view(shape) * noise

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        **options: Any,
    ) -> Step:
        """From σ of `timestep` to the next one; every tensor (batch, ...)."""
        self.stride()
        if self.position is None:
            self.position = self.position_of(timestep)
        here = self.position
        x0 = to_original(
            self.prediction_type,
            model_output,
            sample.float(),
            *alpha_sigma(self.sigmas[here]),
        )
        self.originals = [*self.originals[-1:], x0]
        order = self._order(here)
        alpha, sigma = alpha_sigma(self.sigmas[here + 1])
        old = alpha_sigma(self.sigmas[here])
        h = log_snr(self.sigmas[here + 1]) - log_snr(self.sigmas[here])
        shrink = (-h).exp() - 1
        moved = sigma / old[1] * sample - alpha * shrink * x0
        if order == 2:
            h_before = log_snr(self.sigmas[here]) - log_snr(self.sigmas[here - 1])
            slope = (x0 - self.originals[-2]) / h_before  # dx₀/dλ
            if self.config["solver_type"] == "midpoint":
                moved = moved - 0.5 * alpha * shrink * h * slope
            else:
                moved = moved + alpha * (shrink + h) * slope
        self.position += 1
        return Step(moved.to(model_output.dtype), x0)

    def _order(self, here: int) -> int:
        """Of this step: 1 where there is no x₀ before it, and maybe at the end."""
        steps, config = len(self.timesteps), self.config
        first_order_end = (
            config["euler_at_final"]
            or config["final_sigmas_type"] == "zero"
            or (config["lower_order_final"] and steps < 15)
        )
        if len(self.originals) < 2 or (here == steps - 1 and first_order_end):
            return 1
        return config["solver_order"]


def alpha_sigma(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 - ᾱ), of their quotient σ."""
    alpha = 1 / (ratio**2 + 1).sqrt()
    return alpha, ratio * alpha


def log_snr(ratio: Tensor) -> Tensor:
    """λ = log(√ᾱ / √(1 - ᾱ)) = -log σ; infinite where there is no noise."""
    return -ratio.log()
