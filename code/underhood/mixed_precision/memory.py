"""Bytes per parameter: what a recipe for training keeps, and what was allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from underhood.mixed_precision.master import MasterWeights


@dataclass(frozen=True)
class Ledger:
    """Bytes per parameter at the moment of the optimizer's step.

    Args:
        weights: that the forward pass uses.
        gradients: that the optimizer reads.
        master: FP32 copies of the weights.
        moments: Adam's two moving averages.
    """

    weights: float
    gradients: float
    master: float
    moments: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.master + self.moments


# "FP16 gradients" is the count of the ZeRO paper (arXiv:1910.02054, section 3.1):
# the optimizer reads FP16 gradients. Ours hands it FP32 ones, as PyTorch's FSDP does.
LEDGERS = {
    "FP32": Ledger(4, 4, 0, 8),
    "master, FP16 gradients": Ledger(2, 2, 4, 8),
    "master, FP32 gradients": Ledger(2, 4, 4, 8),
    "BF16 throughout": Ledger(2, 2, 0, 4),
    "BF16 with Kahan": Ledger(2, 2, 2, 4),
    "8-bit Adam, FP32 weights": Ledger(4, 4, 0, 2),
}


def held_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the storages behind tensors, each storage counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def training_bytes(
    network: nn.Module, optimizer: torch.optim.Optimizer, masters: MasterWeights | None
) -> dict[str, int]:
    """What a network and its optimizer hold right now, by kind."""
    own = list(network.parameters())
    copies = masters.masters if masters else []
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.ndim  # `step` is a scalar
    ]
    return {
        "weights": held_bytes(own),
        "gradients": held_bytes(p.grad for p in [*own, *copies]),
        "master": held_bytes(copies),
        "moments": held_bytes(moments),
    }


def saved_bytes(function: Callable[[], Any], weights: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of what `function` computes.

    Each storage counts once.

    Args:
        weights: do not count; they are kept anyway.
    """
    outside = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, tuple[Tensor, int]] = {}  # holding a tensor pins its address

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return sum(size for _, size in kept.values())
