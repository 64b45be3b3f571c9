"""Samplers: from noise to a picture, in a thousand steps or in ten."""

from underhood.stable_diffusion.schedulers.ddim import DDIMScheduler
from underhood.stable_diffusion.schedulers.ddpm import DDPMScheduler
from underhood.stable_diffusion.schedulers.dpm_solver import (
    DPMSolverMultistepScheduler,
)
from underhood.stable_diffusion.schedulers.euler import EulerDiscreteScheduler
from underhood.stable_diffusion.schedulers.euler_ancestral import (
    EulerAncestralDiscreteScheduler,
)
from underhood.stable_diffusion.schedulers.pndm import PNDMScheduler

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
]
