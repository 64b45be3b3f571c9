"""What the autoencoder is trained to make small.

Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
2022; here the edges of the picture stand in for a perceptual network.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbors, down and to the right.

    Args:
        images: (batch, channels, height, width).
    """
    down = images[..., 1:, :] - images[..., :-1, :]
    right = images[..., :, 1:] - images[..., :, :-1]
    return down, right


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Absolute and squared error, and half the absolute error of `edges`; a mean.

    The squared error is what PSNR measures. The edges keep it from being bought with
    blur.

    Args:
        decoded, images: (batch, 3, height, width), from -1 to 1.
    """
    pairs = zip(edges(decoded), edges(images), strict=True)
    edge_loss = sum(F.l1_loss(a, b) for a, b in pairs)
    return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + 0.5 * edge_loss


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)), summed over a picture, a mean of the batch.

    Args:
        mean, logvar: (batch, channels, height, width).
    """
    per_value = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return per_value.flatten(1).sum(1).mean()
