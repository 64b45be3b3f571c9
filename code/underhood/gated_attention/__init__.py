"""The gated attention unit and FLASH: attention and feed-forward in one layer."""

from underhood.gated_attention.activations import (
    KERNELS,
    attention_matrix,
    laplace,
    relu_squared,
)
from underhood.gated_attention.flash import (
    FLASH,
    mixed_chunk_attention,
    mixed_chunk_by_definition,
)
from underhood.gated_attention.text import bytes_of_modules, windows
from underhood.gated_attention.training import (
    LanguageModel,
    Run,
    bits_per_byte,
    count_parameters,
    train,
)
from underhood.gated_attention.units import (
    FLASHQuad,
    GatedAttentionUnit,
    GatedLinearUnit,
    PerDimAffine,
    apply_rope,
)

__all__ = [
    "FLASH",
    "KERNELS",
    "FLASHQuad",
    "GatedAttentionUnit",
    "GatedLinearUnit",
    "LanguageModel",
    "PerDimAffine",
    "Run",
    "apply_rope",
    "attention_matrix",
    "bits_per_byte",
    "bytes_of_modules",
    "count_parameters",
    "laplace",
    "mixed_chunk_attention",
    "mixed_chunk_by_definition",
    "relu_squared",
    "train",
    "windows",
]
