"""Small models of diffusers and transformers, to which ours are held."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from underhood.stable_diffusion import CLIPTokenizer

diffusers.utils.logging.set_verbosity_error()
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "layers_per_block": 1,
}
VAE = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "sample_size": 16,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# What scheduler_config.json of stable-diffusion-v1-5 says.
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def bpe_file() -> Path:
    """OpenAI's merges, out of the package clip-anytorch."""
    name = "bpe_simple_vocab_16e6.txt.gz"
    return Path(next(f for f in files("clip-anytorch") if f.name == name).locate())


def their_tokenizer(ours: CLIPTokenizer) -> Any:
    return transformers.CLIPTokenizer(
        vocab=ours.vocab, merges=list(ours.ranks), model_max_length=77
    )


def their_unet(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DConditionModel(**UNET | changes).eval()


def their_vae(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return diffusers.AutoencoderKL(**VAE | changes).eval()


def their_text_encoder(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(**TEXT | changes)
    return transformers.CLIPTextModel(config).eval()


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference."""
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()
