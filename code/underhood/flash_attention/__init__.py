"""FlashAttention: from the safe softmax down to Triton kernels."""

import os

import torch

# Without a GPU, Triton's interpreter runs the kernels. Triton reads this when it is
# imported, which happens on the first call that needs it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from underhood.flash_attention.ahead_of_time import compile_kernels
from underhood.flash_attention.interface import flash_attention, triton_mode
from underhood.flash_attention.memory import (
    FastMemory,
    FastMemoryExceeded,
    keys_outside,
    paper_blocks,
    queries_outside,
    standard_attention,
    widest_blocks,
)
from underhood.flash_attention.parallel import (
    decode_attention,
    merge_outputs,
    ring_attention,
)
from underhood.flash_attention.partial import (
    Partial,
    empty_partial,
    finish,
    merge,
    partial_attention,
)
from underhood.flash_attention.passes import (
    Step,
    Stream,
    delayed_attention,
    naive_softmax,
    one_pass_attention,
    online_attention,
    online_softmax,
    online_steps,
    safe_attention,
    safe_softmax,
)
from underhood.flash_attention.picture import draw_merge_orders
from underhood.flash_attention.reference import reference_attention, visible_keys
from underhood.flash_attention.tiled import (
    blocks,
    tile_kind,
    tiled_attention,
    tiled_gradients,
)

__all__ = [
    "FastMemory",
    "FastMemoryExceeded",
    "Partial",
    "Step",
    "Stream",
    "blocks",
    "compile_kernels",
    "decode_attention",
    "delayed_attention",
    "draw_merge_orders",
    "empty_partial",
    "finish",
    "flash_attention",
    "keys_outside",
    "merge",
    "merge_outputs",
    "naive_softmax",
    "one_pass_attention",
    "online_attention",
    "online_softmax",
    "online_steps",
    "paper_blocks",
    "partial_attention",
    "queries_outside",
    "reference_attention",
    "ring_attention",
    "safe_attention",
    "safe_softmax",
    "standard_attention",
    "tile_kind",
    "tiled_attention",
    "tiled_gradients",
    "triton_mode",
    "visible_keys",
    "widest_blocks",
]
