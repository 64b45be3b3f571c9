"""The three kinds of blocks of the UNet: on the way down, in the middle, on the way up.

Names of parameters, and what is computed, as in diffusers (`models/unets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from underhood.stable_diffusion.attention import Transformer2DModel
from underhood.stable_diffusion.blocks import Downsample2D, ResnetBlock2D, Upsample2D


class DownBlock2D(nn.Module):
    """One resolution on the way down.

    Args:
        in_channels, out_channels: before and after. layers: residual blocks.
        resnet: further arguments of `ResnetBlock2D`.
        attention: further arguments of `Transformer2DModel`; None: without attention.
        downsample: halve the resolution at the end. padding: see `Downsample2D`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: int,
        *,
        resnet: dict[str, Any],
        attention: dict[str, Any] | None,
        downsample: bool,
        padding: int = 1,
    ) -> None:
        super().__init__()
        if attention is not None:
            self.attentions = nn.ModuleList(
                Transformer2DModel(out_channels, **attention) for _ in range(layers)
            )
        self.resnets = nn.ModuleList(
            ResnetBlock2D(out_channels if i else in_channels, out_channels, **resnet)
            for i in range(layers)
        )
        if downsample:
            layer = Downsample2D(out_channels, padding=padding)
            self.downsamplers = nn.ModuleList([layer])

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The result, and what is left for the way up: one tensor per layer."""
        left = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, context)
            left.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            left.append(x)
        return x, left


class UNetMidBlock2DCrossAttn(nn.Module):
    """At the lowest resolution: residual block, attention, residual block."""

    def __init__(
        self, channels: int, *, resnet: dict[str, Any], attention: dict[str, Any]
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Transformer2DModel(channels, **attention)])
        self.resnets = nn.ModuleList(
            ResnetBlock2D(channels, channels, **resnet) for _ in range(2)
        )

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same."""
        x = self.attentions[0](self.resnets[0](x, time), context)
        return self.resnets[1](x, time)


class UpBlock2D(nn.Module):
    """One resolution on the way up; each layer reads one tensor of the way down.

    Args:
        in_channels: of the input. skip_channels: of each tensor of the way down, in the
            order in which they are read. out_channels: of the result.
        resnet, attention: as in `DownBlock2D`. upsample: double the resolution at the
            end.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: Sequence[int],
        out_channels: int,
        *,
        resnet: dict[str, Any],
        attention: dict[str, Any] | None,
        upsample: bool,
    ) -> None:
        super().__init__()
        if attention is not None:
            self.attentions = nn.ModuleList(
                Transformer2DModel(out_channels, **attention) for _ in skip_channels
            )
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                (out_channels if i else in_channels) + skip, out_channels, **resnet
            )
            for i, skip in enumerate(skip_channels)
        )
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels)])

    def forward(
        self, x: Tensor, left: list[Tensor], time: Tensor, context: Tensor
    ) -> Tensor:
        """Takes its tensors off the end of `left`; what remains tells the next size."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, left.pop()], dim=1), time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, context)
        if hasattr(self, "upsamplers"):
            height, width = left[-1].shape[2:]  # an odd size was rounded up on the way
            x = self.upsamplers[0](x, (height, width))
        return x
