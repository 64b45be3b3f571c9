"""stable_diffusion: the pipeline, picture for picture as diffusers paints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import underhood.stable_diffusion as ours
from diffusion_peers import (
    SD_SCHEDULE,
    bpe_file,
    gap,
    their_text_encoder,
    their_tokenizer,
    their_unet,
    their_vae,
)
from underhood.stable_diffusion import CLIPTokenizer, StableDiffusion
from underhood.stable_diffusion.guidance import guide, rescale_guidance
from underhood.stable_diffusion.images import to_tensor
from underhood.stable_diffusion.noise import normal

SAMPLERS = (
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
PROMPTS = ["a photo of a cat", "blue square"]
SEED = 7


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_ours(images: Any) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """The parts of a pipeline of diffusers, with random weights."""
    tokenizer = CLIPTokenizer.from_bpe_file(bpe_file())
    return {
        "unet": their_unet(),
        "vae": their_vae(),
        "text_encoder": their_text_encoder(),
        "tokenizer": their_tokenizer(tokenizer),
        "scheduler": diffusers.PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True),
        "safety_checker": None,
        "feature_extractor": None,
    }


@pytest.fixture(scope="module")
def folder(theirs: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    diffusers.StableDiffusionPipeline(**theirs).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> StableDiffusion:
    return StableDiffusion.from_pretrained(folder)


@pytest.fixture
def sd(loaded: StableDiffusion) -> StableDiffusion:
    """Ours, with its own sampler."""
    return StableDiffusion(**loaded.parts() | {"scheduler": ours.PNDMScheduler()})


def with_sampler(name: str, theirs: dict, sd: StableDiffusion) -> dict:
    """Their parts and ours with the same sampler."""
    config = SD_SCHEDULE | {"clip_sample": False, "set_alpha_to_one": False}
    config |= {"skip_prk_steps": True}
    sd.scheduler = getattr(ours, name).from_config(ours.PNDMScheduler().config)
    return theirs | {"scheduler": getattr(diffusers, name).from_config(config)}


@pytest.mark.parametrize("name", SAMPLERS)
def test_text_to_image(name: str, theirs: dict, sd: StableDiffusion) -> None:
    peer = quiet(diffusers.StableDiffusionPipeline(**with_sampler(name, theirs, sd)))
    expected = peer(
        PROMPTS,
        negative_prompt=["ugly", "red"],
        num_inference_steps=5,
        num_images_per_prompt=2,
        generator=seeded(),
        output_type="np",
    ).images
    got = sd.text_to_image(
        PROMPTS,
        negative_prompt=["ugly", "red"],
        num_inference_steps=5,
        num_images_per_prompt=2,
        seed=SEED,
        output="tensor",
        progress=False,
    )
    assert got.std() > 0.05  # pictures, not a gray
    assert gap(got, as_ours(expected)) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.7},
        {"height": 24, "width": 16},
    ],
    ids=str,
)
def test_text_to_image_with_options(options, theirs, sd) -> None:
    peer = quiet(diffusers.StableDiffusionPipeline(**theirs))
    common = {"num_inference_steps": 3, **options}
    expected = peer(PROMPTS, generator=seeded(), output_type="np", **common).images
    got = sd.text_to_image(
        PROMPTS, seed=SEED, output="tensor", progress=False, **common
    )
    assert gap(got, as_ours(expected)) < 1e-4


@torch.no_grad()
def test_clip_skip_reaches_the_text_encoder(theirs, sd) -> None:
    """The words by transformers: diffusers asks it for a part that it has no more."""
    encoder, texts = theirs["text_encoder"], ["", "", *PROMPTS]
    ids = theirs["tokenizer"](
        texts, padding="max_length", return_tensors="pt"
    ).input_ids
    states = encoder(ids, output_hidden_states=True).hidden_states[-2]
    negative, words = encoder.final_layer_norm(states).chunk(2)
    peer = quiet(diffusers.StableDiffusionPipeline(**theirs))
    expected = peer(
        prompt_embeds=words,
        negative_prompt_embeds=negative,
        num_inference_steps=3,
        generator=seeded(),
        output_type="np",
    ).images
    common = {"num_inference_steps": 3, "output": "tensor", "progress": False}
    got = sd.text_to_image(PROMPTS, seed=SEED, clip_skip=1, **common)
    assert gap(got, as_ours(expected)) < 1e-4


def test_eta_reaches_ddim(theirs, sd) -> None:
    parts = with_sampler("DDIMScheduler", theirs, sd)
    peer = quiet(diffusers.StableDiffusionPipeline(**parts))
    common = {"num_inference_steps": 3, "eta": 0.8}
    expected = peer(PROMPTS, generator=seeded(), output_type="np", **common).images
    got = sd.text_to_image(
        PROMPTS, seed=SEED, output="tensor", progress=False, **common
    )
    assert gap(got, as_ours(expected)) < 1e-4


def a_picture() -> Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.rand(1, 3, 16, 24, generator=g)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image(name, strength, theirs, sd) -> None:
    parts = with_sampler(name, theirs, sd)
    peer = quiet(diffusers.StableDiffusionImg2ImgPipeline(**parts))
    common = {"strength": strength, "num_inference_steps": 5, "guidance_scale": 3.0}
    expected = peer(
        PROMPTS, a_picture(), generator=seeded(), output_type="np", **common
    ).images
    got = sd.image_to_image(
        PROMPTS, a_picture(), seed=SEED, output="tensor", progress=False, **common
    )
    assert gap(got, as_ours(expected)) < 1e-4


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting(name, strength, channels, theirs, sd) -> None:
    if channels == 4 and "Ancestral" in name:
        pytest.skip("diffusers draws noise for a picture that it does not look at")
    parts = with_sampler(name, theirs, sd)
    if channels == 9:
        parts["unet"] = their_unet(in_channels=9)
        sd.unet = ours.UNet2DConditionModel.from_config(parts["unet"].config).eval()
        sd.unet.load_state_dict(parts["unet"].state_dict())
    peer = quiet(diffusers.StableDiffusionInpaintPipeline(**parts))
    mask = torch.full((1, 1, 16, 24), 0.49)
    mask[:, :, 4:12, 6:20] = 0.5
    mask[:, :, 6:12, 8:20] = 1
    common = {"strength": strength, "num_inference_steps": 5}
    expected = peer(
        PROMPTS,
        a_picture(),
        mask,
        height=16,
        width=24,
        generator=seeded(),
        output_type="np",
        **common,
    ).images
    got = sd.inpaint(
        PROMPTS, a_picture(), mask, seed=SEED, output="tensor", progress=False, **common
    )
    assert gap(got, as_ours(expected)) < 1e-4


def test_outside_the_mask_the_latents_end_as_they_were(sd: StableDiffusion) -> None:
    mask = torch.zeros(1, 1, 16, 24)
    mask[:, :, :8] = 1
    latents = sd.inpaint(
        "x", a_picture(), mask, num_inference_steps=3, seed=1, output="latent"
    )
    generator = torch.Generator().manual_seed(1)
    clean = sd.vae.encode(2 * a_picture() - 1).sample(generator) * 0.18215
    assert gap(latents[:, :, 4:], clean[:, :, 4:]) < 1e-6
    assert (latents[:, :, :4] - clean[:, :, :4]).abs().mean() > 0.01


def test_diffusers_reads_what_we_write(theirs, sd, tmp_path) -> None:
    sd.save_pretrained(tmp_path)
    peer = quiet(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path))
    common = {"num_inference_steps": 3}
    expected = peer(PROMPTS, generator=seeded(), output_type="np", **common).images
    got = sd.text_to_image(
        PROMPTS, seed=SEED, output="tensor", progress=False, **common
    )
    assert gap(got, as_ours(expected)) < 1e-4


def test_a_seed_per_picture_makes_it_independent_of_its_neighbors(sd) -> None:
    options = {"num_inference_steps": 2, "output": "tensor", "progress": False}
    both = sd.text_to_image(PROMPTS, seed=[4, 5], **options)
    alone = sd.text_to_image(PROMPTS[1], seed=[5], **options)
    assert gap(both[1:], alone) < 1e-5
    other = sd.text_to_image(PROMPTS[1], seed=[6], **options)
    assert gap(other, alone) > 0.05
    mask = torch.ones(1, 1, 16, 24)
    for call, picture in (
        (sd.image_to_image, (a_picture(),)),
        (sd.inpaint, (a_picture(), mask)),
    ):
        both = call(PROMPTS, *picture, seed=[4, 5], **options)
        alone = call(PROMPTS[1], *picture, seed=[5], **options)
        assert gap(both[1:], alone) < 1e-5


def test_seeds_of_numpy_and_no_negative_prompt(sd: StableDiffusion) -> None:
    options = {"num_inference_steps": 2, "output": "tensor", "progress": False}
    plain = sd.text_to_image("cat", seed=3, **options)
    same = sd.text_to_image("cat", seed=np.int64(3), negative_prompt=None, **options)
    assert torch.equal(same, plain)


def test_callback_sees_every_latent(sd: StableDiffusion) -> None:
    seen: list[tuple[int, int, Tensor]] = []
    last = sd.text_to_image(
        "cat",
        num_inference_steps=3,
        seed=1,
        output="latent",
        progress=False,
        callback=lambda i, t, latents: seen.append((i, t, latents)),
    )
    assert [i for i, _, _ in seen] == [0, 1, 2, 3]  # PNDM takes its first step twice
    assert [t for _, t, _ in seen] == sd.scheduler.timesteps.tolist()
    assert torch.equal(seen[-1][2], last) and last.dtype == torch.float32


def test_slicing_and_tiling_change_little_or_what_they_say(sd: StableDiffusion) -> None:
    options = {"num_inference_steps": 2, "seed": 1, "output": "tensor"}
    options |= {"progress": False, "height": 32, "width": 32}
    plain = sd.text_to_image("cat", **options)
    sd.enable_attention_slicing(3)
    assert gap(sd.text_to_image("cat", **options), plain) < 1e-5
    sd.enable_attention_slicing(None)
    sd.enable_vae_tiling(16)
    tiled = sd.text_to_image("cat", **options)
    sd.enable_vae_tiling(None)
    assert tiled.shape == plain.shape and gap(tiled, plain) > 1e-4


def test_half_precision_is_near_single(sd: StableDiffusion) -> None:
    options = {"num_inference_steps": 3, "seed": 1, "output": "tensor"}
    plain = sd.text_to_image("cat", progress=False, **options)
    half = sd.to(dtype=torch.bfloat16).text_to_image("cat", progress=False, **options)
    sd.to(dtype=torch.float32)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert (half - plain).abs().mean() < 0.05


def test_pictures_of_pil_come_in_and_out(sd: StableDiffusion) -> None:
    picture = Image.new("RGB", (25, 17), (255, 0, 51))
    tensor = to_tensor(picture, 2)
    assert tensor.shape == (1, 3, 16, 24)
    assert tensor[0, :, 3, 3].tolist() == pytest.approx([1.0, 0.0, 0.2])
    out = sd.image_to_image("x", picture, num_inference_steps=2, progress=False)
    assert [each.size for each in out] == [(24, 16)]
    mask = Image.new("1", (25, 17), 1)
    out = sd.inpaint("x", picture, mask, num_inference_steps=2, progress=False)
    assert [each.size for each in out] == [(24, 16)]


def test_guidance_by_its_two_forms() -> None:
    """Code counts s, the paper w = s - 1: (1 + w) ε_c - w ε_u."""
    without, with_words = torch.randn(2, 3, 4, dtype=torch.float64)
    for scale in (0.0, 1.0, 7.5):
        w = scale - 1
        paper = (1 + w) * with_words - w * without
        assert torch.allclose(guide(without, with_words, scale), paper)


def test_rescaled_guidance_has_the_plain_deviation() -> None:
    guided, plain = 5 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    full = rescale_guidance(guided, plain, 1.0)
    assert torch.allclose(full.std((1, 2, 3)), plain.std((1, 2, 3)))
    assert torch.equal(rescale_guidance(guided, plain, 0.0), guided)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sd: sd.text_to_image([]), "prompt: got an empty list"),
        (
            lambda sd: sd.text_to_image("a", negative_prompt=["b", "c"]),
            "negative_prompt: got 2 of them; 1, or 1",
        ),
        (
            lambda sd: sd.text_to_image("a", height=15),
            "height: got 15; a multiple of 2",
        ),
        (
            lambda sd: sd.text_to_image("a", num_inference_steps=0),
            "num_inference_steps",
        ),
        (
            lambda sd: sd.text_to_image("a", num_images_per_prompt=0),
            "num_images_per_prompt: got 0",
        ),
        (lambda sd: sd.enable_attention_slicing(0), "slice_size: got 0"),
        (lambda sd: sd.text_to_image("a", output="jpeg"), "output: got 'jpeg'"),
        (
            lambda sd: sd.text_to_image("a", latents=torch.zeros(1, 4, 3, 3)),
            r"latents: got shape \(1, 4, 3, 3\)",
        ),
        (lambda sd: sd.text_to_image(["a", "b"], seed=[1]), "generator: got 1 of them"),
        (
            lambda sd: sd.image_to_image("a", a_picture(), strength=0.001),
            "strength: got 0.001",
        ),
        (
            lambda sd: sd.image_to_image("a", a_picture() * 2 - 1),
            "image: got values from",
        ),
        (
            lambda sd: sd.image_to_image("a", torch.zeros(4, 3, 16)),
            r"image: got a tensor of shape \(4, 3, 16\); \(batch, 3, height",
        ),
        (
            lambda sd: sd.image_to_image("a", torch.zeros(1, 4, 16, 24)),
            r"image: got a tensor of shape \(1, 4, 16, 24\)",
        ),
        (
            lambda sd: sd.image_to_image("a", torch.zeros(1, 3, 16, 25)),
            "image: .* multiples of 2, is needed",
        ),
        (
            lambda sd: sd.image_to_image(["a"] * 3, a_picture().repeat(2, 1, 1, 1)),
            "image: got 2 pictures; 1, or 3",
        ),
        (
            lambda sd: sd.inpaint("a", a_picture(), torch.zeros(1, 1, 8, 8)),
            r"mask: got \(8, 8\) pixels",
        ),
        (
            lambda sd: sd.inpaint("a", a_picture(), torch.ones(1, 3, 16, 24)),
            r"mask: got a tensor of shape \(1, 3, 16, 24\); \(batch, 1, height",
        ),
        (
            lambda sd: sd.inpaint("a", a_picture(), 255 * torch.ones(1, 1, 16, 24)),
            "mask: got values from 255 to 255",
        ),
        (
            lambda sd: sd.inpaint(["a"] * 3, a_picture(), torch.ones(2, 1, 16, 24)),
            "mask: got 2 of them; 1, or 3, is needed",
        ),
        (
            lambda sd: sd.image_to_image("a", a_picture() * float("nan")),
            "image: got values from nan to nan",
        ),
        (
            lambda sd: sd.image_to_image(
                ["a", "b"], [Image.new("RGB", (16, 16)), Image.new("RGB", (24, 16))]
            ),
            r"image: got pictures of \(height, width\) \[\(16, 16\), \(16, 24\)\]",
        ),
        (lambda sd: sd.text_to_image("a", eta=1.2), "eta: got 1.2; allowed: 0 to 1"),
        (
            lambda sd: sd.text_to_image("a", guidance_scale=float("nan")),
            "guidance_scale: got nan; a finite number is needed",
        ),
        (lambda sd: sd.enable_vae_tiling(12), "tile_size: got 12"),
    ],
)
def test_pipeline_refuses(call, message: str, sd: StableDiffusion) -> None:
    with pytest.raises(ValueError, match=message):
        call(sd)


def test_a_unet_without_a_size_needs_to_be_told(
    sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sd.unet.config, "sample_size", None)
    with pytest.raises(ValueError, match="width: got None; this UNet has no sample"):
        sd.text_to_image("a", height=16)
    images = sd.text_to_image("a", height=16, width=24, num_inference_steps=1)
    assert images[0].size == (24, 16)


def test_parts_that_do_not_fit_are_refused(sd: StableDiffusion) -> None:
    small = dict(sd.unet.config)
    for change, message in (
        ({"in_channels": 5}, "unet: in_channels: got 5; allowed: 4, 9"),
        ({"out_channels": 8}, "unet: out_channels: got 8; allowed: 4"),
        ({"cross_attention_dim": 25}, "unet: cross_attention_dim: got 25; allowed: 24"),
    ):
        unet = ours.UNet2DConditionModel(**small | change)
        with pytest.raises(ValueError, match=message):
            StableDiffusion(**sd.parts() | {"unet": unet})
    text = ours.CLIPTextModel(vocab_size=49407, hidden_size=24, num_attention_heads=4)
    with pytest.raises(ValueError, match="tokenizer: has a token 49407"):
        StableDiffusion(**sd.parts() | {"text_encoder": text})
    nine = ours.UNet2DConditionModel(**small | {"in_channels": 9})
    painter = StableDiffusion(**sd.parts() | {"unet": nine})
    with pytest.raises(ValueError, match="unet: one for inpainting"):
        painter.text_to_image("x")
    with pytest.raises(ValueError, match="unet: one for inpainting"):
        painter.image_to_image("x", a_picture())


def test_long_prompts_are_told(sd: StableDiffusion) -> None:
    with pytest.warns(UserWarning, match=r"prompt: 80 tokens; only 75 .*dog dog$"):
        sd.text_to_image(
            "cat " * 75 + "dog " * 5, num_inference_steps=1, progress=False
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_of_a_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="generator: got one on cuda"):
        normal((1,), torch.Generator(device="cuda"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "model_index.json",
            {"unet": ["diffusers", "UNet3D"]},
            "model_index.json: unet: got 'UNet3D'",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "LMSDiscreteScheduler"},
            "scheduler_config.json: _class_name: got 'LMSDiscreteScheduler'",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "wavy"},
            "scheduler_config.json: beta_schedule: got 'wavy'",
        ),
    ],
)
def test_folders_refused(folder: Path, name: str, change: dict, message: str) -> None:
    path = folder / name
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | change))
    try:
        with pytest.raises(ValueError, match=message):
            StableDiffusion.from_pretrained(folder)
    finally:
        path.write_text(before)
