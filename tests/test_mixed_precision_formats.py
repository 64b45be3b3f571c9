"""Formats: bit for bit against torch and numpy, over every code and hard floats."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.mixed_precision.formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    FORMATS,
    FP16,
    FP32,
    FP64,
    TF32,
    FloatFormat,
)

TORCH = {
    "FP16": (FP16, torch.float16, torch.int16),
    "BF16": (BF16, torch.bfloat16, torch.int16),
    "FP8 E4M3": (E4M3, torch.float8_e4m3fn, torch.uint8),
    "FP8 E5M2": (E5M2, torch.float8_e5m2, torch.uint8),
}


def hard_floats(count: int = 200_000) -> np.ndarray:
    """float32 of every exponent, ties of each 16- and 8-bit format, specials."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, count, dtype=np.uint32)
    floats = [bits.view(np.float32)]
    for kept in (10, 7, 3, 2):  # mantissa bits: exact ties and their two neighbors
        drop = 23 - kept
        tie = (bits >> np.uint32(drop) << np.uint32(drop)) | np.uint32(1 << (drop - 1))
        floats += [(tie + np.uint32(d)).view(np.float32) for d in (0, 1)]
        floats += [(tie - np.uint32(1)).view(np.float32)]
    scaled = random.standard_normal(count) * 2.0 ** random.integers(-30, 20, count)
    low = np.arange(-4096, 4097) * 2.0**-26  # subnormals of FP16, in quarter steps
    low8 = np.arange(-512, 513) * 2.0**-19
    edges = [0.0, -0.0, 65504, 65519, 65520, 65519.998, 448, 464, 480, 57344, 61440]
    edges += [61439.996, 2.0**-24, 2.0**-25, 2.0**-133, 2.0**-134, 3.4e38, 1e-45]
    floats += [np.array(part, np.float32) for part in (scaled, low, low8, edges)]
    return np.concatenate(floats)


@pytest.mark.parametrize("name", TORCH)
def test_decode_every_code_as_torch(name: str) -> None:
    ours, dtype, carrier = TORCH[name]
    codes = np.arange(2**ours.bits)
    signed = codes.astype(np.int16 if carrier == torch.int16 else np.uint8)
    theirs = torch.from_numpy(signed).view(dtype).double().numpy()
    decoded = ours.decode(codes)
    assert np.array_equal(decoded, theirs, equal_nan=True)
    assert np.array_equal(
        np.signbit(decoded[~np.isnan(decoded)]), np.signbit(theirs[~np.isnan(theirs)])
    )


def test_decode_every_half_as_numpy() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    theirs = codes.view(np.float16).astype(np.float64)
    assert np.array_equal(FP16.decode(codes), theirs, equal_nan=True)


@pytest.mark.parametrize("name", TORCH)
def test_encode_hard_floats_as_torch(name: str) -> None:
    ours, dtype, carrier = TORCH[name]
    floats = hard_floats()
    # torch keeps an infinity apart from an overflow nowhere: E4M3 saturates both.
    theirs = torch.from_numpy(floats).to(dtype).view(carrier).numpy()
    theirs = theirs.view(ours.dtype)
    mine = ours.encode(floats)
    real = ~np.isnan(floats)
    assert np.array_equal(mine[real], theirs[real])
    assert np.isnan(ours.decode(mine[~real])).all()


