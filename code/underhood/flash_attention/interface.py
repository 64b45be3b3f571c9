"""`flash_attention`: the arguments are checked here, and a backend is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from underhood.flash_attention.reference import reference_attention
from underhood.flash_attention.tiled import tiled_attention

BACKENDS = ("auto", "reference", "tiled", "triton")


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention: softmax(query key^T * softmax_scale) value.

    Args:
        query: (batch, heads, query_length, head_dim); any strides.
        key, value: (batch, heads, key_length, head_dim), dtype and device of `query`.
        causal: query i sees key j only where j <= i + key_length - query_length
            (aligned bottom-right). A row that sees nothing gives 0.
        softmax_scale: positive; by default 1 / sqrt(head_dim).
        return_lse: also return the logsumexp of each row of scaled scores: natural
            log, (batch, heads, query_length), at least float32; -inf where a row
            sees nothing.
        backend: "reference" is the formula, "tiled" FlashAttention in PyTorch, and
            "triton" the kernel: head_dim 16 to 128, float16, float32, on a GPU also
            bfloat16, forward only. "auto" takes the kernel for CUDA tensors that it
            can do, "tiled" otherwise. Gradients flow through the first two.

    Returns:
        The output, shape and dtype of `query`; with `return_lse` (output, lse).

    Raises:
        ValueError, TypeError: an argument is not as above.
        ModuleNotFoundError: backend="triton" without triton installed.

    Source: Dao 2023 (arXiv:2307.08691); the mask is that of flash-attn 2.1 and later.
    """
    _check_shapes(query, key, value)
    if softmax_scale is None:
        softmax_scale = 1 / math.sqrt(query.shape[-1])
    if not (softmax_scale > 0 and math.isfinite(softmax_scale)):
        raise ValueError(f"softmax_scale: got {softmax_scale}; it must be positive")
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, allowed are {BACKENDS}")
    if backend == "triton":
        _check_kernel_can(query, key, value)
    elif backend == "auto":
        backend = _best_backend(query, key, value)
    attend = _function_of(backend)
    output, lse = attend(query, key, value, causal=causal, softmax_scale=softmax_scale)
    return (output, lse) if return_lse else output


def _function_of(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if backend == "reference":
        return reference_attention
    if backend == "tiled":
        return tiled_attention
    # Imported here, because everything else works without triton.
    from underhood.flash_attention.kernel import triton_attention

    return triton_attention


def triton_mode() -> str:
    """Where the kernel runs here: "gpu", "interpreter", or "" without triton."""
    if find_spec("triton") is None:
        return ""
    import triton
    import triton.language as tl

    # Triton decides when it is imported whether its own functions are compiled.
    return "gpu" if isinstance(tl.max, triton.JITFunction) else "interpreter"


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    names = {"query": query, "key": key, "value": value}
    for name, tensor in names.items():
        if tensor.dim() != 4 or 0 in tensor.shape:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}; needed are four dimensions "
                f"(batch, heads, length, head_dim), each at least 1"
            )
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: got {tensor.dtype}; it must be floating point")
        if (tensor.dtype, tensor.device) != (query.dtype, query.device):
            raise ValueError(
                f"{name}: is {tensor.dtype} on {tensor.device}, but query is "
                f"{query.dtype} on {query.device}"
            )
    batch, heads, _, head_dim = query.shape
    if key.shape != value.shape:
        raise ValueError(
            f"value: got shape {tuple(value.shape)}, but key has {tuple(key.shape)}"
        )
    if key.shape != (batch, heads, key.shape[2], head_dim):
        raise ValueError(
            f"key: got shape {tuple(key.shape)}; for this query it must be "
            f"({batch}, {heads}, length, {head_dim})"
        )


def _why_not_triton(query: Tensor, key: Tensor, value: Tensor) -> str:
    """Why the kernel cannot compute this; empty when it can."""
    if not 16 <= query.shape[-1] <= 128:
        return f"query: got head_dim {query.shape[-1]}, the kernel takes 16 to 128"
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"query: got {query.dtype}, the kernel takes float16, bfloat16, float32"
    tensors = (query, key, value)
    if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
        return (
            "query, key, value: the kernel has no backward pass; use "
            'backend="tiled", torch.no_grad(), or detach()'
        )
    return ""


def _check_kernel_can(query: Tensor, key: Tensor, value: Tensor) -> None:
    if reason := _why_not_triton(query, key, value):
        raise ValueError(reason)
    mode = triton_mode()
    if not mode:
        raise ModuleNotFoundError(
            'backend: "triton" needs the package triton (pip install triton, Linux); '
            '"tiled" computes the same without it',
            name="triton",
        )
    if mode == "interpreter" and query.dtype == torch.bfloat16:
        raise ValueError(
            "query: got torch.bfloat16, wrong in Triton's interpreter; "
            "use float32 or float16"
        )
    if mode == "gpu" and not query.is_cuda:
        raise ValueError(
            f"query: is on {query.device}, but triton compiles for a GPU here; to "
            f"interpret the kernel set TRITON_INTERPRET=1 before triton is imported"
        )


def _best_backend(query: Tensor, key: Tensor, value: Tensor) -> str:
    kernel_runs = query.is_cuda and triton_mode() == "gpu"
    return (
        "triton" if kernel_runs and not _why_not_triton(query, key, value) else "tiled"
    )
