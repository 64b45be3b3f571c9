"""The encoder–decoder of 2017, on vectors: what `torch.nn.Transformer` is.

Keys and shapes of the parameters are those of `torch.nn.Transformer`. In masks,
**True = may attend**: the opposite of `torch.nn.Transformer`. Embeddings, positions and
the output projection are in `seq2seq.py`.

Source: Vaswani et al., 2017, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from underhood.transformer.layers import (
    LayerCache,
    LayerNorm,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)


class TransformerEncoder(nn.Module):
    """Layers in a row, and a norm at the end or none.

    Args:
        layers: the layers, each with weights of its own. norm: after the last one.
    """

    def __init__(
        self, layers: Sequence[nn.Module], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, **masks: Any) -> Tensor:
        """(batch, length, d_model) -> the same shape; masks as in the layer."""
        for layer in self.layers:
            x = layer(x, **masks)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(nn.Module):
    """Layers in a row that all read the same memory, and a norm at the end or none."""

    def __init__(
        self, layers: Sequence[nn.Module], norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, memory: Tensor, **masks: Any) -> Tensor:
        """Target (batch, length, d_model) and memory; masks as in the layer."""
        for layer in self.layers:
            x = layer(x, memory, **masks)
        return x if self.norm is None else self.norm(x)

    def start_cache(self, memory: Tensor) -> list[LayerCache]:
        """One empty cache per layer."""
        return [layer.start_cache(memory) for layer in self._typed_layers()]

    def step(
        self,
        x: Tensor,
        caches: list[LayerCache],
        memory_key_mask: Tensor | None = None,
    ) -> Tensor:
        """The newest tokens only, (batch, new_length, d_model); caches grow."""
        for layer, cache in zip(self._typed_layers(), caches, strict=True):
            x = layer.step(x, cache, memory_key_mask)
        return x if self.norm is None else self.norm(x)

    def _typed_layers(self) -> list[TransformerDecoderLayer]:
        return cast(list[TransformerDecoderLayer], list(self.layers))


class Transformer(nn.Module):
    """Encoder and decoder; the defaults are the paper's base model.

    Args:
        d_model, num_heads, dim_feedforward, dropout, activation, layer_norm_eps,
            norm_first, attention_bias: see the layers.
        num_encoder_layers, num_decoder_layers: N in the paper.
        final_norm: a norm after the last layer of each stack. `torch.nn.Transformer`
            always has it. Pre-norm needs it; in a post-norm stack, the last layer has
            just normalized, and the paper has none.
    """

    def __init__(
        self,
        d_model: int = 512,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        *,
        norm_first: bool = False,
        attention_bias: bool = True,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = (d_model, num_heads, dim_feedforward, dropout, activation)

        def layers(kind: type[nn.Module], count: int) -> list[nn.Module]:
            return [
                kind(
                    *sizes,
                    layer_norm_eps,
                    norm_first=norm_first,
                    attention_bias=attention_bias,
                )
                for _ in range(count)
            ]

        def norm() -> LayerNorm | None:
            return LayerNorm(d_model, layer_norm_eps) if final_norm else None

        self.encoder = TransformerEncoder(
            layers(TransformerEncoderLayer, num_encoder_layers), norm()
        )
        self.decoder = TransformerDecoder(
            layers(TransformerDecoderLayer, num_decoder_layers), norm()
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_key_mask: Tensor | None = None,
        target_key_mask: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: every position of the target at once, each seeing its past.

        Args:
            source: (batch, source_length, d_model).
            target: (batch, target_length, d_model), shifted right by its caller.
            source_key_mask, target_key_mask: (batch, length), True = a real token.

        Returns:
            (batch, target_length, d_model).
        """
        memory = self.encoder(source, key_mask=source_key_mask)
        return self.decoder(
            target,
            memory,
            key_mask=target_key_mask,
            memory_key_mask=source_key_mask,
        )


def base_parameter_count(
    vocabulary: int = 37_000, d_model: int = 512, d_ff: int = 2048, num_layers: int = 6
) -> int:
    """Parameters of the paper's model, from its text alone.

    Attention has four d x d matrices and no biases (section 3.2.2), the feed-forward
    network two matrices with biases (equation 2), a norm gain and bias, and the two
    embeddings and the output projection share one matrix (section 3.4).
    """
    attention = 4 * d_model**2
    feed_forward = 2 * d_model * d_ff + d_ff + d_model
    norm = 2 * d_model
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    return num_layers * (encoder_layer + decoder_layer) + vocabulary * d_model


def count_parameters(module: nn.Module) -> int:
    """Numbers that training changes; shared parameters count once."""
    return sum(p.numel() for p in module.parameters())


def learning_rate(step: int, d_model: int = 512, warmup: int = 4000) -> float:
    """The schedule of the paper, equation 3: up in a line, down with 1 / sqrt(step).

    Args:
        step: from 1.
    """
    if step < 1:
        raise ValueError(f"step: got {step}; the first step is 1")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
