"""Linear attention: one mathematics, executed in four ways, and its descendants."""

import os

import torch

# Without a GPU, Triton's interpreter runs the kernel. Triton reads this when it is
# imported, which happens on the first call that needs it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from underhood.linear_attention import picture, relatives
from underhood.linear_attention.ahead_of_time import compile_kernel
from underhood.linear_attention.definition import attention_by_definition
from underhood.linear_attention.delta import delta_rule, wy_factor
from underhood.linear_attention.feature_maps import (
    FEATURE_MAPS,
    FeatureMap,
    favor_features,
    gaussian_directions,
)
from underhood.linear_attention.gated import gated_linear_attention, retention
from underhood.linear_attention.interface import (
    State,
    kernel_mode,
    linear_attention,
    triton_linear_attention,
)
from underhood.linear_attention.measure import (
    effective_support,
    future_leak,
    peak_bytes,
    recall_error,
    row_weights,
)

__all__ = [
    "FEATURE_MAPS",
    "FeatureMap",
    "State",
    "attention_by_definition",
    "compile_kernel",
    "delta_rule",
    "effective_support",
    "favor_features",
    "future_leak",
    "gated_linear_attention",
    "gaussian_directions",
    "kernel_mode",
    "linear_attention",
    "peak_bytes",
    "picture",
    "recall_error",
    "relatives",
    "retention",
    "row_weights",
    "triton_linear_attention",
    "wy_factor",
]
