"""stable_diffusion: its three networks against diffusers' and transformers'."""

from __future__ import annotations

import hashlib
import math

import diffusers
import pytest
import torch
import transformers

from diffusion_peers import gap, their_text_encoder, their_unet, their_vae
from underhood.stable_diffusion import (
    AutoencoderKL,
    CLIPTextModel,
    DiagonalGaussian,
    UNet2DConditionModel,
)
from underhood.stable_diffusion.attention import Attention
from underhood.stable_diffusion.blocks import timestep_embedding
from underhood.stable_diffusion.shapes import Stage, key_digest, stages

SDXL_PARTS = {
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 20,
}
UNETS = {
    "v1": {},
    "three levels": {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": (2, 4, 3),
        "transformer_layers_per_block": (1, 1, 2),
    },
    "v2": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "XL": SDXL_PARTS,
    "inpainting": {"in_channels": 9},
    "sines first": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3},
}


def twin(theirs):
    """Our UNet with their configuration and weights."""
    ours = UNet2DConditionModel.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval()


def a_batch(theirs, height: int = 8, width: int = 8, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    sample = torch.randn(2, theirs.config.in_channels, height, width, generator=g)
    words = torch.randn(2, 7, 24, generator=g)
    added = None
    if theirs.config.addition_embed_type:
        added = {
            "text_embeds": torch.randn(2, 20, generator=g),
            "time_ids": torch.rand(2, 6, generator=g) * 500,
        }
    return sample, words, added


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_unet_equals_diffusers(name: str) -> None:
    theirs = their_unet(**UNETS[name])
    ours = twin(theirs)
    for timestep in (0, 999, torch.tensor([3, 700])):
        sample, words, added = a_batch(theirs)
        expected = theirs(sample, timestep, words, added_cond_kwargs=added).sample
        assert gap(ours(sample, timestep, words, added), expected) < 1e-5
    sample, words, added = a_batch(theirs, 7, 9)  # halves that are no whole numbers
    expected = theirs(sample, 5, words, added_cond_kwargs=added).sample
    assert gap(ours(sample, 5, words, added), expected) < 1e-5


def norms(model: torch.nn.Module) -> dict[str, tuple]:
    """What no output shows sharply: the settings of every norm."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            found[name] = (module.num_groups, module.eps)
        elif isinstance(module, torch.nn.LayerNorm):
            found[name] = (tuple(module.normalized_shape), module.eps)
    return found


def test_every_norm_has_the_groups_and_the_eps_of_its_peer() -> None:
    unet, vae, text = their_unet(), their_vae(), their_text_encoder()
    assert norms(twin(unet)) == norms(unet)
    assert norms(AutoencoderKL.from_config(vae.config)) == norms(vae)
    assert norms(CLIPTextModel.from_config(text.config.to_dict())) == norms(text)


@torch.no_grad()
def test_stages_are_those_that_diffusers_goes_through() -> None:
    theirs = their_unet(**UNETS["three levels"])
    expected: list[Stage] = []

    def watch(name: str, block: torch.nn.Module) -> None:
        def note(module, _, output) -> None:
            shape = (output[0] if isinstance(output, tuple) else output).shape[1:]
            count = torch.nn.utils.parameters_to_vector(module.parameters()).numel()
            attends = "CrossAttn" in type(module).__name__
            expected.append(Stage(name, tuple(shape), count, attends))

        block.register_forward_hook(note)

    levels = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(3)]
    for name in ("conv_in", *levels, "mid_block", "conv_out"):
        watch(name, theirs.get_submodule(name))
    theirs(torch.zeros(1, 4, 8, 8), 0, torch.zeros(1, 77, 24))
    ours = UNet2DConditionModel.from_config(theirs.config).to("meta")
    assert stages(ours) == expected
    assert not any(module._forward_hooks for module in ours.modules())


def test_a_digest_of_keys_by_hand() -> None:
    wanted = hashlib.sha256(b"bias (3,)\nweight (3, 2)").hexdigest()
    assert key_digest(torch.nn.Linear(2, 3)) == wanted


@torch.no_grad()
def test_controlnet_residuals_go_where_diffusers_adds_them() -> None:
    theirs = their_unet()
    ours = twin(theirs)
    sample, words, _ = a_batch(theirs)
    sizes = [(16, 8), (16, 8), (16, 4), (32, 4)]  # channels, edge: what is left
    down = [torch.randn(2, c, e, e) for c, e in sizes]
    extra = {
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": torch.randn(2, 32, 4, 4),
    }
    expected = theirs(sample, 5, words, **extra).sample
    assert gap(ours(sample, 5, words, **extra), expected) < 1e-5


@torch.no_grad()
def test_attention_in_slices_is_attention() -> None:
    theirs = their_unet()
    ours = twin(theirs)
    sample, words, _ = a_batch(theirs)
    whole = ours(sample, 5, words)
    for size in (1, 3, 100):
        ours.apply(lambda m, size=size: setattr(m, "slice_size", size))
        assert gap(ours(sample, 5, words), whole) < 1e-5


def test_upcast_attention_survives_scores_beyond_half_precision() -> None:
    torch.manual_seed(0)
    query = 300 * torch.randn(1, 5, 64)
    plain, upcast = (
        Attention(64, num_heads=1, head_dim=64, upcast=up) for up in (False, True)
    )
    for layer in (plain, upcast):
        for each in (layer.to_q, layer.to_k):
            torch.nn.init.eye_(each.weight)
        layer.half()
        layer.slice_size = 1  # scores are made, not streamed
    assert upcast(query.half()).isfinite().all()
    assert not plain(query.half()).isfinite().all()


@pytest.mark.parametrize("upcast", [False, True])
def test_the_attentions_upcast_where_those_of_diffusers_do(upcast: bool) -> None:
    theirs = their_unet(**SDXL_PARTS, upcast_attention=upcast)
    wanted = {
        name: module.upcast_attention
        for name, module in theirs.named_modules()
        if isinstance(module, diffusers.models.attention_processor.Attention)
    }
    found = {
        name: module.upcast
        for name, module in twin(theirs).named_modules()
        if isinstance(module, Attention)
    }
    assert found == wanted
    assert set(found.values()) == {upcast}


def test_time_embedding_by_its_formula() -> None:
    """Written out; cosines first, as the checkpoints want it."""
    waves = timestep_embedding(torch.tensor([7.0]), 6)[0].tolist()
    frequencies = [10_000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(7 * f) for f in frequencies]
    expected += [math.sin(7 * f) for f in frequencies]
    assert waves == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("dim", "freq_shift"), [(5, 0), (0, 0), (2, 1)])
def test_waves_that_there_are_not(dim: int, freq_shift: int) -> None:
    message = f"dim: got {dim}; an even number above {2 * freq_shift} is needed"
    with pytest.raises(ValueError, match=message):
        timestep_embedding(torch.tensor([7.0]), dim, freq_shift=freq_shift)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
        {
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "layers_per_block": 2,
        },
    ],
    ids=["v1", "v3", "three levels"],
)
@torch.no_grad()
def test_autoencoder_equals_diffusers(changes: dict) -> None:
    theirs = their_vae(**changes)
    ours = AutoencoderKL.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    expected, got = theirs.encode(image).latent_dist, ours.encode(image)
    assert gap(got.mean, expected.mean) < 1e-5
    assert gap(got.std, expected.std) < 1e-5
    assert gap(got.kl(), expected.kl()) < 1e-3
    assert gap(ours.decode(got.mean), theirs.decode(expected.mean).sample) < 1e-4
    generator = torch.Generator().manual_seed(5)
    noisy = expected.sample(torch.Generator().manual_seed(5))
    assert gap(got.sample(generator), noisy) < 1e-5


def test_kl_of_a_gaussian_by_torch_distributions() -> None:
    parameters = torch.randn(2, 4, 3, 3)
    got = DiagonalGaussian(parameters)
    mean, logvar = parameters.chunk(2, dim=1)
    normal = torch.distributions.Normal
    each = torch.distributions.kl_divergence(
        normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)
    )
    assert gap(got.kl(), each.sum(dim=(1, 2, 3))) < 1e-4


@torch.no_grad()
def test_tiles_equal_those_of_diffusers() -> None:
    theirs = their_vae()
    theirs.enable_tiling()
    ours = AutoencoderKL.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict())
    latent = torch.randn(1, 4, 13, 20)
    whole = ours.decode(latent)
    ours.tile_size = 16
    got = ours.decode(latent)
    assert gap(got, theirs.decode(latent).sample) < 1e-4
    assert got.shape == whole.shape and gap(got, whole) > 1e-3  # tiles do cost
    image = torch.rand(1, 3, 36, 20) * 2 - 1
    expected = theirs.encode(image).latent_dist.mean
    assert gap(ours.encode(image).mean, expected) < 1e-4


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [99, 2])
@torch.no_grad()
def test_text_encoder_equals_transformers(act: str, eos: int) -> None:
    theirs = their_text_encoder(
        vocab_size=100,
        max_position_embeddings=16,
        num_hidden_layers=3,
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=eos,
    )
    ours = CLIPTextModel.from_config(theirs.config.to_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids = torch.randint(3, 98, (3, 12))
    ids[:, 7] = 99  # the end, the largest number
    expected = theirs(ids, output_hidden_states=True)
    got = ours(ids)
    assert gap(got.last_hidden_state, expected.last_hidden_state) < 1e-5
    assert gap(got.pooler_output, expected.pooler_output) < 1e-5
    penultimate = theirs.final_layer_norm(expected.hidden_states[-2])
    assert gap(ours(ids, clip_skip=1).last_hidden_state, penultimate) < 1e-5


@torch.no_grad()
def test_no_token_sees_the_ones_behind_it() -> None:
    theirs = their_text_encoder(vocab_size=100, max_position_embeddings=16)
    ours = CLIPTextModel.from_config(theirs.config.to_dict())
    ids = torch.randint(3, 98, (1, 12))
    changed = ids.clone()
    changed[0, 6:] = 50
    before, after = ours(ids)[0], ours(changed)[0]
    assert gap(after[:, :6], before[:, :6]) == 0
    assert (after[:, 6:] - before[:, 6:]).abs().amax(-1).min() > 1e-3


# techniques: measured with diffusers 0.42 and transformers 5.23 at full size
@pytest.mark.parametrize(
    ("ours", "theirs", "parameters", "tensors"),
    [
        (
            UNet2DConditionModel,
            lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768),
            859_520_964,
            686,
        ),
        (
            AutoencoderKL,
            lambda: diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            83_653_863,
            248,
        ),
        (
            CLIPTextModel,
            lambda: transformers.CLIPTextModel(
                transformers.CLIPTextConfig(
                    hidden_size=768, intermediate_size=3072, num_attention_heads=12
                )
            ),
            123_060_480,
            196,
        ),
    ],
)
def test_full_size_has_the_published_keys(ours, theirs, parameters, tensors) -> None:
    with torch.device("meta"):
        mine, peer = ours().state_dict(), theirs().state_dict()
    assert sum(each.numel() for each in mine.values()) == parameters
    assert len(mine) == tensors
    mine_shapes = {key: tuple(value.shape) for key, value in mine.items()}
    their_shapes = {key: tuple(value.shape) for key, value in peer.items()}
    assert mine_shapes == their_shapes


def test_the_defaults_are_for_512_pixels() -> None:
    """As the files of v1.5 say."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(), AutoencoderKL()
    assert unet.config["sample_size"] == 64
    assert vae.config["sample_size"] == 64 * vae.factor == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": (16, 30)}, "norm_num_groups: got 8"),
        ({"attention_head_dim": 5}, "attention_head_dim: got 5"),
        ({"attention_head_dim": (4, 4, 4)}, "attention_head_dim: got 3 values"),
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types: got 1 blocks"),
        ({"up_block_types": ("UpBlock2D", "Up")}, "up_block_types: got 'Up'"),
        ({"addition_embed_type": "text"}, "addition_embed_type: got 'text'"),
        (SDXL_PARTS | {"addition_time_embed_dim": None}, "time_embed_dim: got None"),
        (
            SDXL_PARTS | {"projection_class_embeddings_input_dim": None},
            "projection_class_embeddings_input_dim: got None",
        ),
        ({"out_channels": 0}, "out_channels: got 0"),
        ({"act_fn": "mish"}, "act_fn: got 'mish'; allowed here: 'silu'"),
        ({"layers": 2}, "layers: no entry that UNet2DConditionModel knows"),
    ],
)
def test_unet_refuses(change: dict, message: str) -> None:
    small = {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 8,
    }
    with pytest.raises(ValueError, match=message):
        UNet2DConditionModel.from_config(small | change)


def test_models_refuse_bad_input() -> None:
    with torch.device("meta"):
        vae, text = AutoencoderKL(), CLIPTextModel()
        with pytest.raises(ValueError, match=r"image: got shape .*multiples of 8"):
            vae.encode(torch.zeros(1, 3, 64, 60))
        with pytest.raises(ValueError, match=r"image: got shape .*multiples of 8"):
            vae.encode(torch.zeros(1, 3, 60, 64))
        with pytest.raises(ValueError, match="input_ids: got shape"):
            text(torch.zeros(1, 78, dtype=torch.long))
        with pytest.raises(ValueError, match="clip_skip: got 12; allowed: 0 to 11"):
            text(torch.zeros(1, 7, dtype=torch.long), clip_skip=12)
    with pytest.raises(ValueError, match="hidden_act: got 'relu'"):
        CLIPTextModel(hidden_act="relu")
