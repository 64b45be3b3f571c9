"""Block formats: scales and elements against the specification and a search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from underhood.mixed_precision import (
    FP8_BLOCK,
    FP8_TENSOR,
    MXFP4,
    MXFP6,
    MXFP8,
    MXFP8_E5M2,
    NVFP4,
    BlockFormat,
    DelayedScale,
    decode_e8m0,
    encode_e8m0,
    matmul_error,
    quantize,
    random_hadamard,
    rotate,
)
from underhood.mixed_precision.formats import E2M1, E4M3

ALL = [FP8_BLOCK, FP8_TENSOR, MXFP4, MXFP6, MXFP8, MXFP8_E5M2, NVFP4]
FOUR_BITS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_e8m0_is_that_of_torch() -> None:
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(torch.float8_e8m0fnu).double().numpy()
    assert np.array_equal(decode_e8m0(codes), theirs, equal_nan=True)
    assert np.array_equal(encode_e8m0(theirs), codes)
    with pytest.raises(ValueError, match="powers of two"):
        encode_e8m0([3.0])
    with pytest.raises(ValueError, match="powers of two"):
        encode_e8m0([0.0])


def test_mxfp4_block_by_hand() -> None:
    """Largest 7.5: 2^floor(log2 7.5) = 4, emax of E2M1 is 2, so the scale is 1."""
    block = np.zeros(32)
    block[:6] = [7.5, -5.0, 2.5, 0.25, 0.26, -0.75]
    made = quantize(block, MXFP4)
    assert made.scales.tolist() == [[1.0]]
    # 7.5 saturates; 5 ties to 4; 2.5 ties to 2; 0.25 ties to 0; -0.75 ties to -1.
    assert made.dequantize()[:6].tolist() == [6, -4, 2, 0, 0.5, -1]


def test_nvfp4_block_by_hand() -> None:
    """The largest block gets the scale 448, the others a share of it."""
    x = np.concatenate([np.full(16, 6.0), np.full(16, 3.0)])
    made = quantize(x, NVFP4)
    assert made.tensor_scale == np.float32(1 / 448)
    assert made.scales.flatten().tolist() == [448.0, 224.0]
    assert np.allclose(made.dequantize(), x, rtol=1e-7)


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_every_element_is_the_nearest(form: BlockFormat) -> None:
    x = normal(8, 256) * np.exp(2 * normal(8, 1, seed=1))
    made = quantize(x, form)
    table = form.element.values()
    for block, scale, back in zip(
        x.reshape(made.codes.shape),
        made.scales[:, 0] * made.tensor_scale,
        made.dequantize().reshape(made.codes.shape),
        strict=True,
    ):
        gap = np.abs(block[:, None] - table * scale).min(axis=1)
        assert np.allclose(np.abs(block - back), gap, rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", [MXFP4, MXFP6, MXFP8, MXFP8_E5M2])
def test_mx_scales_follow_the_specification(form: BlockFormat) -> None:
    """OCP MX v1.0, 6.3: the largest power of two below amax, over that of emax."""
    emax = {"FP4 E2M1": 2, "FP6 E2M3": 2, "FP8 E4M3": 8, "FP8 E5M2": 15}
    x = normal(50, 32) * 10.0 ** np.arange(-25, 25)[:, None]
    wanted = [
        2.0 ** (math.floor(math.log2(np.abs(row).max())) - emax[form.element.name])
        for row in x
    ]
    assert quantize(x, form).scales[:, 0].tolist() == wanted
    # A power of two moves the scale and nothing else.
    assert np.array_equal(quantize(4 * x, form).codes, quantize(x, form).codes)


def test_scale_of_nvfp4_is_a_value_of_e4m3() -> None:
    made = quantize(normal(64, 64) * 100, NVFP4)
    assert np.isin(made.scales, E4M3.values()).all()
    values = made.dequantize().reshape(made.codes.shape)
    ratios = np.abs(values / (made.scales * made.tensor_scale))
    assert np.abs(ratios[..., None] - FOUR_BITS).min(-1).max() < 1e-12


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_zeros_and_tiny_and_huge(form: BlockFormat) -> None:
    assert not quantize(np.zeros(256), form).dequantize().any()
    for size in (1e-30, 1e30):
        back = quantize(np.full(256, size), form).dequantize()
        assert np.allclose(back, size, rtol=0.26)


def test_bits_per_element() -> None:
    wanted = {"MXFP4": 4.25, "NVFP4": 4.5, "MXFP8 E4M3": 8.25, "MXFP6 E2M3": 6.25}
    found = {form.name: form.bits_per_element for form in ALL}
    assert wanted.items() <= found.items()
    assert FP8_TENSOR.bits_per_element == 8


def test_stochastic_elements_are_right_in_the_mean() -> None:
    x = np.tile(normal(32), (4000, 1))
    back = quantize(x, NVFP4, "stochastic", generator=np.random.default_rng(0))
    inside = np.abs(x[0]) < 0.9 * np.abs(x[0]).reshape(2, 16).max(1).repeat(16)
    gap = np.abs(back.dequantize().mean(0) - x[0])[inside]
    assert gap.max() < 5 * np.abs(x[0]).max() / 6 / math.sqrt(4000)


def test_rotation_is_orthogonal_and_leaves_the_product() -> None:
    rotation = random_hadamard(16, np.random.default_rng(0))
    assert np.allclose(rotation @ rotation.T, np.eye(16))
    assert {*rotation[:, 0]} == {-0.25, 0.25}  # Hadamard's first column is all 1
    a, b = normal(5, 64), normal(7, 64, seed=1)
    assert np.allclose(rotate(a, rotation) @ rotate(b, rotation).T, a @ b.T)
    one = np.zeros((1, 16))
    one[0, 3] = 8.0
    assert np.allclose(np.abs(rotate(one, rotation)), 2.0)  # an outlier, spread out


def test_matmul_error_of_exact_inputs_is_zero() -> None:
    a = np.random.default_rng(0).choice(E2M1.values(), (4, 64))
    a[:, ::16] = 6.0  # so that each block's scale is exact
    for form in (MXFP4, MXFP8):
        assert matmul_error(a, a.T.copy(), form) == 0.0
    errors = [matmul_error(normal(9, 64), normal(64, 9), f) for f in (MXFP8, MXFP4)]
    assert 0.0 < errors[0] < errors[1] < 0.3


def test_delayed_scale_saturates_on_a_spike_once() -> None:
    scale = DelayedScale(E4M3, history=3)
    ones = np.ones(4)
    scale.round(ones)
    assert scale.round(ones).tolist() == [1.0] * 4
    assert scale.round(100 * ones).tolist() == [1.0] * 4  # what the past allowed
    assert np.allclose(scale.round(100 * ones), 100)
    for _ in range(3):
        scale.round(ones)
    assert max(scale.seen) == 1.0
    for bad in (math.inf, math.nan):  # an overflowed step spoils no later one
        scale.round(np.array([bad, 1.0]))
        assert scale.round(ones).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize(normal(3, 33), MXFP4), "x: got length 33"),
        (lambda: quantize(np.full(32, np.nan), MXFP4), "x: contains infinity or NaN"),
        (lambda: quantize(3.0, MXFP4), r"x: got shape \(\)"),
        (lambda: quantize(np.ones((0, 32)), FP8_TENSOR), r"x: got shape \(0, 32\)"),
        (lambda: quantize(np.full(128, 1e42), FP8_BLOCK), "x: got 1e.42, too large"),
        (lambda: decode_e8m0(300), "codes: allowed are 0 to 255"),
        (lambda: BlockFormat("x", E2M1, 32, "E5M2"), "scale: got 'E5M2'"),
        (lambda: BlockFormat("x", E2M1, 0, "E8M0"), "block_size: got 0"),
        (lambda: DelayedScale(E4M3, 0), "history: got 0"),
        (lambda: random_hadamard(12, np.random.default_rng(0)), "size: got 12"),
        (lambda: rotate(normal(2, 8), np.eye(16)), "x: got length 8"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
