"""Block formats: few bits per element, and a scale that a block of them shares.

MXFP8, MXFP6 and MXFP4 follow OCP Microscaling Formats v1.0 (32 elements, a power of
two as scale), NVFP4 follows arXiv:2509.25149 (16 elements, an E4M3 scale,
and an FP32 scale for the tensor), FP8 with 128 elements follows DeepSeek-V3
(arXiv:2412.19437, section 3.3).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import isfinite, prod

import numpy as np
import numpy.typing as npt

from underhood.mixed_precision.formats import (
    E2M1,
    E2M3,
    E4M3,
    E5M2,
    FP32,
    Codes,
    FloatFormat,
    Floats,
    Rounding,
)

SCALE_BITS = {"E8M0": 8, "E4M3": 8, "FP32": 32}
E8M0_BIAS, E8M0_NAN = 127, 255


@dataclass(frozen=True)
class BlockFormat:
    """Elements of a format, and a scale per block along the last axis.

    Args:
        name: for tables.
        element: the format of an element.
        block_size: elements that share a scale; None for the whole tensor.
        scale: "E8M0", a power of two; "E4M3", with an FP32 scale of the tensor on
            top; or "FP32".
    """

    name: str
    element: FloatFormat
    block_size: int | None
    scale: str

    def __post_init__(self) -> None:
        if self.scale not in SCALE_BITS:
            raise ValueError(f"scale: got {self.scale!r}, allowed: {list(SCALE_BITS)}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size: got {self.block_size}, allowed: 1 or more")

    @property
    def bits_per_element(self) -> float:
        """Including the share of the block's scale."""
        shared = SCALE_BITS[self.scale] / self.block_size if self.block_size else 0
        return self.element.bits + shared

    @property
    def max_exponent(self) -> int:
        """Of the largest element, called emax in the OCP specification."""
        return int(np.frexp(self.element.max)[1]) - 1


@dataclass(frozen=True)
class Quantized:
    """What is stored of a tensor."""

    form: BlockFormat
    shape: tuple[int, ...]
    codes: Codes  # (blocks, block_size)
    scales: Floats  # (blocks, 1), as the scale's format holds them
    tensor_scale: float  # an FP32 number, 1 if the format has none

    def dequantize(self) -> Floats:
        """The numbers that the codes stand for, in the shape of the tensor."""
        values = self.form.element.decode(self.codes) * self.scales * self.tensor_scale
        return values.reshape(self.shape)


def quantize(
    x: npt.ArrayLike,
    form: BlockFormat,
    rounding: Rounding = "nearest",
    *,
    generator: np.random.Generator | None = None,
) -> Quantized:
    """Give each block its scale, and round its elements.

    Args:
        x: (..., length), finite; length a multiple of the block size.

    Raises:
        ValueError: the length is none, a value is not finite, or so large that an
            FP32 scale overflows.
    """
    values = np.asarray(x, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("x: contains infinity or NaN, allowed are finite numbers")
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"x: got shape {values.shape}, allowed are one number or more")
    size = form.block_size or values.size
    if form.block_size and values.shape[-1] % size:
        raise ValueError(
            f"x: got length {values.shape[-1]}, allowed are multiples of {size}"
        )
    blocks = values.reshape(-1, size)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scales, tensor_scale = _scales(largest, form)
    whole = scales * tensor_scale
    if not np.isfinite(whole).all():
        raise ValueError(f"x: got {largest.max():g}, too large for an FP32 scale")
    scaled = np.divide(blocks, whole, out=np.zeros_like(blocks), where=whole > 0)
    codes = form.element.encode(scaled, rounding, generator=generator, saturate=True)
    return Quantized(form, values.shape, codes, scales, tensor_scale)


def _scales(largest: Floats, form: BlockFormat) -> tuple[Floats, float]:
    """The scale of each block, (blocks, 1), and of the tensor.

    largest: (blocks, 1), the largest magnitude in each block.
    """
    if form.scale == "E8M0":
        exponent = np.frexp(largest)[1] - 1 - form.max_exponent
        exponent = np.where(largest > 0, exponent, -E8M0_BIAS)
        return np.ldexp(1.0, np.clip(exponent, -E8M0_BIAS, E8M0_BIAS)), 1.0
    if form.scale == "FP32":
        return FP32.round(largest / form.element.max), 1.0
    tensor = float(FP32.round(largest.max() / (form.element.max * E4M3.max)))
    if tensor == 0:
        return np.zeros_like(largest), 1.0
    return E4M3.round(largest / (form.element.max * tensor)), tensor


