"""Checks at the door: each message names the argument, what came, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_sequences(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> None:
    """(batch, heads, length, dim) each, of shapes that belong together.

    Raises:
        ValueError: they do not.
        TypeError: they are not all of one floating-point dtype.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim != 4:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}, allowed is "
                f"(batch, heads, length, dim)"
            )
        if tensor.dtype != query.dtype or not tensor.is_floating_point():
            raise TypeError(
                f"{name}: got {tensor.dtype}, allowed is one floating-point dtype for "
                f"query, key and value"
            )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.shape[:2] != query.shape[:2]:
            raise ValueError(
                f"{name}: got batch and heads {tuple(tensor.shape[:2])}, allowed are "
                f"those of query, {tuple(query.shape[:2])}"
            )
    if key.shape[3] != query.shape[3]:
        raise ValueError(
            f"key: got dim {key.shape[3]}, allowed is that of query, {query.shape[3]}"
        )
    if value.shape[2] != key.shape[2]:
        raise ValueError(
            f"value: got length {value.shape[2]}, allowed is that of key, "
            f"{key.shape[2]}"
        )
    if causal and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"query: got length {query.shape[2]}, allowed with causal is that of key, "
            f"{key.shape[2]}"
        )
    if key.shape[2] == 0 or query.shape[2] == 0:
        raise ValueError("query, key: got length 0, allowed is 1 or more")


def check_choice(name: str, given: str, allowed: Sequence[str]) -> None:
    """Raises ValueError if `given` is not among the allowed."""
    if given not in allowed:
        raise ValueError(f"{name}: got {given!r}, allowed are {', '.join(allowed)}")


def check_chunk_size(chunk_size: int) -> None:
    """Raises ValueError below 1."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, allowed is 1 or more")


def check_log_decay(log_decay: Tensor, key: Tensor) -> None:
    """(batch, heads, length, key_dim or 1), finite, at most 0."""
    shape, dim = tuple(log_decay.shape), key.shape[3]
    if shape not in {tuple(key.shape), (*key.shape[:3], 1)}:
        raise ValueError(
            f"log_decay: got shape {shape}, allowed is that of key, with {dim} or 1 "
            f"as its last"
        )
    if not bool(torch.isfinite(log_decay).all()) or bool((log_decay > 0).any()):
        raise ValueError("log_decay: allowed are finite numbers up to 0")


def check_decay(decay: Tensor, heads: int) -> None:
    """Raises ValueError if it is not one number in (0, 1] per head."""
    if decay.shape != (heads,) or not bool(((decay > 0) & (decay <= 1)).all()):
        raise ValueError(f"decay: allowed is shape ({heads},), above 0 and up to 1")


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in float32, or in float64 if the first is: a long sum needs the digits."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return tuple(each.to(wide) for each in tensors)


def initial(state: Tensor | None, features: Tensor, value: Tensor) -> Tensor:
    """The state given, or zeros: (batch, heads, features, value_dim)."""
    shape = (*features.shape[:2], features.shape[3], value.shape[3])
    if state is None:
        return value.new_zeros(shape)
    if state.shape != shape:
        raise ValueError(
            f"initial_state: got shape {tuple(state.shape)}, allowed is {shape}"
        )
    return state.to(value.dtype)
