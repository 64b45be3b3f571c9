"""The convolutional blocks that the autoencoder and the UNet are made of.

Names of parameters, and what is computed, as in diffusers (`models/resnet.py`,
`models/embeddings.py`), so that published checkpoints fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def timestep_embedding(
    timesteps: Tensor,
    dim: int,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: int = 0,
) -> Tensor:
    """The number of the step as waves of many lengths: (batch,) -> (batch, dim).

    The waves of the Transformer's positions, from a period of 2π to one of 2π·10,000.
    Stable Diffusion puts the cosines first.

    Args:
        timesteps: steps, also fractions of one. dim: even, above 2 * freq_shift.
        flip_sin_to_cos: cosines first. freq_shift: 1 lets the last wave reach the
            longest period (DDPM), 0 stops one short of it (Stable Diffusion).

    Raises:
        ValueError: there are no waves of this dim.
    """
    if dim % 2 or dim <= 2 * freq_shift:
        raise ValueError(
            f"dim: got {dim}; an even number above {2 * freq_shift} is needed"
        )
    half = dim // 2
    numbers = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = (-math.log(10_000) * numbers / (half - freq_shift)).exp()
    angles = timesteps.float()[:, None] * frequencies  # (batch, half)
    waves = (
        (angles.cos(), angles.sin())
        if flip_sin_to_cos
        else (angles.sin(), angles.cos())
    )
    return torch.cat(waves, dim=-1)


class TimestepEmbedding(nn.Module):
    """Two layers that make of the waves what the blocks read."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, out_channels)
        self.linear_2 = nn.Linear(out_channels, out_channels)

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, in_channels) -> (batch, out_channels)."""
        return self.linear_2(F.silu(self.linear_1(waves)))


class ResnetBlock2D(nn.Module):
    """Normalize, activate, convolve, twice; the input is added to the result.

    Args:
        in_channels, out_channels: where they differ, a 1×1 convolution carries the
            input over.
        time_channels: width of the time embedding, which shifts every channel between
            the two convolutions; None: no time (the autoencoder).
        groups, eps: of the two `GroupNorm`s.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_channels: int | None,
        groups: int = 32,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(batch, in_channels, h, w) -> (batch, out_channels, h, w).

        Args:
            time: (batch, time_channels), or None.
        """
        hidden = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            shift = self.time_emb_proj(F.silu(time))  # (batch, out_channels)
            hidden = hidden + shift[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if hasattr(self, "conv_shortcut"):
            x = self.conv_shortcut(x)
        return x + hidden


class Downsample2D(nn.Module):
    """Half the height and width, by a convolution with stride 2.

    Args:
        padding: 1 pads all sides (the UNet), 0 only the right and the bottom (the
            autoencoder, whose first version did so by accident).
    """

    def __init__(self, channels: int, *, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> (batch, channels, h/2, w/2)."""
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Repeat every pixel, then convolve: no checkerboard, unlike a transposed one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(batch, channels, h, w) -> (batch, channels, 2h, 2w), or of `size`."""
        if size is None:
            size = (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