def encode_e8m0(scales: npt.ArrayLike) -> Codes:
    """Powers of two as a byte: the exponent plus 127. NaN is 255; there is no zero.

    Raises:
        ValueError: a scale is no power of two from 2^-127 to 2^127, nor NaN.
    """
    values = np.asarray(scales, dtype=np.float64)
    real = ~np.isnan(values)
    fraction, exponent = np.frexp(np.where(real, values, 1.0))
    code = exponent - 1 + E8M0_BIAS
    if np.any(fraction != 0.5) or np.any(code < 0) or np.any(code >= E8M0_NAN):
        raise ValueError("scales: allowed are the powers of two 2^-127 to 2^127")
    return np.where(real, code, E8M0_NAN).astype(np.uint8)


def decode_e8m0(codes: npt.ArrayLike) -> Floats:
    """Bytes as powers of two.

    Raises:
        ValueError: a code is no byte.
    """
    code = np.asarray(codes).astype(np.int64)
    if np.any((code < 0) | (code > E8M0_NAN)):
        raise ValueError("codes: allowed are 0 to 255")
    return np.where(code == E8M0_NAN, np.nan, np.ldexp(1.0, code - E8M0_BIAS))


def matmul_error(a: Floats, b: Floats, form: BlockFormat) -> float:
    """How far `a @ b` moves when both are quantized along the shared dimension.

    Args:
        a: (rows, length).
        b: (length, columns).

    Returns:
        Norm of the error over the norm of the product.
    """
    left = quantize(a, form).dequantize()
    right = quantize(np.ascontiguousarray(b.T), form).dequantize().T
    exact = a @ b
    return float(np.linalg.norm(left @ right - exact) / np.linalg.norm(exact))


class DelayedScale:
    """A scale per tensor from the largest values of the steps before.

    It is known before the tensor is, so that a kernel can quantize while it computes;
    a sudden larger value saturates. A tensor with an infinity or NaN leaves no trace
    in the scale. Transformer Engine's `DelayedScaling`.

    Args:
        element: the format to scale into.
        history: how many steps it looks back.
    """

    def __init__(self, element: FloatFormat, history: int = 16) -> None:
        if history < 1:
            raise ValueError(f"history: got {history}, allowed is 1 or more")
        self.element = element
        self.seen: deque[float] = deque(maxlen=history)

    def round(self, x: npt.ArrayLike) -> Floats:
        """`x` in the scale of the past; then `x` becomes part of the past."""
        values = np.asarray(x, dtype=np.float64)
        scale = max(self.seen, default=self.element.max) / self.element.max or 1.0
        largest = float(np.abs(values).max())
        if isfinite(largest):
            self.seen.append(largest)
        return self.element.round(values / scale, saturate=True) * scale


def random_hadamard(size: int, generator: np.random.Generator) -> Floats:
    """A rotation that mixes `size` numbers evenly, with random signs: (size, size).

    Raises:
        ValueError: `size` is no power of two.
    """
    from scipy.linalg import hadamard

    if size < 1 or size & (size - 1):
        raise ValueError(f"size: got {size}, allowed are powers of two")
    signs = generator.choice([-1.0, 1.0], size)
    return signs[:, None] * hadamard(size) / np.sqrt(size)


def rotate(x: Floats, rotation: Floats) -> Floats:
    """Apply a rotation to each run of `len(rotation)` numbers of the last axis."""
    size = len(rotation)
    if x.shape[-1] % size:
        raise ValueError(f"x: got length {x.shape[-1]}, allowed: multiples of {size}")
    runs = x.reshape(prod(x.shape) // size, size)
    return (runs @ rotation).reshape(x.shape)


FP8_TENSOR = BlockFormat("FP8 E4M3, one scale", E4M3, None, "FP32")
FP8_BLOCK = BlockFormat("FP8 E4M3, 128", E4M3, 128, "FP32")
MXFP8 = BlockFormat("MXFP8 E4M3", E4M3, 32, "E8M0")
MXFP8_E5M2 = BlockFormat("MXFP8 E5M2", E5M2, 32, "E8M0")
MXFP6 = BlockFormat("MXFP6 E2M3", E2M3, 32, "E8M0")
MXFP4 = BlockFormat("MXFP4", E2M1, 32, "E8M0")
NVFP4 = BlockFormat("NVFP4", E2M1, 16, "E4M3")
