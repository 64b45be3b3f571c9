"""Classifier-free guidance: away from what the picture would be without the words.

Source: Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022. Their w counts from
0 (no guidance): scale = 1 + w.
"""

from __future__ import annotations

from torch import Tensor


def guide(without: Tensor, with_words: Tensor, scale: float) -> Tensor:
    """without + scale · (with_words - without).

    Args:
        without: prediction for the empty or negative prompt: (batch, ...).
        with_words: prediction for the prompt.
        scale: 0 ignores the prompt, 1 is the plain prediction for it, more
            exaggerates.
    """
    return without + scale * (with_words - without)


def rescale_guidance(guided: Tensor, with_words: Tensor, share: float) -> Tensor:
    """Give a guided prediction the standard deviation of the plain one, in part.

    Args:
        share: 0 leaves it, 1 rescales all of it; Lin et al. 2024 (section 3.4) use 0.7.
    """
    axes = tuple(range(1, guided.ndim))
    plain = with_words.std(dim=axes, keepdim=True)
    rescaled = guided * plain / guided.std(dim=axes, keepdim=True)
    return share * rescaled + (1 - share) * guided
