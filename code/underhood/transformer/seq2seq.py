"""The whole model of 2017: token ids in, logits out.

`Seq2Seq` wraps `Transformer` with what the paper puts around it: one embedding matrix
for source, target and output (section 3.4), scaled by sqrt(d_model) on the way in,
and sinusoidal positions (section 3.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.layers import LayerCache
from underhood.transformer.model import Transformer
from underhood.transformer.positions import sinusoidal_positions


@dataclass
class DecodingState:
    """Everything that decoding carries from one token to the next."""

    caches: list[LayerCache]  # one per decoder layer
    source_mask: Tensor  # (batch, source_length), True = a real token
    position: int = 0  # tokens of the target so far

    def select(self, rows: Tensor) -> DecodingState:
        """The state of these rows of the batch, in this order."""
        caches = [cache.select(rows) for cache in self.caches]
        return DecodingState(caches, self.source_mask[rows], self.position)


class Seq2Seq(nn.Module):
    """A Transformer from token ids to logits.

    Args:
        vocabulary_size: ids are 0 … vocabulary_size - 1, for source and target alike.
        d_model, num_heads, num_layers, dim_feedforward, dropout, norm_first: see
            `Transformer`; as many decoder layers as encoder layers.
        padding: the id that stands for no token.
        max_length: longest source or target.
    """

    def __init__(
        self,
        vocabulary_size: int,
        d_model: int = 512,
        num_heads: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        *,
        norm_first: bool = False,
        padding: int = 0,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.d_model, self.padding = d_model, padding
        self.embedding = nn.Embedding(vocabulary_size, d_model)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(
            d_model,
            num_heads,
            num_layers,
            num_layers,
            dim_feedforward,
            dropout,
            norm_first=norm_first,
            final_norm=norm_first,
        )
        self.positions: Tensor
        table = sinusoidal_positions(max_length, d_model)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: the logits of every next token, in one pass.

        Args:
            source: (batch, source_length), ids.
            target: (batch, target_length), ids, shifted right: it starts with the
                token that begins every target.

        Returns:
            (batch, target_length, vocabulary_size); row t is about the token after
            target[t].
        """
        # The target needs no padding mask: padding comes last, and nobody looks ahead.
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            source_key_mask=source != self.padding,
        )
        return self.logits(hidden)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Ids (batch, length) -> vectors (batch, length, d_model) with positions."""
        end = start + tokens.shape[1]
        if end > len(self.positions):
            raise ValueError(
                f"tokens: position {end - 1} is past max_length {len(self.positions)}"
            )
        x = self.embedding(tokens) * math.sqrt(self.d_model)
        return self.dropout(x + self.positions[start:end])

    def logits(self, hidden: Tensor) -> Tensor:
        """Compare with every embedding: the output projection is the same matrix."""
        return F.linear(hidden, self.embedding.weight)

    def start(self, source: Tensor) -> DecodingState:
        """Read the source once; the state before the first token of the target."""
        mask = source != self.padding
        memory = self.transformer.encoder(self.embed(source), key_mask=mask)
        return DecodingState(self.transformer.decoder.start_cache(memory), mask)

    def step(self, tokens: Tensor, state: DecodingState) -> Tensor:
        """Feed the newest tokens; `state` moves on.

        Args:
            tokens: (batch, new_length).

        Returns:
            (batch, new_length, vocabulary_size), as `forward` gives for these
            positions.
        """
        x = self.embed(tokens, start=state.position)
        hidden = self.transformer.decoder.step(x, state.caches, state.source_mask)
        state.position += tokens.shape[1]
        return self.logits(hidden)


def sequence_loss(
    logits: Tensor, target: Tensor, padding: int = 0, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross entropy over the real tokens.

    Args:
        logits: (batch, length, vocabulary_size). target: (batch, length).
        label_smoothing: the paper takes 0.1 (section 5.4).
    """
    return F.cross_entropy(
        logits.flatten(0, 1),
        target.flatten(),
        ignore_index=padding,
        label_smoothing=label_smoothing,
    )


def shift_right(target: Tensor, begin: int) -> Tensor:
    """Put `begin` in front and drop the last token: what the decoder may see."""
    first = torch.full_like(target[:, :1], begin)
    return torch.cat([first, target[:, :-1]], dim=1)
