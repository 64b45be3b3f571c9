"""The block of today's language models, as a diff against the layer of 2017.

LayerNorm -> RMSNorm, and in front; added positions -> rotated queries and keys (RoPE);
two linear layers with ReLU -> three with a gate (SwiGLU); a key and value per head ->
one per group of heads (GQA); no biases; and, in some, normalized queries and keys.

Keys of the parameters are those of Llama in `transformers` (with `qk_norm`: Qwen3).

Sources: Zhang & Sennrich, 2019 (RMSNorm); Su et al., 2021 (RoPE); Shazeer, 2020
(SwiGLU); Ainslie et al., 2023 (GQA); Henry et al., 2020 (QK-norm).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.attention import causal_mask, scaled_dot_product_attention


class RMSNorm(nn.Module):
    """Divide by the root mean square of the features: no mean, no bias.

    Computed in float32 at least: in float16 a square of 256 and more is inf.
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (..., d_model)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = wide.pow(2).mean(dim=-1, keepdim=True)
        scaled = wide * torch.rsqrt(mean_square + self.eps)
        return (scaled * self.weight).to(x.dtype)


def rotary_angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """How far each pair of features is turned at each position.

    Args:
        positions: (length,). head_dim: even.

    Returns:
        (length, head_dim / 2) in radians, float64: `position / base^(2i/head_dim)`.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim: got {head_dim}; an even number is needed")
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device)
    return positions.double()[:, None] * base ** (-pairs / head_dim)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """RoPE: turn feature i together with feature i + head_dim / 2.

    Args:
        x: (..., length, head_dim), queries or keys. angles: (length, head_dim / 2).
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat(turned, dim=-1)


class SwiGLU(nn.Module):
    """Feed-forward whose hidden features are multiplied by a gate."""

    def __init__(self, d_model: int, hidden_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, hidden_size, bias=False)
        self.up_proj = nn.Linear(d_model, hidden_size, bias=False)
        self.down_proj = nn.Linear(hidden_size, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model); `silu(x) = x sigmoid(x)`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass
class KVCache:
    """Keys and values so far, each (batch, num_kv_heads, length, head_dim)."""

    key: Tensor | None = None
    value: Tensor | None = None

    @property
    def length(self) -> int:
        """How many positions are stored."""
        return 0 if self.key is None else self.key.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(t.nbytes for t in (self.key, self.value) if t is not None)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest positions; all keys and values so far."""
        if self.key is not None and self.value is not None:
            key = torch.cat([self.key, key], dim=2)
            value = torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value


class GroupedQueryAttention(nn.Module):
    """Causal self-attention where several query heads share a key and a value.

    Args:
        d_model: features of each token. num_heads: query heads.
        num_kv_heads: must divide `num_heads`; equal to it: multi-head attention; 1:
            multi-query attention.
        head_dim: None: d_model / num_heads.
        qk_norm: RMSNorm on each query and each key, before they are rotated.
        base: of the rotary angles; None: nothing is rotated ("NoPE").
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int | None = None,
        *,
        qk_norm: bool = False,
        base: float | None = 10000.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_kv_heads: got {num_kv_heads}; it must divide num_heads "
                f"({num_heads})"
            )
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"num_heads: got {num_heads}; it must divide d_model ({d_model}), "
                f"or give head_dim"
            )
        self.head_dim = d_model // num_heads if head_dim is None else head_dim
        self.group_size, self.base = num_heads // num_kv_heads, base
        kv_width = num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(d_model, num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(num_heads * self.head_dim, d_model, bias=False)
        if qk_norm:
            self.q_norm = RMSNorm(self.head_dim, eps)
            self.k_norm = RMSNorm(self.head_dim, eps)
        self.qk_norm = qk_norm

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Attend to the past.

        Args:
            x: (batch, length, d_model), the newest positions.
            cache: of the older ones; extended in place. None: there are none.
        """
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )  # (batch, num_heads or num_kv_heads, length, head_dim)
        if self.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.base is not None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + x.shape[1], device=x.device)
            angles = rotary_angles(positions, self.head_dim, self.base)
            query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            key, value = cache.append(key, value)
        # Query heads 0 … group_size - 1 read key and value head 0, and so on.
        key = key.repeat_interleave(self.group_size, dim=1)
        value = value.repeat_interleave(self.group_size, dim=1)
        mask = causal_mask(query.shape[2], key.shape[2], x.device)
        heads = scaled_dot_product_attention(query, key, value, mask)
        return self.o_proj(heads.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """One block of a decoder-only model: pre-norm, no cross-attention, no biases."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        hidden_size: int,
        *,
        head_dim: int | None = None,
        qk_norm: bool = False,
        base: float | None = 10000.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(d_model, eps)
        self.self_attn = GroupedQueryAttention(
            d_model,
            num_heads,
            num_kv_heads,
            head_dim,
            qk_norm=qk_norm,
            base=base,
            eps=eps,
        )
        self.post_attention_layernorm = RMSNorm(d_model, eps)
        self.mlp = SwiGLU(d_model, hidden_size)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(batch, length, d_model) -> the same; see `GroupedQueryAttention.forward`."""
        x = x + self.self_attn(self.input_layernorm(x), cache)
        return x + self.mlp(self.post_attention_layernorm(x))


def kv_cache_bytes(
    num_layers: int,
    num_kv_heads: int,
    head_dim: int,
    length: int,
    bytes_per_value: int = 2,
) -> int:
    """Bytes of the cache of one sequence: a key and a value per layer, head, position.

    Args:
        bytes_per_value: 2 for float16 and bfloat16, 4 for float32, 1 for float8.
    """
    return 2 * num_layers * num_kv_heads * head_dim * length * bytes_per_value


def speculative_sample(
    target: Tensor, draft: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Let a cheap model guess a token, and correct it so that nobody could tell.

    The draft's guess t is kept with probability `min(1, target[t] / draft[t])`;
    otherwise another is drawn from what the draft gives too little:
    `max(target - draft, 0)`, normalized. The result follows `target` exactly.

    Args:
        target, draft: probabilities, (batch, vocab_size).

    Returns:
        The tokens, (batch,), and which of them are the draft's, (batch,).

    Source: Leviathan et al., 2023, section 2.3.
    """
    if target.shape != draft.shape or target.dim() != 2:
        raise ValueError(
            f"target, draft: got shapes {tuple(target.shape)} and "
            f"{tuple(draft.shape)}; the same (batch, vocab_size) is needed"
        )
    guess = torch.multinomial(draft, 1, generator=generator)  # (batch, 1)
    ratio = target.gather(1, guess) / draft.gather(1, guess)
    luck = torch.rand(
        ratio.shape, generator=generator, dtype=ratio.dtype, device=ratio.device
    )
    kept = luck < ratio
    lacking = (target - draft).clamp(min=0)
    # Where both agree nothing is lacking, and nothing is refused either.
    lacking = torch.where(lacking.sum(-1, keepdim=True) > 0, lacking, target)
    other = torch.multinomial(lacking, 1, generator=generator)
    return torch.where(kept, guess, other).squeeze(1), kept.squeeze(1)
