"""A byte-level language model with interchangeable layers, and its training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.gated_attention.flash import FLASH
from underhood.gated_attention.text import check_longer, windows
from underhood.gated_attention.units import GatedAttentionUnit, apply_rope

KINDS = ("attention + FFN", "GAU × 2", "FLASH × 2")


class RotaryAttention(nn.Module):
    """Causal multi-head softmax attention with rotary positions, without biases."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.to_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) to the same shape."""
        split = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (batch, heads, length, head_dim)
        heads = F.scaled_dot_product_attention(
            apply_rope(q), apply_rope(k), v, is_causal=True
        )
        return self.to_out(heads.transpose(1, 2).flatten(2))


def sublayers(kind: str, d_model: int, s: int, chunk_size: int) -> list[nn.Module]:
    """The two sublayers of one layer: 12 d_model² + 2 d_model s weights in each kind.

    A pair of units has 2 d_model s weights more than a Transformer layer; here the
    hidden layer of the feed-forward network is s wider to make up for it.
    """
    if kind == "attention + FFN":
        hidden = 4 * d_model + s
        return [
            RotaryAttention(d_model, num_heads=4),
            nn.Sequential(
                nn.Linear(d_model, hidden, bias=False),
                nn.GELU(),
                nn.Linear(hidden, d_model, bias=False),
            ),
        ]
    if kind == "GAU × 2":
        return [GatedAttentionUnit(d_model, s=s, causal=True) for _ in range(2)]
    if kind == "FLASH × 2":
        options = {"s": s, "chunk_size": chunk_size, "causal": True}
        return [FLASH(d_model, **options) for _ in range(2)]  # type: ignore[arg-type]
    raise ValueError(f"kind: got {kind!r}; allowed are {', '.join(KINDS)}")


class LanguageModel(nn.Module):
    """Bytes in, logits of the next byte out; pre-norm, embedding and output tied.

    Args:
        kind: one of `KINDS`. d_model: features. layers: pairs of sublayers.
        s: features of query and key of the units. chunk_size: of FLASH.
        embedding_std: of the embedding at the start; None: 1 / √d_model.
    """

    def __init__(
        self,
        kind: str,
        d_model: int = 64,
        layers: int = 1,
        s: int = 32,
        chunk_size: int = 32,
        embedding_std: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, d_model)
        std = d_model**-0.5 if embedding_std is None else embedding_std
        nn.init.normal_(self.embedding.weight, std=std)
        parts = [sublayers(kind, d_model, s, chunk_size) for _ in range(layers)]
        self.sublayers = nn.ModuleList(part for pair in parts for part in pair)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in self.sublayers)
        self.last_norm = nn.LayerNorm(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) to (batch, length, 256)."""
        x = self.embedding(ids)
        for norm, sublayer in zip(self.norms, self.sublayers, strict=True):
            x = x + sublayer(norm(x))
        return F.linear(self.last_norm(x), self.embedding.weight)


@dataclass(frozen=True)
class Run:
    """One training: bits per byte of each step, of unseen text, and the seconds."""

    kind: str
    seed: int
    losses: list[float]
    validation: float
    seconds: float


def count_parameters(module: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def bits_per_byte(model: nn.Module, text: Tensor, length: int = 128) -> float:
    """The mean over `text`, cut into windows of `length`; 8 is a uniform guess."""
    check_longer("text", text, length)
    starts = torch.arange(0, len(text) - length, length)
    total = 0.0
    for part in starts.split(64):
        inputs, targets = windows(text, length, part)
        logits = model(inputs).flatten(0, 1)
        total += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
    return total / (len(starts) * length) / math.log(2)


def train(
    kind: str,
    training: Tensor,
    validation: Tensor,
    *,
    seed: int,
    steps: int = 80,
    batch: int = 8,
    length: int = 128,
    learning_rate: float = 4e-3,
    **options: Any,
) -> Run:
    """Train a `LanguageModel` with Adam; the rate rises over 10%, falls to 0.

    The same seed draws the same windows for every kind.

    Args:
        kind: one of `KINDS`. training, validation: bytes, (bytes,).
        options: for `LanguageModel`.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}; at least 1 is needed")
    check_longer("training", training, length)
    check_longer("validation", validation, length)
    torch.manual_seed(seed)
    model = LanguageModel(kind, **options)
    draw = torch.Generator().manual_seed(seed)
    betas = (0.9, 0.98)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, betas=betas)
    warmup = max(1, steps // 10)
    losses = []
    begin = perf_counter()
    for step in range(steps):
        down = (steps - step) / max(1, steps - warmup)
        factor = min((step + 1) / warmup, down)
        optimizer.param_groups[0]["lr"] = learning_rate * factor
        last = len(training) - length
        starts = torch.randint(last, (batch,), generator=draw)
        inputs, targets = windows(training, length, starts)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item() / math.log(2))
    seconds = perf_counter() - begin
    unseen = bits_per_byte(model, validation, length)
    return Run(kind, seed, losses, unseen, seconds)
