"""A head that must be silent most of the time: why softmax attention grows sinks.

The first token is empty or not; one token in four asks for the token before it; at all
others the head should put out nothing.

Source: the task is a small cousin of Bigram-Backcopy in Guo et al., "Active-Dormant
Attention Heads", 2024; the gate that of Qiu et al., "Gated Attention", 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.attention import attention_weights

WORDS, ASKING, LENGTH = 16, 4, 17  # ids 0 to 3 ask; id 16 is the empty token


class Copier(nn.Module):
    """One causal softmax head, with a sigmoid gate on its output or without.

    Args:
        gated: with the gate. size: features.
    """

    def __init__(self, gated: bool, size: int = 48) -> None:
        super().__init__()
        self.tokens = nn.Embedding(WORDS + 1, size)
        self.places = nn.Embedding(LENGTH, size)
        self.to_qkv = nn.Linear(size, 3 * size, bias=False)
        self.to_gate = nn.Linear(size, size) if gated else None
        self.to_out = nn.Linear(size, WORDS, bias=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, n) to outputs (batch, n, 16), weights (batch, n, n); n up to 17."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        query, key, value = self.to_qkv(x).chunk(3, dim=-1)
        weights = attention_weights(query, key, is_causal=True)
        heads = weights @ value
        if self.to_gate is not None:
            heads = heads * torch.sigmoid(self.to_gate(x))
        return self.to_out(heads), weights


@dataclass(frozen=True)
class Silence:
    """How well a head answers, how silent it is else, and where it looks then."""

    error: float  # mean length of output - answer, where asked
    noise: float  # mean length of the output, where not asked
    first: float  # mean weight on the first token, where not asked


def copy_batch(
    batch: int, first_is_empty: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (batch, 17), answers (batch, 17, 16), and where they are asked for."""
    ids = torch.randint(WORDS, (batch, LENGTH), generator=generator)
    if first_is_empty:
        ids[:, 0] = WORDS
    asked = ids < ASKING
    asked[:, : 2 if first_is_empty else 1] = False  # no word stands before these
    before = F.one_hot(ids.roll(1, dims=1), WORDS + 1)[..., :WORDS]
    return ids, before * asked[..., None].float(), asked


def measure_silence(
    *, gated: bool, first_is_empty: bool, updates: int = 250, seed: int = 0
) -> Silence:
    """Train a `Copier` by least squares, and test it on 400 new sequences."""
    if updates < 1:
        raise ValueError(f"updates: got {updates}; at least 1 is needed")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head = Copier(gated)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(updates):
        ids, answers, _ = copy_batch(64, first_is_empty, generator)
        loss = (head(ids)[0] - answers).square().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids, answers, asked = copy_batch(400, first_is_empty, generator)
    with torch.no_grad():
        outputs, weights = head(ids)
    wrong = (outputs - answers).norm(dim=-1)
    idle = ~asked
    idle[:, :3] = False  # with so few keys the first one has much weight anyway
    return Silence(
        wrong[asked].mean().item(),
        wrong[idle].mean().item(),
        weights[..., 0][idle].mean().item(),
    )
