"""`flash_attention`: the arguments are checked here, and a backend is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from underhood.flash_attention.reference import reference_attention
from underhood.flash_attention.tiled import TiledAttention

BACKENDS = ("auto", "reference", "tiled", "triton")
Attend = Callable[..., tuple[Tensor, Tensor]]


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    key_lengths: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    softcap: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention: softmax(query key^T * softmax_scale) value.

    The last query stands at the last key (aligned bottom-right): query i at key
    i + key_length - query_length. A row that sees no key gives 0.

    Args:
        query: (batch, heads, query_length, head_dim); any strides.
        key, value: (batch, key_heads, key_length, head_dim), dtype and device of
            `query`; key_heads divides heads, whose neighbors share a key head (GQA).
        causal: a query sees no key after its place.
        softmax_scale: positive; by default 1 / sqrt(head_dim).
        window: (left, right), how many keys before and after its place a query sees;
            -1 is no limit. `causal` sets right to 0.
        key_lengths: (batch,) or (batch, key_heads), int: only so many keys count, and
            the queries stand at the last of those, as in a partly filled cache; what
            lies beyond is not read. On a GPU a number that is too large counts as all.
            A batch padded at the end that is `causal` needs none, and with a window
            padded queries would stand in the wrong place.
        alibi_slopes: (heads,) or (batch, heads): slope * distance is subtracted from
            the scores.
        softcap: c > 0 makes scores c * tanh(scores / c), before ALiBi; 0 is none.
        return_lse: also return the logsumexp of each row of scores.
        backend: "reference" is the formula, "tiled" FlashAttention in PyTorch, "triton"
            the kernel (head_dim 16 to 256; float16, float32, on a GPU also bfloat16).
            "auto" takes the kernel for CUDA tensors that it can do, else "tiled".

    Returns:
        The output, shape and dtype of `query`; with `return_lse` (output, lse), lse
        (batch, heads, query_length), natural log, at least float32, differentiable;
        -inf where a row sees nothing.

    Raises:
        ValueError, TypeError: an argument is not as above.
        ModuleNotFoundError: backend="triton" without triton installed.

    Source: Dao 2023 (arXiv:2307.08691); masks and biases are those of flash-attn 2.6.
    """
    _check_shapes(query, key, value)
    _check_window_and_softcap(window, softcap)
    options: dict[str, Any] = {
        "causal": causal,
        "softmax_scale": _checked_scale(softmax_scale, query),
        "window": (int(window[0]), int(window[1])),
        "alibi_slopes": _checked_slopes(alibi_slopes, query),
        "softcap": float(softcap),
    }
    lengths = checked_lengths(key_lengths, key)
    output, lse = _attend(_chosen(backend, query), query, key, value, lengths, options)
    return (output, lse) if return_lse else output


def _attend(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Output and logsumexp; only the kernel knows of lengths, the others loop."""
    attend = _function_of(backend)
    if lengths is None:
        return attend(query, key, value, **options)
    if backend == "triton":
        return attend(query, key, value, key_lengths=lengths, **options)
    return _head_by_head(attend, query, key, value, lengths, options)


def _chosen(backend: str, query: Tensor) -> str:
    """Which of the backends it is; an error if it cannot do this."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, allowed are {BACKENDS}")
    if backend == "triton":
        _check_kernel_can(query)
    return _best_backend(query) if backend == "auto" else backend


def _function_of(backend: str) -> Attend:
    if backend == "reference":
        return reference_attention
    if backend == "tiled":
        return lambda query, key, value, **options: TiledAttention.apply(
            query, key, value, options
        )
    # Imported here, because everything else works without triton.
    from underhood.flash_attention.kernel import triton_attention

    return triton_attention


def _head_by_head(
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Each sequence and key head with the keys that it has, and no others."""
    batch, heads, rows, head_dim = query.shape
    group = heads // key.shape[1]
    slopes = options["alibi_slopes"]
    found = []
    for b, of_heads in enumerate(lengths.tolist()):
        for h, length in enumerate(of_heads):
            mine = slice(b, b + 1), slice(h * group, (h + 1) * group)
            seen = slice(b, b + 1), slice(h, h + 1), slice(0, length)
            own = options | {"alibi_slopes": None if slopes is None else slopes[mine]}
            found.append(attend(query[mine], key[seen], value[seen], **own))
    outputs, lses = zip(*found, strict=True)
    shape = (batch, heads, rows)
    return torch.stack(outputs).reshape(*shape, head_dim), torch.stack(lses).reshape(
        shape
    )


@torch.compiler.assume_constant_result
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
    if (key.shape[0], key.shape[3]) != (batch, head_dim) or heads % key.shape[1]:
        raise ValueError(
            f"key: got shape {tuple(key.shape)}; for this query it must be "
            f"({batch}, a divisor of {heads}, length, {head_dim})"
        )


def _checked_scale(scale: float | None, query: Tensor) -> float:
    if scale is None:
        return 1 / math.sqrt(query.shape[-1])
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"softmax_scale: got {scale}; it must be positive")
    return scale


def _check_window_and_softcap(window: tuple[int, int], softcap: float) -> None:
    if not (softcap >= 0 and math.isfinite(softcap)):
        raise ValueError(f"softcap: got {softcap}; it must be positive, or 0 for none")
    if len(window) != 2 or any(int(side) != side or side < -1 for side in window):
        raise ValueError(
            f"window: got {window}; needed are two numbers, each -1 or more"
        )


def checked_lengths(lengths: Tensor | None, key: Tensor) -> Tensor | None:
    """`key_lengths` as (batch, key_heads), int32; an error if they do not fit `key`."""
    if lengths is None:
        return None
    batch, key_heads, key_length, _ = key.shape
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"key_lengths: got {lengths.dtype}; it must be integers")
    if lengths.shape not in ((batch,), (batch, key_heads)):
        raise ValueError(
            f"key_lengths: got shape {tuple(lengths.shape)}; needed is ({batch},) or "
            f"({batch}, {key_heads})"
        )
    # On a GPU that would wait for all work before; the kernel takes what exists.
    if not lengths.is_cuda and not ((lengths >= 0) & (lengths <= key_length)).all():
        raise ValueError(
            f"key_lengths: got {lengths.tolist()}; each must be 0 to {key_length}"
        )
    wide = lengths.reshape(batch, -1).expand(batch, key_heads)
    return wide.to(key.device, torch.int32)


def _checked_slopes(slopes: Tensor | None, query: Tensor) -> Tensor | None:
    """(batch, heads)."""
    if slopes is None:
        return None
    batch, heads = query.shape[:2]
    if slopes.shape not in ((heads,), (batch, heads)):
        raise ValueError(
            f"alibi_slopes: got shape {tuple(slopes.shape)}; needed is ({heads},) or "
            f"({batch}, {heads})"
        )
    if slopes.requires_grad:
        raise ValueError(
            "alibi_slopes: requires a gradient; they have none, detach them"
        )
    return slopes.to(query.device).expand(batch, heads)


def _why_not_triton(query: Tensor) -> str:
    """Why the kernel cannot compute this; empty when it can."""
    if not 16 <= query.shape[-1] <= 256:
        return f"query: got head_dim {query.shape[-1]}, the kernel takes 16 to 256"
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"query: got {query.dtype}, the kernel takes float16, bfloat16, float32"
    return ""


def _check_kernel_can(query: Tensor) -> None:
    if reason := _why_not_triton(query):
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


def _best_backend(query: Tensor) -> str:
    kernel_runs = query.is_cuda and triton_mode() == "gpu"
    return "triton" if kernel_runs and not _why_not_triton(query) else "tiled"
