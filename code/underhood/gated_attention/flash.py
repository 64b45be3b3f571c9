"""FLASH: the gated attention unit with mixed chunk attention, linear in the length.

Boolean masks: **True = may attend**, as everywhere in this book.

Source: Hua et al., "Transformer Quality in Linear Time", 2022, section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from underhood.gated_attention.activations import attention_matrix
from underhood.gated_attention.units import GatedAttentionUnit, check_key_mask
from underhood.transformer.attention import causal_mask


def mixed_chunk_attention(
    quad_query: Tensor,
    quad_key: Tensor,
    lin_query: Tensor,
    lin_key: Tensor,
    value: Tensor,
    *,
    chunk_size: int = 256,
    kernel: str = "relu2",
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Quadratic attention inside each chunk, plus linear attention across them.

    The linear part averages over all real keys or, when causal, over those of
    the chunks before. In chunk g that is (g - 1) chunk_size of them without
    padding, and none in the first chunk, where the term is dropped.

    Args:
        quad_query, quad_key, lin_query, lin_key: (batch, length, s).
        value: (batch, length, e).
        chunk_size: positions of a chunk; the last may be shorter.
        kernel: of the part inside the chunks, see `attention_matrix`.
        causal: no position sees a later one.
        key_mask: (batch, length), bool, True = a real token.

    Returns:
        (batch, length, e).
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}; at least 1 is needed")
    batch, length, _ = value.shape
    views = (quad_query, quad_key, lin_query, lin_key)
    check_views(views, value)
    check_key_mask(key_mask, value)
    if key_mask is None:
        key_mask = value.new_ones(batch, length, dtype=torch.bool)
    q, k, lin_q, lin_k, v = (_chunks(t, chunk_size) for t in (*views, value))
    # (batch, chunks, chunk_size); what fills the last chunk is no real token
    real = _chunks(key_mask[..., None], chunk_size)[..., 0]

    allowed = real[:, :, None, :]
    if causal:
        allowed = allowed & causal_mask(chunk_size, device=v.device)
    local = attention_matrix(q, k, kernel, allowed) @ v

    # One state for each chunk, not for each position: (batch, chunks, s, e)
    state = (lin_k * real[..., None]).transpose(-2, -1) @ v
    count = real.sum(dim=-1)[..., None, None]  # (batch, chunks, 1, 1)
    if causal:
        # What came before: the running sum, without the chunk itself.
        state = state.cumsum(dim=1) - state
        count = count.cumsum(dim=1) - count
    else:
        state = state.sum(dim=1, keepdim=True)
        count = count.sum(dim=1, keepdim=True)
    across = lin_q @ state / count.clamp(min=1)
    return (local + across).flatten(1, 2)[:, :length]


def mixed_chunk_by_definition(
    quad_query: Tensor,
    quad_key: Tensor,
    lin_query: Tensor,
    lin_key: Tensor,
    value: Tensor,
    chunk_size: int,
    causal: bool = False,
    real: list[bool] | None = None,
) -> Tensor:
    """The same for one sequence, key by key, with squared ReLU: (length, e).

    Args:
        quad_query, quad_key, lin_query, lin_key: (length, s). value: (length, e).
        real: for each position, whether it is a real token.
    """
    length, s = quad_query.shape
    real = [True] * length if real is None else real
    rows = []
    for i in range(length):
        chunk = i // chunk_size
        near, across = [], []
        for j in range(length):
            if not real[j]:
                continue
            if j // chunk_size == chunk and (j <= i or not causal):
                near.append(j)
            if j // chunk_size < chunk or not causal:
                across.append(j)
        row = torch.zeros_like(value[0])
        for j in near:
            score = max(float(quad_query[i] @ quad_key[j]) / math.sqrt(s), 0.0)
            row = row + score**2 / len(near) * value[j]
        for j in across:
            row = row + float(lin_query[i] @ lin_key[j]) / len(across) * value[j]
        rows.append(row)
    return torch.stack(rows)


class FLASH(GatedAttentionUnit):
    """The gated attention unit whose attention is mixed chunk attention.

    Four per-feature affine maps of one projection: queries and keys for the part
    inside the chunks, and for the part across them.

    Args:
        d_model, expansion, s, kernel, causal, rope: see `GatedAttentionUnit`.
        chunk_size: positions of a chunk.
    """

    views = 4

    def __init__(
        self,
        d_model: int,
        expansion: float = 2,
        s: int = 128,
        kernel: str = "relu2",
        *,
        chunk_size: int = 256,
        causal: bool = False,
        rope: bool = True,
    ) -> None:
        super().__init__(d_model, expansion, s, kernel, causal=causal, rope=rope)
        if chunk_size < 1:
            raise ValueError(f"chunk_size: got {chunk_size}; at least 1 is needed")
        self.chunk_size = chunk_size

    def attend(self, x: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
        """A V: (batch, length, hidden)."""
        quad_query, quad_key, lin_query, lin_key = self.heads(x)
        return mixed_chunk_attention(
            quad_query,
            quad_key,
            lin_query,
            lin_key,
            value,
            chunk_size=self.chunk_size,
            kernel=self.kernel,
            causal=self.causal,
            key_mask=key_mask,
        )


def check_views(views: tuple[Tensor, ...], value: Tensor) -> None:
    """Queries and keys must be (batch, length) of `value`, with one number of features.

    A length that is off by a few positions would fill the same chunks unnoticed.
    """
    needed = (*value.shape[:2], views[0].shape[-1])
    names = ("quad_query", "quad_key", "lin_query", "lin_key")
    for name, view in zip(names, views, strict=True):
        if view.shape != needed:
            raise ValueError(
                f"{name}: got shape {tuple(view.shape)}; {needed} is needed, for a "
                f"value of shape {tuple(value.shape)}"
            )


def _chunks(x: Tensor, size: int) -> Tensor:
    """(batch, length, features) to (batch, chunks, size, features), filled with 0."""
    x = F.pad(x, (0, 0, 0, -x.shape[1] % size))
    return x.unflatten(1, (-1, size))
