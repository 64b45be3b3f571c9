"""Linear attention that forgets: retention and gated linear attention.

S_t = diag(a_t) S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t,  with a_t in (0, 1]. The four
forms are those of forms.py, with a decay between a key and each later query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from underhood.linear_attention.checks import (
    check_choice,
    check_chunk_size,
    check_decay,
    check_log_decay,
    check_sequences,
    initial,
    widened,
)
from underhood.linear_attention.forms import Form, associative_scan, in_chunks

FORMS = ("quadratic", "recurrent", "chunked", "scan")


def gated_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    *,
    form: str = "chunked",
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention whose state decays, by gates that the data may set.

    Args:
        query, key: (batch, heads, length, key_dim).
        value: (batch, heads, length, value_dim).
        log_decay: log a_t, finite and not positive: (batch, heads, length, key_dim)
            for a gate per key dimension (GLA), or with a last dimension of 1 for one
            per head (Mamba-2). a_t multiplies what is older than token t.
        form: "quadratic", "recurrent", "chunked" or "scan".
        chunk_size: tokens per chunk, of "chunked".
        initial_state: (batch, heads, key_dim, value_dim); zeros if not given.

    Returns:
        The outputs, (batch, heads, length, value_dim), in the dtype of `query`, and the
        last state. Half precision is computed, and its state kept, in float32.

    Raises:
        ValueError: shapes that do not fit, a decay above 1, an unknown form.

    Source: Yang et al. (2024), Gated Linear Attention, eq. 3 and section 4.
    """
    check_sequences(query, key, value, causal=True)
    check_choice("form", form, FORMS)
    check_chunk_size(chunk_size)
    check_log_decay(log_decay, key)
    sequences = widened(query, key, value, log_decay)
    state = initial(initial_state, *sequences[1:3])
    if form == "chunked":
        out, last = in_chunks(_quadratic, sequences, state, chunk_size)
    else:
        out, last = RUN[form](*sequences, state)
    return out.to(query.dtype), last


def retention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    decay: Tensor | None = None,
    form: str = "chunked",
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated linear attention with one fixed decay per head.

    Args:
        decay: (heads,), in (0, 1]; 1 - 2**(-5 - head) if not given.

    Raises:
        ValueError: a decay of another shape or range.

    The others are those of `gated_linear_attention`. RetNet's rotation of queries
    and keys and its group norm are left to the caller.

    Source: Sun et al. (2023), Retentive Network, eqs. 5 to 8.
    """
    check_sequences(query, key, value, causal=True)
    heads = query.shape[1]
    if decay is None:
        decay = 1 - 2.0 ** (-5 - torch.arange(heads))
    check_decay(decay, heads)
    # In the dtype of half-precision keys, a decay near 1 would be 1.
    log_decay = decay.to(key.device, torch.float64).log()
    log_decay = log_decay[:, None, None].expand(*key.shape[:3], 1)
    return gated_linear_attention(
        query,
        key,
        value,
        log_decay,
        form=form,
        chunk_size=chunk_size,
        initial_state=initial_state,
    )


def decay_between(log_decay: Tensor) -> Tensor:
    """What is left of token j at token i: (..., length i, length j, key_dim or 1).

    The product of the gates j+1..i, as exp of a difference of running sums: each
    factor of exp(G_i) · exp(-G_j) alone may overflow. Zero for j > i.
    """
    total = log_decay.cumsum(-2)
    gap = total[..., :, None, :] - total[..., None, :, :]
    length = gap.shape[-2]
    future = torch.ones(length, length, device=gap.device).triu(1).bool()
    return gap.masked_fill(future[..., None], -torch.inf).exp()


def _quadratic(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    decay = decay_between(log_decay)
    if decay.shape[-1] == 1:  # one gate per head: a matrix beside the scores
        weights = (query @ key.mT) * decay.squeeze(-1)
    else:
        weights = torch.einsum("bhid,bhjd,bhijd->bhij", query, key, decay)
    total = log_decay.cumsum(-2)
    out = weights @ value + (query * total.exp()) @ state
    last = total[..., -1:, :]
    kept = last.exp().mT * state  # (batch, heads, key_dim, value_dim)
    return out, kept + (key * (last - total).exp()).mT @ value


def _recurrent(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(key.shape[2]):
        gate = log_decay[:, :, t, :, None].exp()
        state = gate * state + key[:, :, t, :, None] * value[:, :, t, None, :]
        outputs.append((query[:, :, t, None] @ state).squeeze(2))
    return torch.stack(outputs, 2), state


def _scan(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    gates = log_decay.exp()[..., None]  # (b, h, length, key_dim or 1, 1)
    updates = key[..., :, None] * value[..., None, :]
    gates, states = associative_scan(_combine, (gates, updates))
    states = gates * state[:, :, None] + states
    return torch.einsum("bhnm,bhnmv->bhnv", query, states), states[:, :, -1]


def _combine(
    earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Decay, then add: two steps S -> a S + B in a row are one such step."""
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


RUN: dict[str, Form] = {
    "quadratic": _quadratic,
    "recurrent": _recurrent,
    "scan": _scan,
}
