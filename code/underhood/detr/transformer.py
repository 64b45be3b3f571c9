"""The transformer of DETR: positions on queries and keys, in every layer.

The names of the parameters are those of the published checkpoints.
Source: Carion et al., 2020, appendix A.3; facebookresearch/detr,
`models/transformer.py` and `models/position_encoding.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.detr.config import DetrConfig


def sine_positions(
    mask: Tensor,
    d_model: int,
    temperature: float = 10000.0,
    scale: float = 2 * math.pi,
) -> Tensor:
    """Sines and cosines of the row in the first half, of the column in the second.

    Padding does not count: the last real row and column have the position `scale`,
    whatever the size of the image.

    Args:
        mask: (batch, height, width), True where the image is, False on padding.
        d_model: Channels; half of them per axis.

    Returns:
        (batch, height, width, d_model), float32.

    Raises:
        ValueError: for a d_model that does not give each axis pairs of channels.
    """
    if d_model < 4 or d_model % 4:
        raise ValueError(f"d_model must be a multiple of 4, got {d_model}")
    halves = []
    for axis in (1, 2):  # rows first
        steps = mask.cumsum(axis, dtype=torch.float32)  # 1, 2, 3, ...
        last = steps.narrow(axis, steps.shape[axis] - 1, 1)
        turn = steps / (last + 1e-6) * scale
        halves.append(_sines(turn, d_model // 2, temperature))
    return torch.cat(halves, dim=-1)


def _sines(turn: Tensor, channels: int, temperature: float) -> Tensor:
    """turn: (...) in radians. Returns (..., channels): sin, cos, sin, cos, ..."""
    pair = torch.arange(channels, device=turn.device) // 2
    angle = turn[..., None] / temperature ** (2 * pair / channels)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention whose keys and values may carry different things."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.q_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """
        Args:
            query: (batch, n, d_model).
            key, value: (batch, m, d_model).
            mask: True where a query may look, broadcastable to (batch, heads, n, m).
            record: A list that the weights (batch, heads, n, m) are appended to.

        Returns:
            (batch, n, d_model).
        """
        q = self._heads(self.q_proj(query))  # (batch, heads, n, head_dim)
        k = self._heads(self.k_proj(key))
        v = self._heads(self.v_proj(value))
        if record is None:
            dropout = self.dropout if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        else:  # the same, with the weights in the open
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            weights = scores.softmax(-1)
            record.append(weights.detach())
            out = weights @ v
        return self.out_proj(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two linear maps with a ReLU; also the base of both kinds of layers."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(inner)))


class EncoderLayer(FeedForward):
    """Self-attention over the cells of the feature map, then feed-forward."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        d_model, heads = config.d_model, config.num_heads
        self.self_attn = Attention(d_model, heads, config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """x, positions: (batch, cells, d_model)."""
        placed = x + positions  # queries and keys know where, values do not
        attended = self.self_attn(placed, placed, x, mask, record)
        x = self.self_attn_layer_norm(x + self.dropout(attended))
        return self.feed_forward(x)


class DecoderLayer(FeedForward):
    """Queries talk to each other, then look at the image, then think."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        d_model, heads = config.d_model, config.num_heads
        self.self_attn = Attention(d_model, heads, config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.encoder_attn = Attention(d_model, heads, config.dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(d_model)

    def forward(
        self,
        x: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """
        Args:
            x, query_positions: (batch, queries, d_model).
            memory, positions: (batch, cells, d_model).
            mask: (batch, 1, 1, cells), True where the image is.
        """
        x = self.talk(x, query_positions)
        placed = x + query_positions
        keys = memory + positions
        attended = self.encoder_attn(placed, keys, memory, mask, record)
        x = self.encoder_attn_layer_norm(x + self.dropout(attended))
        return self.feed_forward(x)

    def talk(self, x: Tensor, query_positions: Tensor) -> Tensor:
        """The first third of the layer: self-attention among the queries."""
        placed = x + query_positions
        attended = self.self_attn(placed, placed, x)
        return self.self_attn_layer_norm(x + self.dropout(attended))


class Encoder(nn.Module):
    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config) for _ in range(config.encoder_layers)
        )


class Decoder(nn.Module):
    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(config) for _ in range(config.decoder_layers)
        )
        self.layernorm = nn.LayerNorm(config.d_model)
