"""The delta rule: a state that corrects itself instead of only adding up.

S_t = a_t S_{t-1} + beta_t k_t (v_t - (a_t S_{t-1})ᵀ k_t)ᵀ: what the state already
answers for this key is taken away before the value is written. Equivalently
S_t = a_t (I - beta_t k_t k_tᵀ) S_{t-1} + beta_t k_t v_tᵀ. Without decay (a_t = 1)
this is DeltaNet, with it Gated DeltaNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from underhood.linear_attention.checks import (
    check_choice,
    check_chunk_size,
    check_log_decay,
    check_sequences,
    initial,
    widened,
)
from underhood.linear_attention.forms import Form, associative_scan, in_chunks
from underhood.linear_attention.gated import FORMS, decay_between


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    form: str = "chunked",
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention with the delta rule.

    Args:
        query, key: (batch, heads, length, key_dim). For a stable state, keys of
            length 1 and beta up to 2.
        value: (batch, heads, length, value_dim).
        beta: (batch, heads, length), the strength of each write.
        log_decay: (batch, heads, length), log a_t, not positive; 0 if not given.
        form: "quadratic" is the closed form, one triangular system of n unknowns;
            "chunked" solves one per chunk (the WY form); "recurrent"; "scan"
            multiplies key_dim × key_dim matrices.
        chunk_size: tokens per chunk, of "chunked".
        initial_state: (batch, heads, key_dim, value_dim); zeros if not given.

    Returns:
        The outputs, (batch, heads, length, value_dim), in the dtype of `query`, and the
        last state. Half precision is computed, and its state kept, in float32.

    Raises:
        ValueError: shapes that do not fit, a decay above 1, an unknown form.

    Source: Yang et al. (2024), Parallelizing Linear Transformers with the Delta
    Rule, section 3; with decay, Yang et al. (2025), Gated Delta Networks, eq. 10.
    """
    check_sequences(query, key, value, causal=True)
    check_choice("form", form, FORMS)
    check_chunk_size(chunk_size)
    if log_decay is None:
        log_decay = torch.zeros_like(beta)
    for name, given in (("beta", beta), ("log_decay", log_decay)):
        if given.shape != key.shape[:3]:
            raise ValueError(
                f"{name}: got shape {tuple(given.shape)}, allowed is "
                f"{tuple(key.shape[:3])}"
            )
    beta, log_decay = beta[..., None], log_decay[..., None]
    check_log_decay(log_decay, key)
    sequences = widened(query, key, value, beta, log_decay)
    state = initial(initial_state, *sequences[1:3])
    if form == "chunked":
        out, last = in_chunks(_closed, sequences, state, chunk_size)
    else:
        out, last = RUN[form](*sequences, state)
    return out.to(query.dtype), last


def _closed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Solve for what every token really writes; then it is linear attention."""
    decay = decay_between(log_decay).squeeze(-1)  # (batch, heads, length, length)
    total = log_decay.cumsum(-2).exp()
    overlap = (beta * (key @ key.mT) * decay).tril(-1)
    wanted = beta * (value - total * (key @ state))
    # (I + overlap) written = wanted; solve_triangular puts the ones in itself.
    written = torch.linalg.solve_triangular(
        overlap, wanted, upper=False, unitriangular=True
    )
    out = total * (query @ state) + ((query @ key.mT) * decay) @ written
    kept = total[..., -1:, :] * state
    return out, kept + (key * decay[..., -1, :, None]).mT @ written


def _recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(key.shape[2]):
        q, k, v = query[:, :, t, None], key[:, :, t, None], value[:, :, t, None]
        state = log_decay[:, :, t, :, None].exp() * state
        answer = k @ state  # (batch, heads, 1, value_dim)
        state = state + k.mT @ (beta[:, :, t, None] * (v - answer))
        outputs.append((q @ state).squeeze(2))
    return torch.stack(outputs, 2), state


def _scan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    eye = torch.eye(key.shape[-1], dtype=key.dtype, device=key.device)
    forget = eye - beta[..., None] * key[..., :, None] * key[..., None, :]
    forget = log_decay.exp()[..., None] * forget  # (b, h, length, key_dim, key_dim)
    updates = beta[..., None] * key[..., :, None] * value[..., None, :]
    forget, states = associative_scan(_combine, (forget, updates))
    states = forget @ state[:, :, None] + states
    return torch.einsum("bhnm,bhnmv->bhnv", query, states), states[:, :, -1]


def _combine(
    earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Two steps S -> A S + B in a row are one such step."""
    return later[0] @ earlier[0], later[0] @ earlier[1] + later[1]


RUN: dict[str, Form] = {
    "quadratic": _closed,
    "recurrent": _recurrent,
    "scan": _scan,
}


def wy_factor(key: Tensor, beta: Tensor) -> Tensor:
    """W with (I - b_n k_n k_nᵀ) ··· (I - b_1 k_1 k_1ᵀ) = I - Kᵀ W.

    A product of n matrices of key_dim × key_dim, in two of length × key_dim.

    Args:
        key: (..., length, key_dim).
        beta: (..., length).

    Returns:
        (..., length, key_dim).

    Source: Bischof & Van Loan (1987), The WY representation for products of
    Householder matrices.
    """
    scaled = beta[..., None] * key
    return torch.linalg.solve_triangular(
        (scaled @ key.mT).tril(-1), scaled, upper=False, unitriangular=True
    )
