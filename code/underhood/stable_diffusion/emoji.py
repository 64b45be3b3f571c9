"""A small latent diffusion model of emoji: its parts, sized for two CPU cores.

Each part is described by the entries of a Hugging Face `config.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.data import SIZE, to_bytes
from underhood.stable_diffusion.noise import normal
from underhood.stable_diffusion.schedulers import DDIMScheduler
from underhood.stable_diffusion.state import write_json, write_tensors
from underhood.stable_diffusion.tokenizer import CLIPTokenizer, vocab_of
from underhood.stable_diffusion.unet import UNet2DConditionModel
from underhood.stable_diffusion.vocabulary import learn_merges

WORDS = 16  # tokens of a caption, start and end included
MERGES = 1000

AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": [16, 32, 64, 64],  # 64 × 64 pixels, a latent of 8 × 8
    "layers_per_block": 1,
    "norm_num_groups": 8,
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
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 128],
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_ENCODER["hidden_size"],
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
# ᾱ falls to exactly 0, so that sampling starts where training ended.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 0,
}


def make_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A tokenizer whose vocabulary is learned from the captions."""
    merges = learn_merges(captions, MERGES)
    return CLIPTokenizer(vocab_of(merges), merges, model_max_length=WORDS)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder for that vocabulary, with new weights."""
    size = {"vocab_size": len(tokenizer.vocab), "eos_token_id": tokenizer.end}
    return CLIPTextModel.from_config(TEXT_ENCODER | size)


def make_unet() -> UNet2DConditionModel:
    """The UNet, with new weights."""
    return UNet2DConditionModel.from_config(UNET)


def make_scheduler() -> DDIMScheduler:
    """The sampler, whose noise schedule is also that of the training."""
    return DDIMScheduler(**SCHEDULER)


class Parts(NamedTuple):
    """All networks of the model."""

    autoencoder: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel


def save(parts: Parts, folder: Path | str) -> None:
    """Write the model in half precision, in the layout of `stable-diffusion-v1-5`."""
    folder = Path(folder)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    weights = "diffusion_pytorch_model.safetensors"
    levels = len(parts.autoencoder.config["block_out_channels"])
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    text = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "bos_token_id": parts.tokenizer.start,
        "pad_token_id": parts.tokenizer.pad,
    }
    for name, module, more, prefix, file in (
        ("vae", parts.autoencoder, blocks, "", weights),
        ("unet", parts.unet, {}, "", weights),
        ("text_encoder", parts.text_encoder, text, "text_model.", "model.safetensors"),
    ):
        write_json(folder / name / "config.json", module.config | more)
        tensors = {
            f"{prefix}{key}": value.half() for key, value in module.state_dict().items()
        }
        write_tensors(folder / name / file, tensors)


@torch.no_grad()
def paint(
    parts: Parts,
    prompts: Sequence[str],
    *,
    steps: int = 20,
    guidance_scale: float = 3.0,
    seed: int = 0,
) -> Tensor:
    """One picture for each prompt, with DDIM: (prompts, 3, 64, 64), uint8."""
    device = next(parts.unet.parameters()).device
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    tokens = parts.tokenizer([""] * len(prompts) + list(prompts)).to(device)
    states = parts.text_encoder(tokens).last_hidden_state
    shape = (len(prompts), UNET["in_channels"], 8, 8)
    latents = normal(shape, torch.Generator().manual_seed(seed)).to(device)
    for t in scheduler.timesteps:
        both = parts.unet(torch.cat([latents] * 2), t, states)
        without, given = both.chunk(2)
        guided = without + guidance_scale * (given - without)
        latents = scheduler.step(guided, t, latents).prev_sample
    scale = parts.autoencoder.config["scaling_factor"]
    return to_bytes(parts.autoencoder.decode(latents / scale)).cpu()