def test_encode_hard_floats_as_numpy() -> None:
    floats = hard_floats()
    floats = floats[~np.isnan(floats)]
    with np.errstate(over="ignore"):
        theirs = floats.astype(np.float16).view(np.uint16)
    assert np.array_equal(FP16.encode(floats), theirs)


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False))
def test_double_to_single_and_half_as_numpy(x: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        single, half = np.float32(x), np.float16(x)
    assert FP32.encode(x) == single.view(np.uint32)
    assert FP16.encode(x) == half.view(np.uint16)
    assert FP64.encode(x) == np.float64(x).view(np.uint64)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_decode_any_double_and_single(wide: int, narrow: int) -> None:
    double = np.uint64(wide).view(np.float64)
    assert np.array_equal(FP64.decode(np.uint64(wide)), double, equal_nan=True)
    single = np.float64(np.uint32(narrow).view(np.float32))
    assert np.array_equal(FP32.decode(narrow), single, equal_nan=True)


def exact(value: float) -> Fraction:
    return Fraction(value)


@pytest.mark.parametrize(
    "form", [E2M1, E2M3, E3M2, E4M3, FloatFormat("tiny", 3, 1, "none", True)]
)
def test_nearest_is_nearest_by_search(form: FloatFormat) -> None:
    """Against a search through the list, in exact fractions; ties to the even code."""
    listed = [
        (exact(v), c) for c, v in enumerate(form.decode(np.arange(form.max_code + 1)))
    ]
    values = form.decode(np.arange(form.max_code + 1))
    ties = (values[1:] + values[:-1]) / 2
    random = np.random.default_rng(0).uniform(0, 1.2 * form.max, 200)
    for x in np.concatenate([values, ties, random]):
        best = min(listed, key=lambda p: (abs(p[0] - exact(x)), p[1] % 2))
        assert form.encode(x) == best[1], x


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_every_value_comes_back(form: FloatFormat) -> None:
    codes = (
        np.arange(form.max_code + 1)
        if form.bits <= 16
        else np.array([0, 1, 2, form.max_code, form.encode(1.0), form.encode(np.pi)])
    )
    assert np.array_equal(form.encode(form.decode(codes)), codes)
    assert (np.diff(form.decode(np.sort(codes))) > 0).all()


def test_constants_are_those_of_torch() -> None:
    for form, dtype in (
        (FP64, torch.float64),
        (FP32, torch.float32),
        (FP16, torch.float16),
        (BF16, torch.bfloat16),
        (E4M3, torch.float8_e4m3fn),
        (E5M2, torch.float8_e5m2),
    ):
        info = torch.finfo(dtype)
        assert (form.max, form.smallest_normal, form.eps) == (
            info.max,
            info.smallest_normal,
            info.eps,
        )
    assert FP16.smallest_subnormal == 2.0**-24
    assert E4M3.smallest_subnormal == 2.0**-9
    assert E5M2.smallest_subnormal == 2.0**-16
    assert FP64.smallest_subnormal == 5e-324
    assert (TF32.bits, TF32.eps, TF32.max) == (19, 2.0**-10, 2.0**128 - 2.0**117)


def test_values_of_four_bits() -> None:
    half = [0.5, 1, 1.5, 2, 3, 4, 6]
    assert E2M1.values().tolist() == [-v for v in half[::-1]] + [0.0] + half
    assert len(E4M3.values()) == 253 and len(E5M2.values()) == 247
    assert E3M2.max == 28 and E2M3.max == 7.5


@pytest.mark.filterwarnings("ignore:invalid value")
def test_spacing_is_that_of_numpy() -> None:
    x = np.array([0.0, 1.0, 3.0, 1e-7, 40000.0, math.inf, math.nan], np.float16)
    assert np.array_equal(FP16.spacing(x), np.spacing(x).astype(float), equal_nan=True)


def test_split_refuses_what_is_no_code() -> None:
    with pytest.raises(ValueError, match="code: got 65536, FP16 has 16 bits"):
        FP16.split(1 << 16)


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    random = np.random.default_rng(1)
    x = np.array([1 + 1 / 512, 1.0, -0.3, 1e-39, 3.0])
    rounded = BF16.round(np.tile(x, (20_000, 1)), "stochastic", generator=random)
    step = BF16.spacing(x)
    assert (np.abs(rounded - x) < step).all()
    assert (np.abs(rounded.mean(0) - x) < 4 * step / math.sqrt(20_000)).all()
    assert (rounded[:, [1, 4]] == x[[1, 4]]).all()  # what it can hold stays


def test_toward_zero_and_saturation() -> None:
    x = np.array([1.999999, -1.999999, 65535.0, 1e9])
    assert FP16.round(x, "toward_zero").tolist() == [
        2 - 2.0**-10,
        -2 + 2.0**-10,
        65504.0,
        65504.0,  # IEEE 754, 7.4: infinity would be farther from zero
    ]
    assert FP16.round(-math.inf, "toward_zero") == -math.inf
    assert FP16.round(1e9) == math.inf and FP16.round(1e9, saturate=True) == 65504
    assert E4M3.round(1e9) == 448 and math.isnan(E4M3.round(1e9, saturate=False))
    assert E4M3.round(464, saturate=False) == 448  # the tie is still a number
    assert E5M2.round(-1e9) == -math.inf and E2M1.round(-9) == -6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FP16.encode(1.0, "up"), "rounding: got 'up'"),
        (lambda: FP16.encode(1.0, "stochastic"), "generator: needed"),
        (lambda: E2M1.encode(math.nan), "x: contains NaN"),
        (lambda: E2M1.encode(1.0, saturate=False), "saturate: got False"),
        (lambda: E2M1.decode(16), "codes: FP4 E2M1 has only 4"),
        (lambda: FP32.values(), "too many"),
        (lambda: FloatFormat("x", 1, 3), "exponent_bits: got 1"),
        (lambda: FloatFormat("x", 12, 3), "exponent_bits: got 12"),
        (lambda: FloatFormat("x", 4, 0), "mantissa_bits: got 0"),
        (lambda: FloatFormat("x", 4, 53), "mantissa_bits: got 53"),
        (lambda: FloatFormat("x", 4, 3, "odd"), "specials: got 'odd'"),
        (lambda: FloatFormat("x", 4, 3, "none"), "saturate: got False"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_is_the_code_that_numpy_and_torch_write() -> None:
    nan = torch.tensor(torch.nan)
    assert FP16.nan_code == np.array(np.nan, np.float16).view(np.uint16)
    assert FP32.nan_code == np.array(np.nan, np.float32).view(np.uint32)
    assert BF16.nan_code == nan.bfloat16().view(torch.int16).item()
    assert E4M3.nan_code == nan.to(torch.float8_e4m3fn).view(torch.uint8).item()


def test_the_parts_of_a_code() -> None:
    """-1.5: sign 1, the exponent 0 with its bias, half of the fraction."""
    code = np.array(-1.5, np.float16).view(np.uint16)
    assert FP16.split(int(code)) == ("1", "01111", "1000000000")
    assert FloatFormat("smallest", 2, 1).split(0b1011) == ("1", "01", "1")
