"""Pictures in and out: PIL outside, tensors inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Pictures = Tensor | Image.Image | Sequence[Image.Image]
OUTPUTS = ("pil", "tensor", "latent")


def to_tensor(image: Pictures, factor: int, mode: str = "RGB") -> Tensor:
    """Pictures as (batch, channels, height, width) in [0, 1], float32.

    Args:
        image: PIL pictures, scaled down to multiples of `factor` if need be; or a
            tensor, which must have them.
        mode: "RGB", or "L" for a mask.

    Raises:
        ValueError: a tensor of another shape, or with values outside [0, 1].
    """
    channels = {"RGB": 3, "L": 1}[mode]
    if isinstance(image, Tensor):
        shape = tuple(image.shape)
        if (
            image.ndim != 4
            or shape[1] != channels
            or any(s % factor for s in shape[2:])
        ):
            raise ValueError(
                f"image: got a tensor of shape {shape}; (batch, {channels}, height, "
                f"width), height and width multiples of {factor}, is needed"
            )
        if image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"image: got values from {image.min():.3g} to {image.max():.3g}; "
                f"allowed: 0 to 1"
            )
        return image.float()
    pictures = [image] if isinstance(image, Image.Image) else list(image)
    return torch.cat([_one(each, factor, mode) for each in pictures])


def _one(picture: Image.Image, factor: int, mode: str) -> Tensor:
    width, height = (max(side - side % factor, factor) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    array = np.asarray(picture.convert(mode), dtype=np.float32) / 255
    tensor = torch.from_numpy(array)[None]  # (1, height, width[, 3])
    return tensor[:, None] if mode == "L" else tensor.permute(0, 3, 1, 2)


def to_pictures(image: Tensor) -> list[Image.Image]:
    """(batch, 3, height, width) in [0, 1] -> PIL pictures."""
    arrays = (image * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in arrays]


def to_masked(image: Pictures, mask: Pictures, factor: int) -> tuple[Tensor, Tensor]:
    """A picture, (batch, 3, h, w), and its mask, (batch, 1, h, w), both in [0, 1].

    Raises:
        ValueError: they differ in size.
    """
    pixels, holes = to_tensor(image, factor), to_tensor(mask, factor, mode="L")
    if pixels.shape[2:] != holes.shape[2:]:
        raise ValueError(
            f"mask: got {tuple(holes.shape[2:])} pixels; the image has "
            f"{tuple(pixels.shape[2:])}"
        )
    return pixels, holes


def latent_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask for latents, (batch, 1, h, w), 1 = paint anew: every factor-th pixel."""
    return F.interpolate((mask >= 0.5).float(), size=size)
