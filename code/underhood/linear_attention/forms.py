"""The four forms of linear attention, on features.

Each takes features of the queries and keys, (batch, heads, length, m), values,
(batch, heads, length, value_dim), and the state so far, (batch, heads, m,
value_dim): the sum of key ⊗ value over all earlier tokens. Each gives the sums
q_i · (state + the tokens that query i sees), and the state after all tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Form = Callable[..., tuple[Tensor, Tensor]]


def quadratic(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """All pairs: an n × n matrix of weights."""
    weights = query @ key.mT  # (batch, heads, query_length, key_length)
    if causal:
        weights = weights.tril()
    return weights @ value + query @ state, state + key.mT @ value


def recurrent(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Token by token, as a recurrent network: one state, n steps."""
    outputs = []
    for t in range(key.shape[2]):
        k, v = key[:, :, t], value[:, :, t]
        state = state + k[..., :, None] * v[..., None, :]
        if causal:
            q = query[:, :, t, None]
            outputs.append((q @ state).squeeze(2))  # (batch, heads, value_dim)
    if causal:
        return torch.stack(outputs, 2), state
    return query @ state, state


def scan(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """All states at once, by a running sum: no loop, n states in memory."""
    updates = key[..., :, None] * value[..., None, :]  # (b, h, n, m, dv)
    if not causal:
        state = state + updates.sum(2)
        return query @ state, state
    states = state[:, :, None] + updates.cumsum(2)
    return torch.einsum("bhnm,bhnmv->bhnv", query, states), states[:, :, -1]


def chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    *,
    causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Quadratic inside a chunk, recurrent from chunk to chunk."""
    if causal:
        return in_chunks(quadratic_causal, (query, key, value), state, chunk_size)
    pieces = (key.split(chunk_size, 2), value.split(chunk_size, 2))
    for k, v in zip(*pieces, strict=True):
        state = state + k.mT @ v
    return query @ state, state


def quadratic_causal(
    query: Tensor, key: Tensor, value: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`quadratic` with a causal mask, as `in_chunks` takes it."""
    return quadratic(query, key, value, state, causal=True)


def in_chunks(
    form: Form, sequences: tuple[Tensor, ...], state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Run a form on one chunk after the other; the state goes from each to the next.

    Args:
        form: takes a chunk of each sequence, and the state before the chunk; gives
            the chunk's outputs and the state after it.
        sequences: each (batch, heads, length, ...).
    """
    outputs = []
    pieces = (each.split(chunk_size, 2) for each in sequences)
    for chunk in zip(*pieces, strict=True):
        out, state = form(*chunk, state)
        outputs.append(out)
    return torch.cat(outputs, 2), state


def associative_scan(
    combine: Callable[..., tuple[Tensor, ...]], elements: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Running combination along dim 2, in ceil(log2(length)) parallel steps.

    Args:
        combine: (earlier, later) to their combination; must be associative.
        elements: tensors (batch, heads, length, ...), one element per position.

    Source: Hillis & Steele (1986), Data parallel algorithms.
    """
    length, reach = elements[0].shape[2], 1
    while reach < length:
        earlier = tuple(each[:, :, :-reach] for each in elements)
        later = tuple(each[:, :, reach:] for each in elements)
        combined = combine(earlier, later)
        pairs = zip(elements, combined, strict=True)
        elements = tuple(torch.cat([e[:, :, :reach], c], 2) for e, c in pairs)
        reach *= 2
    return elements
