"""From the recurrent cell to the Transformer."""

from underhood.transformer.attention import (
    MultiHeadAttention,
    attention_maps,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
)
from underhood.transformer.layers import (
    LayerNorm,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from underhood.transformer.model import (
    Transformer,
    TransformerDecoder,
    TransformerEncoder,
    base_parameter_count,
    count_parameters,
    learning_rate,
)
from underhood.transformer.positions import (
    position_rotation,
    sinusoidal_positions,
    wavelengths,
)
from underhood.transformer.recurrent import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    RNNCell,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "LayerNorm",
    "MultiHeadAttention",
    "RNNCell",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "attention_maps",
    "attention_weights",
    "base_parameter_count",
    "causal_mask",
    "count_parameters",
    "learning_rate",
    "position_rotation",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "wavelengths",
]
