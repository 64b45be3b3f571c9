"""A small latent diffusion model of emoji: its parts, sized for two CPU cores.

Each part is described by the entries of a Hugging Face `config.json`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from underhood.stable_diffusion.attention import Transformer2DModel
from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.blocks import ResnetBlock2D
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.data import FOLDER, SIZE, to_bytes
from underhood.stable_diffusion.pipeline import StableDiffusion
from underhood.stable_diffusion.schedulers import DDIMScheduler
from underhood.stable_diffusion.tokenizer import CLIPTokenizer, vocab_of
from underhood.stable_diffusion.unet import UNet2DConditionModel
from underhood.stable_diffusion.vocabulary import learn_merges

MODEL = FOLDER / "model"
WORDS = 16  # tokens of a caption, start and end included
MERGES = 1000

AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 32,
    "block_out_channels": [16, 32, 64, 96],  # 64 × 64 pixels, a latent of 8 × 8
    "layers_per_block": 1,
    "norm_num_groups": 2,  # of 8 channels at least: smaller ones lose the color
    "sample_size": SIZE,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WORDS,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": AUTOENCODER["latent_channels"],
    "out_channels": AUTOENCODER["latent_channels"],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 128, 160],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_ENCODER["hidden_size"],
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
# A latent of 2,048 numbers shows through much noise. At ᾱ = 0.03 it still tells which
# picture it is, and the caption has nothing to add. This schedule is below that for two
# fifths of its steps, the cosine for a tenth. ᾱ falls to exactly 0, so that sampling
# starts where training ended.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,  # without meaning for this spacing; diffusers asks for it
}


def make_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A tokenizer whose vocabulary is learned from the captions."""
    merges = learn_merges(captions, MERGES)
    return CLIPTokenizer(vocab_of(merges), merges, model_max_length=WORDS)


def let_through(module: nn.Module) -> None:
    """Give new weights with which a network passes on what it gets, from the start.

    Convolutions keep the variance, and what is added to the stream begins at zero. With
    the weights that PyTorch gives, each convolution takes away two thirds of the
    variance; colors fade, and a short training hardly gets them back.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, ResnetBlock2D):
            nn.init.zeros_(part.conv2.weight)
        elif isinstance(part, Transformer2DModel):
            assert isinstance(part.proj_out, nn.Conv2d | nn.Linear)
            nn.init.zeros_(part.proj_out.weight)


@torch.no_grad()
def make_autoencoder() -> AutoencoderKL:
    """The autoencoder, with new weights; its latents are nearly without noise."""
    autoencoder = AutoencoderKL.from_config(AUTOENCODER)
    let_through(autoencoder)
    channels = AUTOENCODER["latent_channels"]
    autoencoder.quant_conv.weight[channels:] = 0
    assert autoencoder.quant_conv.bias is not None
    autoencoder.quant_conv.bias[channels:] = -4  # log variances
    return autoencoder


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder for that vocabulary, with new weights."""
    size = {"vocab_size": len(tokenizer.vocab), "eos_token_id": tokenizer.end}
    return CLIPTextModel.from_config(TEXT_ENCODER | size)


def make_unet() -> UNet2DConditionModel:
    """The UNet, with new weights; at first it predicts nothing."""
    unet = UNet2DConditionModel.from_config(UNET)
    let_through(unet)
    nn.init.zeros_(unet.conv_out.weight)
    return unet


def make_scheduler() -> DDIMScheduler:
    """The sampler, whose noise schedule is also that of the training."""
    return DDIMScheduler(**SCHEDULER)


def save(pipeline: StableDiffusion, folder: Path | str) -> None:
    """Write the model in half precision, in the layout of stable-diffusion-v1-5."""
    halves = copy.copy(pipeline)
    for name in ("vae", "text_encoder", "unet"):
        setattr(halves, name, copy.deepcopy(getattr(pipeline, name)).half())
    halves.save_pretrained(folder)


def load(folder: Path | str = MODEL) -> StableDiffusion:
    """The trained model that is kept with the code."""
    pipeline = StableDiffusion.from_pretrained(folder)
    # On a CPU the autoencoder is a third faster so; the UNet is not.
    pipeline.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pipeline


def paint(
    pipeline: StableDiffusion,
    prompts: str | Sequence[str],
    *,
    steps: int = 20,
    guidance_scale: float = 3.0,
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """One picture for each prompt: (prompts, 3, 64, 64), uint8."""
    pictures = pipeline.text_to_image(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        progress=False,
        output="tensor",
    )
    assert isinstance(pictures, Tensor)
    return (pictures * 255).round().to(torch.uint8).cpu()


@torch.no_grad()
def reconstruct(pipeline: StableDiffusion, pictures: Tensor) -> Tensor:
    """Encode and decode: (pictures, 3, 64, 64), uint8, to the same."""
    device = next(pipeline.vae.parameters()).device
    return to_bytes(pipeline.vae(pictures.to(device) / 127.5 - 1)).cpu()
