"""Stable Diffusion beside diffusers and transformers: the largest differences.

`benchmarks/stable_diffusion.py` records them. Small networks with random weights, every
sampler over a whole run, and whole pictures from the same seed. The tests hold the same
comparisons, over more settings, to 1e-4.
"""

from __future__ import annotations

import random
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "code"), str(ROOT / "tests")]

import diffusion_peers as peers  # noqa: E402
import underhood.stable_diffusion as ours  # noqa: E402
from diffusion_peers import gap  # noqa: E402

SAMPLERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")


def networks() -> list[tuple[str, float]]:
    """The three networks on one random input each."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 77, 24, generator=generator)
    image = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    ids = torch.randint(0, 49_000, (2, 77), generator=generator)
    unet, vae, text = peers.their_unet(), peers.their_vae(), peers.their_text_encoder()
    mine = (
        ours.UNet2DConditionModel.from_config(unet.config),
        ours.AutoencoderKL.from_config(vae.config),
        ours.CLIPTextModel.from_config(text.config.to_dict()),
    )
    for each, peer in zip(mine, (unet, vae, text), strict=True):
        each.load_state_dict(peer.state_dict())
    decoded = vae.decode(vae.encode(image).latent_dist.mean).sample
    return [
        ("UNet", gap(mine[0](sample, 500, words), unet(sample, 500, words).sample)),
        ("autoencoder, there and back", gap(mine[1](image), decoded)),
        ("text encoder", gap(mine[2](ids)[0], text(ids).last_hidden_state)),
    ]


def run(scheduler: Any, name: str) -> list[Tensor]:
    """Every sample of 20 steps."""
    scheduler.set_timesteps(20)
    options: dict[str, Any] = {}
    if name in STOCHASTIC:
        options["generator"] = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    x, seen = start * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        said = torch.tanh(scheduler.scale_model_input(x, t))
        x = scheduler.step(said, t, x, **options).prev_sample
        seen.append(x)
    return seen


def samplers() -> list[tuple[str, float]]:
    """Every step of 20, for each sampler."""
    found = []
    for name in SAMPLERS:
        config = {"clip_sample": False, "set_alpha_to_one": False}
        config |= {"skip_prk_steps": True} | peers.SD_SCHEDULE
        theirs = run(getattr(diffusers, name).from_config(config), name)
        mine = run(getattr(ours, name).from_config(config), name)
        pairs = zip(mine, theirs, strict=True)
        found.append((f"{name}, 20 steps", max(gap(a, b) for a, b in pairs)))
    return found


def tokenizers(count: int = 2000) -> list[tuple[str, float]]:
    """The share of random texts that are cut into other tokens."""
    tokenizer = ours.CLIPTokenizer.from_bpe_file(peers.bpe_file())
    theirs, rng = peers.their_tokenizer(tokenizer), random.Random(0)
    known = [
        chr(i)
        for i in range(0x30000)
        if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")
    ]
    texts = ["".join(rng.choices(known, k=rng.randint(1, 20))) for _ in range(count)]
    expected = theirs(texts, add_special_tokens=False).input_ids
    wrong = [tokenizer.encode(t) != e for t, e in zip(texts, expected, strict=True)]
    return [(f"tokenizer, share of {count:,} Unicode texts", sum(wrong) / count)]


def pictures() -> list[tuple[str, float]]:
    """Whole pictures from the same seed: from words, from a picture, into a hole."""
    tokenizer = ours.CLIPTokenizer.from_bpe_file(peers.bpe_file())
    parts = {
        "unet": peers.their_unet(),
        "vae": peers.their_vae(),
        "text_encoder": peers.their_text_encoder(),
        "tokenizer": peers.their_tokenizer(tokenizer),
        "scheduler": diffusers.PNDMScheduler(**peers.SD_SCHEDULE, skip_prk_steps=True),
        "safety_checker": None,
        "feature_extractor": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        diffusers.StableDiffusionPipeline(**parts).save_pretrained(folder)
        mine = ours.StableDiffusion.from_pretrained(folder)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:] = 1
    found = []
    for what, peer, call, inputs in (
        ("text to image", "", mine.text_to_image, ()),
        ("image to image", "Img2Img", mine.image_to_image, (image,)),
        ("inpainting", "Inpaint", mine.inpaint, (image, mask)),
    ):
        pipeline = getattr(diffusers, f"StableDiffusion{peer}Pipeline")(**parts)
        pipeline.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 10} | (
            {"height": 16, "width": 16} if peer != "Img2Img" else {}
        )
        seeded = torch.Generator().manual_seed(0)
        expected = pipeline(
            "a cat", *inputs, generator=seeded, output_type="pt", **options
        ).images
        got = call(
            "a cat",
            *inputs,
            num_inference_steps=10,
            seed=0,
            output="tensor",
            progress=False,
        )
        found.append((f"{what}, pixels", gap(got, expected)))
    return found


@torch.no_grad()
def parity() -> list[dict[str, Any]]:
    """All rows: what was compared, and the largest difference."""
    rows = [*networks(), *samplers(), *tokenizers(), *pictures()]
    return [{"what": what, "gap": float(value)} for what, value in rows]
