"""The autoencoder: from pixels to a latent with an eighth of the height and width.

Constructor arguments are the entries of a Hugging Face `config.json`, and the keys of
the `state_dict` are those of the published checkpoints.

Source: Rombach et al. 2022, section 3.1 and appendix G; what is computed matches
`AutoencoderKL` of diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from underhood.stable_diffusion.attention import Attention
from underhood.stable_diffusion.blocks import Downsample2D, ResnetBlock2D, Upsample2D
from underhood.stable_diffusion.checks import at_least, divides
from underhood.stable_diffusion.config import Configured
from underhood.stable_diffusion.noise import Generators, normal
from underhood.stable_diffusion.tiling import tiled

EPS = 1e-6  # of every GroupNorm of the autoencoder


class DiagonalGaussian:
    """What the encoder says about a picture: a mean and a variance for each number.

    Args:
        parameters: (batch, 2 · channels, h, w), means and log variances.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30, 20)
        self.std = (self.logvar / 2).exp()

    def sample(self, generator: Generators = None) -> Tensor:
        """mean + std · noise, from a CPU generator: (batch, channels, h, w)."""
        noise = normal(self.mean.shape, generator).to(self.mean)
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """The mean: the most likely latent."""
        return self.mean

    def kl(self) -> Tensor:
        """KL divergence from N(0, 1), summed over a picture: (batch,)."""
        each = self.mean**2 + self.std**2 - 1 - self.logvar
        return 0.5 * each.sum(dim=(1, 2, 3))


class SpatialAttention(Attention):
    """Self-attention of one head over all places, in the middle of the autoencoder."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, num_heads=1, head_dim=channels, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, EPS)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, channels, h, w) -> the same."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (batch, h·w, channels)
        out = super().forward(tokens).transpose(1, 2)  # (batch, channels, h·w)
        return x + out.unflatten(2, x.shape[2:])


def resnet_block(in_channels: int, out_channels: int, groups: int) -> ResnetBlock2D:
    """A residual block that knows no time."""
    return ResnetBlock2D(
        in_channels, out_channels, time_channels=None, groups=groups, eps=EPS
    )


class Level(nn.Module):
    """Residual blocks at one resolution, then down or up, unless it is the last."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, then: str
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            resnet_block(out_channels if i else in_channels, out_channels, groups)
            for i in range(layers)
        )
        if then == "down":
            layer = Downsample2D(out_channels, padding=0)
            self.downsamplers = nn.ModuleList([layer])
        elif then == "up":
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h', w')."""
        for resnet in self.resnets:
            x = resnet(x)
        for resize in ("downsamplers", "upsamplers"):
            if hasattr(self, resize):
                x = getattr(self, resize)[0](x)
        return x


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])
        both = [resnet_block(channels, channels, groups) for _ in range(2)]
        self.resnets = nn.ModuleList(both)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """Pixels to the means and log variances of the latent."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        layers: int,
        latent_channels: int,
        groups: int,
    ) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                channels[max(i - 1, 0)],
                channels[i],
                layers,
                groups,
                "down" if i < last else "",
            )
            for i in range(last + 1)
        )
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, H, W) -> (batch, 2 · latent_channels, h, w)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """A latent to pixels: the encoder backwards, with one more layer per resolution."""

    def __init__(
        self,
        latent_channels: int,
        channels: Sequence[int],
        layers: int,
        out_channels: int,
        groups: int,
    ) -> None:
        super().__init__()
        upward, last = list(reversed(channels)), len(channels) - 1
        self.conv_in = nn.Conv2d(latent_channels, upward[0], 3, padding=1)
        self.mid_block = MidBlock(upward[0], groups)
        self.up_blocks = nn.ModuleList(
            Level(
                upward[max(i - 1, 0)],
                upward[i],
                layers + 1,
                groups,
                "up" if i < last else "",
            )
            for i in range(last + 1)
        )
        self.conv_norm_out = nn.GroupNorm(groups, upward[-1], EPS)
        self.conv_out = nn.Conv2d(upward[-1], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, latent_channels, h, w) -> (batch, out_channels, H, W)."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module, Configured):
    """The autoencoder of Stable Diffusion. The defaults are those of SD v1.5.

    Args:
        in_channels, out_channels: of the pictures. latent_channels: of the latents.
        block_out_channels: channels per resolution; each but the last is halved.
        layers_per_block: residual blocks per resolution (one more in the decoder).
        norm_num_groups: of the `GroupNorm`s.
        sample_size: height and width of the pictures that it was trained on.
        scaling_factor: what the pipeline multiplies latents by.
        shift_factor: what it subtracts before that; None: nothing.
        use_quant_conv, use_post_quant_conv: with the two 1×1 convolutions around the
            latent, a remainder of the vector-quantized relative (SD 3 drops them).

    Raises:
        ValueError: an argument has no meaning, or does not fit another.
    """

    only = {
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "mid_block_add_attention": True,
    }
    ignored = ("down_block_types", "up_block_types", "force_upcast")
    left_out = {"block_out_channels": (64,), "layers_per_block": 1, "sample_size": 32}
    # Edge of a tile in pixels; None: in one piece. Set by `StableDiffusion`.
    tile_size: int | None = None

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        sample_size: int = 512,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
    ) -> None:
        super().__init__()
        self.remember(locals())
        for name in ("in_channels", "out_channels", "latent_channels", "sample_size"):
            at_least(name, self.config[name], 1)
        at_least("layers_per_block", layers_per_block, 1)
        divides(
            "norm_num_groups", norm_num_groups, "block_out_channels", block_out_channels
        )
        shape = (block_out_channels, layers_per_block)
        self.encoder = Encoder(in_channels, *shape, latent_channels, norm_num_groups)
        self.decoder = Decoder(latent_channels, *shape, out_channels, norm_num_groups)
        if use_quant_conv:
            self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        if use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    @property
    def factor(self) -> int:
        """One place of the latent stands for factor × factor pixels."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    def encode(self, image: Tensor) -> DiagonalGaussian:
        """(batch, in_channels, H, W) in [-1, 1] -> a Gaussian over latents.

        Raises:
            ValueError: height or width is no multiple of `factor`.
        """
        if image.ndim != 4 or any(size % self.factor for size in image.shape[2:]):
            raise ValueError(
                f"image: got shape {tuple(image.shape)}; (batch, channels, height, "
                f"width) with multiples of {self.factor} for height and width is needed"
            )
        size = self.tile_size
        if size is None or max(image.shape[2:]) <= size:
            return DiagonalGaussian(self._moments(image))
        parts = tiled(self._moments, image, size, size // self.factor)
        return DiagonalGaussian(parts)

    def decode(self, latent: Tensor) -> Tensor:
        """(batch, latent_channels, h, w) -> (batch, out_channels, H, W) in [-1, 1]."""
        size = (self.tile_size or 0) // self.factor
        if self.tile_size is None or max(latent.shape[2:]) <= size:
            return self._pixels(latent)
        return tiled(self._pixels, latent, size, self.tile_size)

    def _moments(self, image: Tensor) -> Tensor:
        moments = self.encoder(image)  # (batch, 2 · latent_channels, h, w)
        return self.quant_conv(moments) if hasattr(self, "quant_conv") else moments

    def _pixels(self, latent: Tensor) -> Tensor:
        if hasattr(self, "post_quant_conv"):
            latent = self.post_quant_conv(latent)
        return self.decoder(latent)

    def forward(self, image: Tensor) -> Tensor:
        """Encode and decode, by the most likely latent."""
        return self.decode(self.encode(image).mode())
