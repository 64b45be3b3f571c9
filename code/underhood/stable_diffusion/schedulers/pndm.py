"""PNDM: a multistep method on the path of DDIM; the sampler of Stable Diffusion v1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from underhood.stable_diffusion.noise_schedule import (
    Scheduler,
    Step,
    to_noise,
    to_original,
)

# Adams-Bashforth: how much the predictions of this and the last steps count.
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class PNDMScheduler(Scheduler):
    """Steps of DDIM, with a mixture of the last four predictions of the noise.

    There are no four in the beginning. Either three steps of Runge-Kutta make them, at
    four predictions each; or, as in Stable Diffusion, the first step is done twice
    and the order grows (`skip_prk_steps`, PLMS).

    Args:
        skip_prk_steps: without Runge-Kutta. set_alpha_to_one: as in DDIM.
        **schedule: see `Scheduler`; prediction_type "sample" is not possible.

    Source: Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    2022, equations 9 and 12; PLMS as in CompVis/latent-diffusion.
    """

    left_out = Scheduler.left_out | {"skip_prk_steps": False}

    def __init__(
        self,
        *,
        skip_prk_steps: bool = True,
        set_alpha_to_one: bool = False,
        **schedule: Any,
    ) -> None:
        super().__init__(**schedule)
        self.remember(locals())
        if self.prediction_type == "sample":
            raise ValueError(
                "prediction_type: got 'sample'; allowed: 'epsilon', 'v_prediction'"
            )
        self.final_alpha_cumprod = (
            torch.tensor(1.0) if set_alpha_to_one else self.alphas_cumprod[0]
        )
        self._forget()

    def _forget(self) -> None:
        self.predictions: list[Tensor] = []  # of the last steps, this one at the end
        self.counter = 0  # calls of `step`
        self.start: Tensor | None = None  # where a step began that takes several calls
        self.sum: Tensor | float = 0.0  # of Runge-Kutta's weighted predictions

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the steps to visit; some of them come more than once."""
        super().set_timesteps(num_inference_steps)
        self._forget()
        steps = self.timesteps.flip(0).numpy()  # the least noisy first
        if self.config["skip_prk_steps"]:
            self.prk_timesteps = np.array([], dtype=int)
            plms = np.concatenate([steps[:-1], steps[-2:-1], steps[-1:]])
        else:
            if len(steps) < 4:
                raise ValueError(
                    f"num_inference_steps: got {num_inference_steps}; Runge-Kutta "
                    f"needs at least 4"
                )
            halves = np.tile([0, self.stride() // 2], 4)
            pairs = steps[-4:].repeat(2) + halves
            self.prk_timesteps = pairs[:-1].repeat(2)[1:-1][::-1].copy()
            plms = steps[:-3]
        self.plms_timesteps = plms[::-1].copy()
        both = np.concatenate([self.prk_timesteps, self.plms_timesteps])
        self.timesteps = torch.from_numpy(both).long()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        **options: Any,
    ) -> Step:
        """The next call's x, for t = `timestep`; every tensor (batch, ...)."""
        self.stride()
        if self.counter < len(self.prk_timesteps):
            return self.step_prk(model_output, timestep, sample)
        return self.step_plms(model_output, timestep, sample)

    def step_prk(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> Step:
        """One of the four calls that make a step of Runge-Kutta."""
        turn = self.counter % 4
        to = int(timestep) - (0 if turn % 2 else self.stride() // 2)
        if turn == 0:
            self.predictions.append(model_output)
            self.start, self.sum = sample, 0.0
        self.sum = self.sum + model_output * (1 / 6, 1 / 3, 1 / 3, 1 / 6)[turn]
        noise = self.sum if turn == 3 else model_output
        begin = int(self.prk_timesteps[self.counter // 4 * 4])
        self.counter += 1
        return self._move(self.start, begin, to, noise)

    def step_plms(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> Step:
        """One call of the multistep method; the first step takes two of them."""
        t = int(timestep)
        to = t - self.stride()
        if self.counter == 1:  # again from where the first call came, now with both
            assert self.start is not None
            t, to, sample = t + self.stride(), t, self.start
            noise = (model_output + self.predictions[-1]) / 2
        else:
            self.predictions = [*self.predictions[-3:], model_output]
            self.start = sample
            weights = WEIGHTS[len(self.predictions) - 1]
            pairs = zip(weights, reversed(self.predictions), strict=True)
            noise = torch.stack([w * each for w, each in pairs]).sum(0)
        self.counter += 1
        return self._move(sample, t, to, noise)

    def _move(self, sample: Any, t: int, to: int, output: Any) -> Step:
        """A step of DDIM from t to `to`, in the form of equation 9."""
        ratio, before = self.alpha_bar(t), self.alpha_bar(to, self.final_alpha_cumprod)
        mix = (ratio.sqrt(), (1 - ratio).sqrt())
        noise = to_noise(self.prediction_type, output, sample, *mix)
        below = ratio * (1 - before).sqrt() + (ratio * (1 - ratio) * before).sqrt()
        moved = (before / ratio).sqrt() * sample - (before - ratio) * noise / below
        return Step(moved, to_original("epsilon", noise, sample, *mix))
