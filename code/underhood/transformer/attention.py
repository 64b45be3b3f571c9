"""Scaled dot-product attention and its multi-head form.

Masks mean one thing in this book: **True = may attend**. So does
`torch.nn.functional.scaled_dot_product_attention`. `torch.nn.MultiheadAttention` and
`torch.nn.Transformer` mean the opposite (True = may NOT attend): invert a mask on its
way there (`~mask`). A query that may attend nowhere gets the output 0, not NaN.

Source: Vaswani et al., "Attention Is All You Need", 2017, sections 3.2.1 and 3.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def causal_mask(
    query_length: int,
    key_length: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Who may look where when nobody may look ahead: (query_length, key_length).

    True = may attend. The queries are the last positions (aligned bottom-right, as a
    KV cache needs it): the last query sees every key. With more queries than keys,
    the first ones see none.
    """
    keys = query_length if key_length is None else key_length
    if query_length < 1 or keys < 1:
        raise ValueError(
            f"query_length, key_length: got {query_length}, {keys}; each must be at "
            f"least 1"
        )
    ones = torch.ones(query_length, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - query_length)


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query keyᵀ · scale + mask), over the keys.

    Args:
        query: (..., query_length, head_dim). key: (..., key_length, head_dim).
        attn_mask: broadcastable to (..., query_length, key_length). Boolean: True = may
            attend. Floating: added to the scores.
        is_causal: no query looks past its own position; needs as many keys as queries.
        scale: default 1 / sqrt(head_dim).

    Returns:
        (..., query_length, key_length). Each row sums to 1, or is all 0 where the mask
        leaves nothing to attend to.
    """
    mask = _combined_mask(query, key, attn_mask, is_causal)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    # (..., query_length, key_length)
    scores = query @ key.transpose(-2, -1) * scale
    if mask is None:
        return torch.softmax(scores, dim=-1)
    if mask.dtype == torch.bool:
        allowed = mask
    else:
        allowed = mask != -math.inf
        scores = scores + mask
    # A row without any key would be 0 / 0: give it finite scores, so that neither
    # output nor gradient is NaN, and take its weights away afterwards.
    empty = ~allowed.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~allowed, -math.inf).masked_fill(empty, 0.0)
    return torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> Tensor:
    """softmax(query keyᵀ / sqrt(head_dim)) value: equation 1 of the paper.

    The signature is that of `torch.nn.functional.scaled_dot_product_attention`, but for
    its `enable_gqa`.

    Args:
        query: (..., query_length, head_dim). key: (..., key_length, head_dim).
        value: (..., key_length, value_dim).
        attn_mask, is_causal, scale: see `attention_weights`; True = may attend.
        dropout_p: each weight is dropped with this probability, always; pass 0 when
            evaluating.

    Returns:
        (..., query_length, value_dim); 0 for a query that may attend nowhere.
    """
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"value: got length {value.shape[-2]}; key has {key.shape[-2]}, and each "
            f"key needs its value"
        )
    weights = attention_weights(query, key, attn_mask, is_causal=is_causal, scale=scale)
    return F.dropout(weights, dropout_p) @ value


class MultiHeadAttention(nn.Module):
    """Attention in `num_heads` subspaces of `embed_dim / num_heads` features each.

    Parameters have the keys and shapes of `torch.nn.MultiheadAttention`: the three
    input projections are stacked in `in_proj_weight`, (3 * embed_dim, embed_dim), in
    the order query, key, value. Batch first, always.

    Args:
        embed_dim: features of input and output, divisible by `num_heads`.
        num_heads: heads. dropout: on the weights, while training.
        bias: on all four projections; the paper has none.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"num_heads: got {num_heads}; it must divide embed_dim ({embed_dim})"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_value: tuple[Tensor, Tensor] | None = None,
        attn_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: (batch, query_length, embed_dim).
            key: (batch, key_length, embed_dim); None: the query (self-attention).
            value: as `key`; None: the key.
            key_value: what `project_key_value` returned, instead of `key` and `value`.
            attn_mask: (query_length, key_length), or four dimensions that broadcast to
                (batch, num_heads, query_length, key_length); True = may attend, the
                OPPOSITE of `torch.nn.MultiheadAttention`.
            key_mask: (batch, key_length), True = a real token; the inverse of what
                `torch.nn` calls `key_padding_mask`.
            is_causal: no query looks past its own position.

        Returns:
            Output (batch, query_length, embed_dim) and the weights of each head
            (batch, num_heads, query_length, key_length), before dropout.
        """
        q = self._split(self._project(query, 0))
        if key_value is None:
            key = query if key is None else key
            key_value = self.project_key_value(key, value)
        elif key is not None or value is not None:
            raise ValueError("key_value: takes the place of key and value; got both")
        k, v = key_value
        mask = with_key_mask(attn_mask, key_mask)
        weights = attention_weights(q, k, mask, is_causal=is_causal)
        heads = F.dropout(weights, self.dropout, self.training) @ v
        return self.out_proj(self._merge(heads)), weights

    def project_key_value(
        self, key: Tensor, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values as the heads see them: what a KV cache stores.

        Args:
            key, value: (batch, key_length, embed_dim); value None: the key.

        Returns:
            Two tensors (batch, num_heads, key_length, head_dim).
        """
        value = key if value is None else value
        return self._split(self._project(key, 1)), self._split(self._project(value, 2))

    def _project(self, x: Tensor, which: int) -> Tensor:
        """Apply block 0 (query), 1 (key) or 2 (value) of the stacked projections."""
        if x.dim() != 3 or x.shape[-1] != self.embed_dim:
            name = ("query", "key", "value")[which]
            raise ValueError(
                f"{name}: got shape {tuple(x.shape)}; (batch, length, embed_dim) with "
                f"embed_dim {self.embed_dim} is needed"
            )
        rows = slice(which * self.embed_dim, (which + 1) * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        return F.linear(x, self.in_proj_weight[rows], bias)

    def _split(self, x: Tensor) -> Tensor:
        """(batch, length, embed_dim) -> (batch, num_heads, length, head_dim)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        """(batch, num_heads, length, head_dim) -> (batch, length, embed_dim)."""
        return x.transpose(1, 2).flatten(2)


@contextmanager
def attention_maps(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights of every `MultiHeadAttention` in `model` while it runs.

    Yields a dict from the name of the module ("layers.0.self_attn") to the weights of
    its calls so far, each (batch, num_heads, query_length, key_length).
    """
    maps: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: maps[name].append(output[1].detach())

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            maps[name] = []
            hooks.append(module.register_forward_hook(keep(name)))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def with_key_mask(attn_mask: Tensor | None, key_mask: Tensor | None) -> Tensor | None:
    """Join a mask over (query, key) pairs with one over keys, (batch, key_length).

    A mask over pairs has two dimensions or four. With three, a mask per sequence, the
    batch would be taken for the heads.
    """
    if attn_mask is not None and attn_mask.dim() not in (2, 4):
        raise ValueError(
            f"attn_mask: got shape {tuple(attn_mask.shape)}; 2 or 4 dimensions are "
            f"needed: (query_length, key_length), or (batch, num_heads) and these; "
            f"for a mask per sequence, attn_mask[:, None]"
        )
    if key_mask is None:
        return attn_mask
    if key_mask.dtype != torch.bool or key_mask.dim() != 2:
        raise ValueError(
            f"key_mask: got {key_mask.dtype} of shape {tuple(key_mask.shape)}; "
            f"torch.bool (batch, key_length) is needed, True = a real token"
        )
    keys = key_mask[:, None, None, :]  # (batch, 1, 1, key_length)
    if attn_mask is None:
        return keys
    if attn_mask.dtype == torch.bool:
        return attn_mask & keys
    return attn_mask.masked_fill(~keys, -math.inf)


def _combined_mask(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool
) -> Tensor | None:
    """Check the shapes; the mask of `attn_mask` and `is_causal` together."""
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"key: got head_dim {key.shape[-1]}; query has {query.shape[-1]}"
        )
    lengths = query.shape[-2], key.shape[-2]
    if attn_mask is not None:
        if attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
            raise TypeError(
                f"attn_mask: got {attn_mask.dtype}; allowed are torch.bool (True = may "
                f"attend) and floating types (added to the scores)"
            )
        last = attn_mask.shape[-2:]
        fits = all(n in (1, m) for n, m in zip(last, lengths, strict=False))
        if attn_mask.dim() < 2 or not fits:
            raise ValueError(
                f"attn_mask: got shape {tuple(attn_mask.shape)}; it must broadcast to "
                f"(..., query_length, key_length) = (..., {lengths[0]}, {lengths[1]})"
            )
    if not is_causal:
        return attn_mask
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"is_causal: query_length {lengths[0]} and key_length {lengths[1]} differ; "
            f"torch would align the mask top-left, FlashAttention bottom-right: say "
            f"which with attn_mask (causal_mask gives bottom-right)"
        )
    causal = causal_mask(*lengths, device=query.device)
    if attn_mask is None:
        return causal
    if attn_mask.dtype == torch.bool:
        return attn_mask & causal
    return attn_mask.masked_fill(~causal, -math.inf)
