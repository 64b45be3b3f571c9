"""What the chapter measures: leaks, sharpness, memory, recall."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from underhood.linear_attention.feature_maps import FeatureMap, resolve

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def future_leak(attention: Attention, length: int = 32, dim: int = 8) -> float:
    """Change the last token; how far do the outputs of all earlier ones move?

    0 for attention that is causal. In float64, so that 0 means exactly 0.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 1, length, dim)
    first = torch.randn(shape, dtype=torch.float64, generator=generator)
    second = first.clone()
    second[..., -1, :] += 3.0
    moved = attention(*second.unbind()) - attention(*first.unbind())
    return moved[..., :-1, :].abs().max().item()


def row_weights(query: Tensor, key: Tensor, feature_map: str | FeatureMap) -> Tensor:
    """The normalized weights that linear attention never writes down."""
    phi = resolve(feature_map, query.shape[-1])
    weights = phi.query(query) @ phi.key(key).mT
    return weights / weights.sum(-1, keepdim=True)


def effective_support(weights: Tensor) -> Tensor:
    """exp of the entropy of each row: over how many keys it really averages."""
    return torch.special.entr(weights).sum(-1).exp()


def recall_error(
    attention: Attention, num_pairs: int, dim: int, *, trials: int = 64
) -> float:
    """Write random pairs, ask for each of them; the mean error of an answer.

    Keys are random unit vectors, values standard normal; each key is asked for once
    all pairs are written. In units of the length of a value: 1 is as bad as
    answering 0.

    Args:
        attention: answers of (query, key, value), all (trials, 1, num_pairs, dim).
    """
    generator = torch.Generator().manual_seed(num_pairs * 1009 + dim)
    shape = (trials, 1, num_pairs, dim)
    key = F.normalize(torch.randn(shape, generator=generator), dim=-1)
    value = torch.randn(shape, generator=generator)
    error = attention(key, key, value) - value
    return (error.square().sum() / value.square().sum()).sqrt().item()


class _Meter(TorchDispatchMode):
    """Adds up the bytes of all storages that live tensors hold."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[int] = Counter()  # tensors per storage
        self.outside: set[int] = set()  # storages that were there before
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                address = each.untyped_storage()._cdata
                if not self.live[address]:
                    self.outside.add(address)
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self.add(each)
        return made

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self.outside:
            return
        if not self.live[address]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.live[address] += 1
        weakref.finalize(tensor, self.drop, address, size)

    def drop(self, address: int, size: int) -> None:
        self.live[address] -= 1
        if not self.live[address]:
            self.now -= size


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes in new tensors at one time while `function` runs.

    Counts tensors of torch on any device; scratch memory inside one operator does
    not show.
    """
    with torch.no_grad(), _Meter() as meter:
        function()
    return meter.peak
