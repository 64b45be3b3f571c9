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


def to_tensor(
    image: Pictures, factor: int, mode: str = "RGB", name: str = "image"
) -> Tensor:
    """Pictures as (batch, channels, height, width) in [0, 1], float32.

    Args:
        image: PIL pictures, scaled down to multiples of `factor` if need be; or a
            tensor, which must have them.
        mode: "RGB", or "L" for a mask. name: of the argument, for what is raised.

    Raises:
        ValueError: a tensor of another shape, or with values outside [0, 1]; or PIL
            pictures of several sizes.
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
                f"{name}: got a tensor of shape {shape}; (batch, {channels}, height, "
                f"width), height and width multiples of {factor}, is needed"
            )
        if not (image.min() >= 0 and image.max() <= 1):  # or not a number
            raise ValueError(
                f"{name}: got values from {image.min():.3g} to {image.max():.3g}; "
                f"allowed: 0 to 1"
            )
        return image.float()
    pictures = [image] if isinstance(image, Image.Image) else list(image)
    tensors = [_one(each, factor, mode) for each in pictures]
    sizes = [tuple(each.shape[2:]) for each in tensors]
    if len(set(sizes)) != 1:
        raise ValueError(
            f"{name}: got pictures of (height, width) {sizes}; at least one, and all "
            f"of one size, are needed"
        )
    return torch.cat(tensors)


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


def to_masked(
    image: Pictures, mask: Pictures, factor: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Pictures, (n, 3, h, w), and their masks, (1 or batch, 1, h, w), all in [0, 1].

    Raises:
        ValueError: they differ in size, or there are too many masks or too few.
    """
    pixels, holes = to_tensor(image, factor), to_tensor(mask, factor, "L", "mask")
    if len(holes) not in (1, batch):
        raise ValueError(f"mask: got {len(holes)} of them; 1, or {batch}, is needed")
    if pixels.shape[2:] != holes.shape[2:]:
        raise ValueError(
            f"mask: got {tuple(holes.shape[2:])} pixels; the image has "
            f"{tuple(pixels.shape[2:])}"
        )
    return pixels, holes


def latent_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask for latents, (batch, 1, h, w), 1 = paint anew: every factor-th pixel."""
    return F.interpolate((mask >= 0.5).float(), size=size)
