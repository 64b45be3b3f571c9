"""The loop of every sampler, in its smallest form."""

from __future__ import annotations

import torch
from torch import Tensor

from underhood.stable_diffusion.mixture import Network
from underhood.stable_diffusion.noise_schedule import Scheduler
from underhood.stable_diffusion.schedulers import DDIMScheduler


@torch.no_grad()
def sample(
    scheduler: Scheduler,
    network: Network,
    noise: Tensor,
    steps: int,
) -> Tensor:
    """From noise to data: (batch, ...) -> the same shape."""
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        said = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(said, t, x).prev_sample
    return x


@torch.no_grad()
def invert(
    scheduler: DDIMScheduler, network: Network, data: Tensor, steps: int
) -> Tensor:
    """From data to the noise that `sample` would make it of (DDIM inversion).

    `steps` should divide those of the training; see `DDIMScheduler.step`.
    """
    scheduler.set_timesteps(steps)
    x = data
    for t in scheduler.timesteps.flip(0):
        before = max(int(t) - scheduler.stride(), 0)
        x = scheduler.reverse_step(network(x, before), t, x).prev_sample
    return x
