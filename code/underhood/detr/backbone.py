"""ResNet with frozen batch norm: an image becomes a small map of features.

The names of the parameters are those of the published checkpoints (timm's ResNet).
Source: He et al., 2015; facebookresearch/detr, `models/backbone.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.detr.config import DetrConfig


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and weights are fixed buffers: y = x · s + b.

    Detection trains with a few large images per device. Statistics of so few would
    be noise, so those of the ImageNet training stay.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, height, width)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def _norm(channels: int, frozen: bool) -> nn.Module:
    return FrozenBatchNorm2d(channels) if frozen else nn.BatchNorm2d(channels)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up, around a shortcut (ResNet-50 and deeper)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, dilation: int, frozen: bool
    ) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = _norm(inner, frozen)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = _norm(inner, frozen)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = _norm(outputs, frozen)
        self.downsample = _shortcut(inputs, outputs, stride, frozen)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (ResNet-18, and our small model)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, dilation: int, frozen: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = _norm(outputs, frozen)
        self.conv2 = nn.Conv2d(
            outputs, outputs, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = _norm(outputs, frozen)
        self.downsample = _shortcut(inputs, outputs, stride, frozen)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(
    inputs: int, outputs: int, stride: int, frozen: bool
) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, _norm(outputs, frozen))


class ResNet(nn.Module):
    """(batch, channels, H, W) to the feature map of every stage.

    Stage s has the stride 4, 8, 16, 32. With `dilate_last` the last one keeps the
    stride of the one before; its 3 x 3 kernels reach as far as before by spreading.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        frozen, width = config.frozen_norm, config.stem_width
        self.conv1 = nn.Conv2d(
            config.in_channels, width, 7, stride=2, padding=3, bias=False
        )
        self.bn1 = _norm(width, frozen)
        self.num_stages = len(config.depths)
        for stage, (depth, outputs) in enumerate(
            zip(config.depths, config.widths, strict=True)
        ):
            dilate = config.dilate_last and stage == self.num_stages - 1
            stride = 1 if stage == 0 or dilate else 2
            blocks = _stage(config, width, outputs, depth, stride, dilate)
            self.add_module(f"layer{stage + 1}", blocks)
            width = outputs

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(pixel_values)))  # (batch, stem, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (batch, stem, H/4, W/4)
        maps = []
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            maps.append(x)
        return maps


def _stage(
    config: DetrConfig, inputs: int, outputs: int, depth: int, stride: int, dilate: bool
) -> nn.Sequential:
    block = Bottleneck if config.bottleneck else BasicBlock
    frozen = config.frozen_norm
    # As in torchvision: the first block of a dilated stage is not dilated yet.
    first = block(inputs, outputs, stride, 1, frozen)
    rest = [
        block(outputs, outputs, 1, 2 if dilate else 1, frozen) for _ in range(depth - 1)
    ]
    return nn.Sequential(first, *rest)


class ConvEncoder(nn.Module):
    """The backbone under the name that checkpoints give it: `conv_encoder.model`."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.conv_encoder = nn.ModuleDict({"model": ResNet(config)})

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.conv_encoder["model"](pixel_values)
        return maps
