"""Recall: see a symbol, see noise, say the symbol.

The smallest task that needs memory and nothing else. The first token is one of
`SYMBOLS`; then come `distance` tokens of noise, other ids that carry no information;
after the last one the model must name the first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.layers import TransformerEncoderLayer
from underhood.transformer.positions import sinusoidal_positions
from underhood.transformer.recurrent import GRU, LSTM, RNN

SYMBOLS, NOISE = 8, 8  # ids 0-7 are to be recalled, ids 8-15 say nothing


def recall_batch(
    batch: int, distance: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw sequences (batch, distance + 1) and what to recall, (batch,)."""
    if distance < 1:
        raise ValueError(f"distance: got {distance}; at least 1 is needed")
    wanted = torch.randint(SYMBOLS, (batch,), generator=generator)
    noise = torch.randint(NOISE, (batch, distance), generator=generator) + SYMBOLS
    return torch.cat([wanted[:, None], noise], dim=1), wanted


class _Reader(nn.Module):
    """Embedding, a sequence model, and logits from its last output."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS + NOISE, size)
        self.head = nn.Linear(size, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) -> logits (batch, SYMBOLS)."""
        return self.head(self.read(self.embedding(tokens))[:, -1])

    def read(self, x: Tensor) -> Tensor:
        """(batch, length, size) -> the same shape."""
        raise NotImplementedError


class RecurrentReader(_Reader):
    """Reads with an RNN, an LSTM or a GRU.

    Args:
        kind: the layer. size: features, of the input and of the state.
        forget_bias: for the LSTM, sets the bias of the forget gate: 0 as `torch.nn`
            starts, gates half open; 3 keeps 95 % of the cell at each step.
    """

    def __init__(
        self,
        kind: type[RNN] | type[LSTM] | type[GRU],
        size: int,
        forget_bias: float | None = None,
    ) -> None:
        super().__init__(size)
        self.layers = kind(size, size)
        if forget_bias is not None:
            with torch.no_grad():  # rows: input, forget, cell, output
                self.layers.get_parameter("bias_ih_l0")[size : 2 * size] = forget_bias

    def read(self, x: Tensor) -> Tensor:
        """The outputs of the recurrent layer."""
        return self.layers(x)[0]


class AttentionReader(_Reader):
    """Reads with one Transformer layer and sinusoidal positions."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.layer = TransformerEncoderLayer(size, 4, size, 0.0, norm_first=True)

    def read(self, x: Tensor) -> Tensor:
        """The outputs of the layer."""
        return self.layer(x + sinusoidal_positions(*x.shape[1:]).to(x))


READERS: dict[str, Callable[[int], _Reader]] = {
    "RNN": lambda size: RecurrentReader(RNN, size),
    "LSTM": lambda size: RecurrentReader(LSTM, size),
    "GRU": lambda size: RecurrentReader(GRU, size),
    "LSTM, forget bias 3": lambda size: RecurrentReader(LSTM, size, forget_bias=3.0),
    "Transformer": AttentionReader,
}


def recall_accuracy(
    name: str,
    distance: int,
    *,
    updates: int = 150,
    batch: int = 64,
    size: int = 32,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> float:
    """Train a reader (a name in `READERS`) from scratch; accuracy on 1000 new cases."""
    if name not in READERS:
        raise ValueError(f"name: got {name!r}; allowed are {', '.join(READERS)}")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    reader = READERS[name](size)
    optimizer = torch.optim.Adam(reader.parameters(), learning_rate, fused=True)
    for _ in range(updates):
        tokens, wanted = recall_batch(batch, distance, generator)
        loss = F.cross_entropy(reader(tokens), wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
    tokens, wanted = recall_batch(1000, distance, generator)
    with torch.no_grad():
        return (reader(tokens).argmax(dim=-1) == wanted).float().mean().item()
