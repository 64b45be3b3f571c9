"""Noise that is the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Standard normal float32 noise from a CPU generator.

    A GPU has another generator: the same seed gives other numbers there, and other
    pictures. So the noise is drawn here and moved.

    Raises:
        ValueError: the generator is not one of the CPU.
    """
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator: got one on {generator.device}; one on the CPU is needed, so "
            f"that a seed means the same picture everywhere"
        )
    return torch.randn(tuple(shape), generator=generator)
