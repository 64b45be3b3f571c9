"""The UNet: from a noisy latent, its time and the words, the noise in it.

Down through four resolutions and up again; each step up reads what the step down at the
same resolution left for it. Constructor arguments are the entries of a Hugging Face
`config.json`, and the keys of the `state_dict` are those of the published checkpoints.

Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
2022; what is computed matches `UNet2DConditionModel` of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.stable_diffusion.blocks import TimestepEmbedding, timestep_embedding
from underhood.stable_diffusion.checks import at_least, divides, one_of, per_level
from underhood.stable_diffusion.config import Configured
from underhood.stable_diffusion.unet_blocks import (
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)

DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")


class UNet2DConditionModel(nn.Module, Configured):
    """The denoiser of Stable Diffusion. The defaults are those of SD v1.5.

    Args:
        sample_size: height and width of a latent, if none is asked for; may be None.
        in_channels, out_channels: of the latents; 9 in for the inpainting checkpoints.
        down_block_types, up_block_types: with ("CrossAttn…") or without attention.
        block_out_channels: channels per resolution. layers_per_block: residual blocks
            per resolution on the way down; one more on the way up.
        cross_attention_dim: width of the words.
        attention_head_dim: the **number** of heads, in spite of its name, at each
            resolution: a slip in the format that too many files contain.
        transformer_layers_per_block: depth of the attention at each resolution.
        norm_num_groups, norm_eps: of the `GroupNorm`s.
        flip_sin_to_cos, freq_shift: of `timestep_embedding`.
        downsample_padding: of `Downsample2D`.
        use_linear_projection, upcast_attention: of `Transformer2DModel`.
        addition_embed_type: "text_time" for SDXL: sizes and a summary of the words are
            added to the time; then addition_time_embed_dim (waves per size) and
            projection_class_embeddings_input_dim (width of all together).

    Raises:
        ValueError: an argument has no meaning, or does not fit another.
    """

    # Entries of a config.json that have one allowed value here.
    only = {
        "act_fn": "silu",
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "dropout": 0.0,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    }
    # Entries that say nothing about the network.
    ignored = ("addition_embed_type_num_heads", "class_embeddings_concat")
    left_out = {"cross_attention_dim": 1280, "sample_size": None}

    def __init__(
        self,
        *,
        sample_size: int | None = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: Sequence[str] = (DOWN_BLOCKS[0],) * 3 + (DOWN_BLOCKS[1],),
        up_block_types: Sequence[str] = (UP_BLOCKS[1],) + (UP_BLOCKS[0],) * 3,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        attention_head_dim: int | Sequence[int] = 8,
        transformer_layers_per_block: int | Sequence[int] = 1,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        downsample_padding: int = 1,
        use_linear_projection: bool = False,
        upcast_attention: bool | None = False,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        projection_class_embeddings_input_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.remember(locals())
        channels = tuple(block_out_channels)
        self._check()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        if addition_embed_type is not None:
            width = self.config["projection_class_embeddings_input_dim"]
            self.add_embedding = TimestepEmbedding(width, 4 * channels[0])
        self.down_blocks = self._down_blocks(channels)
        self.mid_block = UNetMidBlock2DCrossAttn(
            channels[-1], resnet=self._resnet(), attention=self._attention(-1)
        )
        self.up_blocks = self._up_blocks(channels)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels[0], norm_eps)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def _resnet(self) -> dict[str, Any]:
        return {
            "time_channels": 4 * self.config["block_out_channels"][0],
            "groups": self.config["norm_num_groups"],
            "eps": self.config["norm_eps"],
        }

    def _attention(self, level: int, block_type: str = "CrossAttn") -> Any:
        """Arguments of `Transformer2DModel` at a resolution; None: no attention."""
        if not block_type.startswith("CrossAttn"):
            return None
        config = self.config
        levels = len(config["block_out_channels"])
        heads, depth = (
            per_level(name, config[name], levels)[level]
            for name in ("attention_head_dim", "transformer_layers_per_block")
        )
        return {
            "context_dim": config["cross_attention_dim"],
            "num_heads": heads,
            "depth": depth,
            "groups": config["norm_num_groups"],
            "linear": config["use_linear_projection"],
            "upcast": bool(config["upcast_attention"]),
        }

    def _down_blocks(self, channels: tuple[int, ...]) -> nn.ModuleList:
        return nn.ModuleList(
            DownBlock2D(
                channels[max(level - 1, 0)],
                channels[level],
                self.config["layers_per_block"],
                resnet=self._resnet(),
                attention=self._attention(level, block_type),
                downsample=level < len(channels) - 1,
                padding=self.config["downsample_padding"],
            )
            for level, block_type in enumerate(self.config["down_block_types"])
        )

    def _up_blocks(self, channels: tuple[int, ...]) -> nn.ModuleList:
        layers, last = self.config["layers_per_block"], len(channels) - 1
        # What the way down leaves, in order: conv_in, then per level its layers and,
        # but for the last one, the downsampling.
        left = [channels[0]]
        for level in range(len(channels)):
            left += [channels[level]] * (layers + (level < last))
        blocks = []
        for i, block_type in enumerate(self.config["up_block_types"]):
            level = last - i
            block = UpBlock2D(
                channels[min(level + 1, last)],
                [left.pop() for _ in range(layers + 1)],
                channels[level],
                resnet=self._resnet(),
                attention=self._attention(level, block_type),
                upsample=level > 0,
            )
            blocks.append(block)
        return nn.ModuleList(blocks)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise (or the velocity, or the picture: as it was trained).

        Args:
            sample: (batch, in_channels, h, w), the noisy latents.
            timestep: a number, or (batch,).
            encoder_hidden_states: (batch, words, cross_attention_dim).
            added_cond_kwargs: SDXL's "text_embeds", (batch, pooled), and "time_ids",
                (batch, sizes).
            down_block_additional_residuals, mid_block_additional_residual: what a
                ControlNet adds to the tensors left for the way up, and to the middle.

        Returns:
            (batch, out_channels, h, w).
        """
        time = self.embed_time(sample, timestep, added_cond_kwargs)
        x = self.conv_in(sample)
        left = [x]
        for block in self.down_blocks:
            x, more = block(x, time, encoder_hidden_states)
            left += more
        if down_block_additional_residuals is not None:
            extra = down_block_additional_residuals
            left = [a + b for a, b in zip(left, extra, strict=True)]
        x = self.mid_block(x, time, encoder_hidden_states)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        for block in self.up_blocks:
            x = block(x, left, time, encoder_hidden_states)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def embed_time(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        added: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """(batch, 4 · block_out_channels[0]): the step, and SDXL's additions to it."""
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        flip, shift = self.config["flip_sin_to_cos"], self.config["freq_shift"]

        def waves(numbers: Tensor, dim: int) -> Tensor:
            return timestep_embedding(
                numbers, dim, flip_sin_to_cos=flip, freq_shift=shift
            )

        first = waves(steps, self.config["block_out_channels"][0])
        time = self.time_embedding(first.to(sample.dtype))
        if self.config["addition_embed_type"] is not None:
            if added is None:
                raise ValueError(
                    "added_cond_kwargs: got None; with addition_embed_type, "
                    "text_embeds and time_ids are needed"
                )
            sizes = waves(
                added["time_ids"].flatten(), self.config["addition_time_embed_dim"]
            ).view(len(sample), -1)
            both = torch.cat([added["text_embeds"], sizes.to(sample.dtype)], dim=-1)
            time = time + self.add_embedding(both)
        return time

    def _check(self) -> None:
        config = self.config
        channels = tuple(config["block_out_channels"])
        for name, allowed in (
            ("down_block_types", DOWN_BLOCKS),
            ("up_block_types", UP_BLOCKS),
        ):
            if len(config[name]) != len(channels):
                raise ValueError(
                    f"{name}: got {len(config[name])} blocks; block_out_channels has "
                    f"{len(channels)}"
                )
            for block_type in config[name]:
                one_of(name, block_type, allowed)
        one_of(
            "addition_embed_type", config["addition_embed_type"], (None, "text_time")
        )
        numbers = ["in_channels", "out_channels", "layers_per_block"]
        if config["addition_embed_type"] is not None:
            numbers += [
                "addition_time_embed_dim",
                "projection_class_embeddings_input_dim",
            ]
        for name in numbers:
            at_least(name, config[name], 1)
        divides(
            "norm_num_groups", config["norm_num_groups"], "block_out_channels", channels
        )
        heads = per_level(
            "attention_head_dim", config["attention_head_dim"], len(channels)
        )
        for count, width in zip(heads, channels, strict=True):
            divides("attention_head_dim", count, "block_out_channels", [width])
