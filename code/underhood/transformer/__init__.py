"""From the recurrent cell to the Transformer.

Sequences are batch first, always. In masks, True = may attend, always.
"""

from underhood.transformer.attention import (
    MultiHeadAttention,
    attention_maps,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
)
from underhood.transformer.decoding import (
    Hypothesis,
    beam_search,
    every_sequence,
    greedy_decode,
)
from underhood.transformer.layers import (
    LayerCache,
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
from underhood.transformer.scan import loop_recurrence, scan_recurrence
from underhood.transformer.seq2seq import Seq2Seq, sequence_loss, shift_right
from underhood.transformer.training import train

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "Hypothesis",
    "LSTMCell",
    "LayerCache",
    "LayerNorm",
    "MultiHeadAttention",
    "RNNCell",
    "Seq2Seq",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "attention_maps",
    "attention_weights",
    "base_parameter_count",
    "beam_search",
    "causal_mask",
    "count_parameters",
    "every_sequence",
    "greedy_decode",
    "learning_rate",
    "loop_recurrence",
    "position_rotation",
    "scaled_dot_product_attention",
    "scan_recurrence",
    "sequence_loss",
    "shift_right",
    "sinusoidal_positions",
    "train",
    "wavelengths",
]
