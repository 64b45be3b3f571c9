"""Attention on pictures: every place asks every place, then every word.

Names of parameters, and what is computed, as in diffusers (`models/attention.py`,
`models/transformers/transformer_2d.py`), so that published checkpoints fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention of `query_dim` channels on `context_dim` channels.

    Args:
        query_dim: width of what asks, and of the output.
        context_dim: width of what is asked; None: the same (self-attention).
        num_heads, head_dim: heads and the width of each.
        bias: with biases on query, key and value.
        upcast: scores in float32 even in half precision (SD 2.1 overflows without).
    """

    # Pairs of (picture, head) at once; None: all. Set by `StableDiffusion`.
    slice_size: int | None = None

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        *,
        num_heads: int,
        head_dim: int,
        bias: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads, self.upcast = num_heads, upcast
        self.to_q = nn.Linear(query_dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or query_dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or query_dim, inner, bias=bias)
        # A list, because the checkpoints call it `to_out.0`; `to_out.1` is a dropout.
        self.to_out = nn.ModuleList([nn.Linear(inner, query_dim)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, length, query_dim), (batch, keys, context_dim) -> as x."""
        context = x if context is None else context
        query, key, value = (
            each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.to_q(x), self.to_k(context), self.to_v(context))
        )  # three times (batch, num_heads, length, head_dim)
        if self.upcast:
            query, key, value = query.float(), key.float(), value.float()
        if self.slice_size is None:
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            out = sliced_attention(query, key, value, self.slice_size)
        out = out.to(x.dtype).transpose(1, 2).flatten(2)  # (batch, length, inner)
        return self.to_out[0](out)


def sliced_attention(
    query: Tensor, key: Tensor, value: Tensor, slice_size: int
) -> Tensor:
    """Attention for `slice_size` pairs of (picture, head) at a time.

    The scores of one slice are thrown away before those of the next are made, so at
    most slice_size · length · keys of them exist. That helps only where no fused kernel
    does it anyway.

    Args:
        query, key, value: (batch, num_heads, length, head_dim).
    """
    flat = [each.flatten(0, 1) for each in (query, key, value)]
    scale = query.shape[-1] ** -0.5
    parts = []
    for q, k, v in zip(*(each.split(slice_size) for each in flat), strict=True):
        parts.append((q * scale @ k.mT).softmax(dim=-1) @ v)
    return torch.cat(parts).view_as(query)


class GEGLU(nn.Module):
    """One half of a projection, gated by the GELU of the other (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., hidden)."""
        values, gates = self.proj(x).chunk(2, dim=-1)
        return values * F.gelu(gates)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back. `net.1` is a dropout elsewhere."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)]
        self.net = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention on words, feed-forward: pre-norm, residual."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        *,
        num_heads: int,
        upcast: bool,
    ) -> None:
        super().__init__()
        heads: dict[str, Any] = {
            "num_heads": num_heads,
            "head_dim": dim // num_heads,
            "upcast": upcast,
        }
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, **heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, **heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(batch, places, dim), (batch, words, context_dim) -> as x."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks on a picture: each place of it is a token.

    Args:
        channels: of the picture. context_dim: of the words.
        num_heads: of both attentions. depth: number of blocks.
        groups: of the `GroupNorm` (eps 1e-6, unlike the UNet's other ones).
        linear: project with `Linear` (SD 2.x, SDXL) or with a 1×1 convolution (SD 1.x);
            the same arithmetic, in weights of another shape.
        upcast: see `Attention`.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        *,
        num_heads: int,
        depth: int,
        groups: int,
        linear: bool,
        upcast: bool,
    ) -> None:
        super().__init__()
        self.linear = linear

        def projection() -> nn.Module:
            if linear:
                return nn.Linear(channels, channels)
            return nn.Conv2d(channels, channels, 1)

        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                channels, context_dim, num_heads=num_heads, upcast=upcast
            )
            for _ in range(depth)
        )
        self.proj_out = projection()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(batch, channels, h, w), (batch, words, context_dim) -> as x."""
        height, width = x.shape[2:]
        tokens = self.norm(x)
        if not self.linear:
            tokens = self.proj_in(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)  # (batch, h·w, channels)
        if self.linear:
            tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self.linear:
            tokens = self.proj_out(tokens)
        out = tokens.transpose(1, 2).unflatten(2, (height, width))  # (b, c, h, w)
        if not self.linear:
            out = self.proj_out(out.contiguous())
        return x + out
