"""The layers of the Transformer: attention, feed-forward, residuals and norms.

Keys and shapes of the parameters, and the outputs, are those of
`torch.nn.TransformerEncoderLayer` and `TransformerDecoderLayer`. Two things are not:
sequences are batch first, always, and in every mask **True = may attend** (`torch.nn`
means the opposite there).

Sources: Vaswani et al., 2017, figure 1 (post-norm: add, then normalize); Xiong et al.,
2020, figure 1 (pre-norm: normalize, then add).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.attention import MultiHeadAttention, causal_mask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over the features of each token, then gain and bias.

    Source: Ba et al., 2016. The variance is divided by d_model, not d_model - 1.
    Computed in float32 at least: in float16 a square of 256 and more is inf.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., d_model)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centered = wide - wide.mean(dim=-1, keepdim=True)
        variance = centered.square().mean(dim=-1, keepdim=True)
        scaled = centered * torch.rsqrt(variance + self.eps)
        return (scaled * self.weight + self.bias).to(x.dtype)


class _Layer(nn.Module):
    """What both layers share: self-attention, feed-forward, the order of the norms.

    Args:
        d_model: features of each token. num_heads: must divide d_model.
        dim_feedforward: width of the hidden layer that each token passes alone.
        dropout: on attention weights, on the hidden layer, and on what each sublayer
            adds to the residual stream.
        activation: "relu" (the paper) or "gelu" (exact, as in BERT).
        layer_norm_eps: added to the variance.
        norm_first: False is post-norm, as in the paper; True is pre-norm.
        attention_bias: biases in the four projections of attention; the paper has
            none, `torch.nn` has them.
    """

    reads_memory: bool

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        *,
        norm_first: bool = False,
        attention_bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: got {activation!r}; allowed are {', '.join(ACTIVATIONS)}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}; allowed is 0 <= dropout < 1")
        self.self_attn = MultiHeadAttention(d_model, num_heads, dropout, attention_bias)
        if self.reads_memory:
            self.multihead_attn = MultiHeadAttention(
                d_model, num_heads, dropout, attention_bias
            )
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        for number in (1, 2, 3) if self.reads_memory else (1, 2):
            setattr(self, f"norm{number}", LayerNorm(d_model, layer_norm_eps))
            setattr(self, f"dropout{number}", nn.Dropout(dropout))
        self.activation, self.norm_first = ACTIVATIONS[activation], norm_first

    def _add(
        self, x: Tensor, number: int, sublayer: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """One sublayer with its norm, dropout and residual connection."""
        norm = getattr(self, f"norm{number}")
        dropout = getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then a feed-forward network for each token alone."""

    reads_memory = False

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """One layer: as many tokens out as in.

        Args:
            x: (batch, length, d_model).
            attn_mask: broadcastable to (batch, num_heads, length, length); True = may
                attend.
            key_mask: (batch, length), True = a real token.
            is_causal: no token looks past itself.
        """

        def attend(h: Tensor) -> Tensor:
            masks = {"attn_mask": attn_mask, "key_mask": key_mask}
            return self.self_attn(h, **masks, is_causal=is_causal)[0]

        x = self._add(x, 1, attend)
        return self._add(x, 2, self._feed_forward)


@dataclass
class LayerCache:
    """What one decoder layer keeps while it writes a sequence token by token.

    All four are (batch, num_heads, length, head_dim). Those of the target grow
    with each step; those of the memory are computed once.
    """

    memory_key: Tensor
    memory_value: Tensor
    key: Tensor | None = None
    value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest tokens; all keys and values so far."""
        if self.key is not None and self.value is not None:
            key = torch.cat([self.key, key], dim=2)
            value = torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value

    def select(self, rows: Tensor) -> LayerCache:
        """The cache of these rows of the batch: what a beam keeps."""
        return LayerCache(
            self.memory_key[rows],
            self.memory_value[rows],
            None if self.key is None else self.key[rows],
            None if self.value is None else self.value[rows],
        )


class TransformerDecoderLayer(_Layer):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    reads_memory = True

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        attn_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        memory_key_mask: Tensor | None = None,
        is_causal: bool = True,
    ) -> Tensor:
        """All positions of the target at once.

        Args:
            x: (batch, length, d_model), the target so far.
            memory: (batch, memory_length, d_model), the output of the last encoder
                layer; every decoder layer projects it with weights of its own.
            attn_mask: target on target; memory_mask: target on memory; True = may
                attend.
            key_mask: (batch, length); memory_key_mask: (batch, memory_length);
                True = a real token.
            is_causal: on the target, and True unless said otherwise (`torch.nn`:
                False).
        """

        def attend(h: Tensor) -> Tensor:
            masks = {"attn_mask": attn_mask, "key_mask": key_mask}
            return self.self_attn(h, **masks, is_causal=is_causal)[0]

        def cross(h: Tensor) -> Tensor:
            masks = {"attn_mask": memory_mask, "key_mask": memory_key_mask}
            return self.multihead_attn(h, memory, **masks)[0]

        x = self._add(x, 1, attend)
        x = self._add(x, 2, cross)
        return self._add(x, 3, self._feed_forward)

    def start_cache(self, memory: Tensor) -> LayerCache:
        """An empty cache for this layer, with the memory projected once and for all."""
        return LayerCache(*self.multihead_attn.project_key_value(memory))

    def step(
        self, x: Tensor, cache: LayerCache, memory_key_mask: Tensor | None = None
    ) -> Tensor:
        """The newest tokens only; everything older comes from the cache.

        Args:
            x: (batch, new_length, d_model). cache: extended in place.
            memory_key_mask: (batch, memory_length), True = a real token.

        Returns:
            (batch, new_length, d_model), as `forward` gives for these positions.
        """

        def attend(h: Tensor) -> Tensor:
            key_value = cache.append(*self.self_attn.project_key_value(h))
            mask = causal_mask(h.shape[1], key_value[0].shape[2], h.device)
            return self.self_attn(h, key_value=key_value, attn_mask=mask)[0]

        def cross(h: Tensor) -> Tensor:
            key_value = (cache.memory_key, cache.memory_value)
            return self.multihead_attn(
                h, key_value=key_value, key_mask=memory_key_mask
            )[0]

        x = self._add(x, 1, attend)
        x = self._add(x, 2, cross)
        return self._add(x, 3, self._feed_forward)
