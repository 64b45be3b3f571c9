"""From the recurrent cell to the Transformer."""

from underhood.transformer.attention import (
    MultiHeadAttention,
    attention_maps,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
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
    "MultiHeadAttention",
    "RNNCell",
    "attention_maps",
    "attention_weights",
    "causal_mask",
    "scaled_dot_product_attention",
]
