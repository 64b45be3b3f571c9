"""What the autoencoder is trained to make small.

Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
2022; here the edges of the picture stand in for a perceptual network.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

SCALES = (2, 4, 8)  # pixels that count as one


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbors, down and to the right.

    Args:
        images: (batch, channels, height, width).
    """
    down = images[..., 1:, :] - images[..., :-1, :]
    right = images[..., :, 1:] - images[..., :, :-1]
    return down, right


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Squared error, absolute error at several scales, and that of the `edges`.

    The squared error is what PSNR measures. The coarse scales teach colors early: an
    area of the wrong color counts there as much as a wrong pixel. The edges keep all
    that from being bought with blur.

    Args:
        decoded, images: (batch, channels, height, width), from -1 to 1; height and
            width are multiples of the coarsest scale.
    """
    difference = decoded - images
    loss = difference.square().mean() + difference.abs().mean()
    for scale in SCALES:
        loss = loss + F.avg_pool2d(difference, scale).abs().mean()
    for edge in edges(difference):
        loss = loss + 0.5 * edge.abs().mean()
    return loss


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)), summed over a picture, a mean of the batch.

    Args:
        mean, logvar: (batch, channels, height, width).
    """
    per_value = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return per_value.flatten(1).sum(1).mean()
