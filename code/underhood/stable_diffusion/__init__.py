"""Stable Diffusion: pictures from words, by denoising the latents of an autoencoder."""

from underhood.stable_diffusion.autoencoder import AutoencoderKL, DiagonalGaussian
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.guidance import guide, rescale_guidance
from underhood.stable_diffusion.noise_schedule import Scheduler, make_betas
from underhood.stable_diffusion.options import Options
from underhood.stable_diffusion.pipeline import StableDiffusion
from underhood.stable_diffusion.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from underhood.stable_diffusion.tokenizer import CLIPTokenizer
from underhood.stable_diffusion.unet import UNet2DConditionModel
from underhood.stable_diffusion.weights import load_model, save_model

__all__ = [
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DiagonalGaussian",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "Options",
    "PNDMScheduler",
    "Scheduler",
    "StableDiffusion",
    "UNet2DConditionModel",
    "guide",
    "load_model",
    "make_betas",
    "rescale_guidance",
    "save_model",
]
