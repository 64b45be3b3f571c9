"""Noise that is the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def normal(shape: Sequence[int], generator: Generators = None) -> Tensor:
    """Standard normal float32 noise from a CPU generator.

    A GPU has another generator: the same seed gives other numbers there, and other
    pictures. So the noise is drawn here and moved.

    Args:
        generator: one for the whole batch, or one for each picture of it, so that a
            picture does not depend on its neighbors.

    Raises:
        ValueError: a generator is not one of the CPU, or there are too many or too few.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=_on_cpu(generator))
    if len(generator) != shape[0]:
        raise ValueError(
            f"generator: got {len(generator)} of them; one for each of the {shape[0]} "
            f"pictures is needed"
        )
    each = [torch.randn(tuple(shape[1:]), generator=_on_cpu(g)) for g in generator]
    return torch.stack(each)


def _on_cpu(generator: torch.Generator | None) -> torch.Generator | None:
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator: got one on {generator.device}; one on the CPU is needed, so "
            f"that a seed means the same picture everywhere"
        )
    return generator


def generators(seed: int | np.integer | Sequence[int] | None) -> Generators:
    """A CPU generator for a seed, or one for each of several; None: the global one."""
    if seed is None:
        return None
    if isinstance(seed, int | np.integer):
        return torch.Generator().manual_seed(int(seed))
    return [torch.Generator().manual_seed(int(each)) for each in seed]
