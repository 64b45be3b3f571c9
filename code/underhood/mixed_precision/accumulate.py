"""Sums in low precision: where each partial sum is rounded, and to what."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from underhood.mixed_precision.formats import FP32, FloatFormat, Floats, Rounding


def accumulate(
    terms: npt.ArrayLike,
    accumulator: FloatFormat,
    *,
    chunk: int | None = None,
    rounding: Rounding = "nearest",
) -> Floats:
    """The sum over the last axis, one term at a time, rounded after each addition.

    Args:
        terms: (..., length), as exact as float64 holds them.
        accumulator: the format of the running sum.
        chunk: if given, the running sum is moved after every `chunk` terms to an
            FP32 total and starts again at 0, as DeepSeek-V3 does for FP8
            (arXiv:2412.19437, section 3.3.2).
        rounding: of the running sum, "nearest" or "toward_zero".

    Returns:
        (...), float64 that `accumulator` holds, or FP32 with `chunk`.
    """
    values = np.asarray(terms, dtype=np.float64)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: got {chunk}, allowed is 1 or more")
    total = np.zeros(values.shape[:-1])
    running = np.zeros(values.shape[:-1])
    for index in range(values.shape[-1]):
        running = accumulator.round(running + values[..., index], rounding)
        if chunk is not None and (index + 1) % chunk == 0:
            total, running = FP32.round(total + running), np.zeros_like(running)
    return running if chunk is None else FP32.round(total + running)


def kahan_sum(terms: npt.ArrayLike, accumulator: FloatFormat) -> Floats:
    """Like `accumulate`, with a second number that remembers what was rounded away."""
    values = np.asarray(terms, dtype=np.float64)
    running = np.zeros(values.shape[:-1])
    lost = np.zeros(values.shape[:-1])
    for index in range(values.shape[-1]):
        term = accumulator.round(values[..., index] - lost)
        larger = accumulator.round(running + term)
        lost = accumulator.round(accumulator.round(larger - running) - term)
        running = larger
    return running


def matmul_with_accumulator(
    a: Tensor, b: Tensor, accumulator: torch.dtype, step: int = 1
) -> Tensor:
    """`a @ b` with exact products and a running sum of dtype `accumulator`.

    Args:
        a: (rows, length), float16 or bfloat16, whose products float32 holds exactly.
        b: (length, columns), of the same dtype.
        accumulator: what the running sum is rounded to.
        step: products added at once, in float32, before the sum is rounded; the
            matrix units of a GPU take 4 to 32.

    Returns:
        (rows, columns) of the dtype of `a`.
    """
    if step < 1:
        raise ValueError(f"step: got {step}, allowed is 1 or more")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a, b: got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    total = torch.zeros(a.shape[0], b.shape[1], dtype=accumulator, device=a.device)
    pieces = zip(a.float().split(step, 1), b.float().split(step, 0), strict=True)
    for left, right in pieces:
        total = (total.float() + left @ right).to(accumulator)
    return total.to(a.dtype)


class _Linear(torch.autograd.Function):
    """`x @ weight.T`, forward and backward with a chosen accumulator."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, accumulator: torch.dtype, step: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.unit = accumulator, step
        return matmul_with_accumulator(x, weight.T, accumulator, step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        to_x = matmul_with_accumulator(gradient, weight, *ctx.unit)
        to_weight = matmul_with_accumulator(gradient.T, x, *ctx.unit)
        return to_x, to_weight, None, None


def linear_with_accumulator(
    x: Tensor, weight: Tensor, accumulator: torch.dtype, step: int = 16
) -> Tensor:
    """`torch.nn.functional.linear` without bias, as a unit with this accumulator.

    Args:
        x: (batch, inputs).
        weight: (outputs, inputs), of the dtype of `x`.
        accumulator, step: as for `matmul_with_accumulator`, forward and backward.
    """
    product: Tensor = _Linear.apply(x, weight, accumulator, step)
    return product
