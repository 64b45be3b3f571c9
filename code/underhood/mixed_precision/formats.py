"""Floating-point formats: bits to numbers and numbers to bits, exactly.

Everything rests on one observation. Write a positive number as a multiple of the
spacing of its format. Then exponent and multiple, put side by side, are the code, and
codes are in the order of the numbers. A mantissa that rounds up past its last bit
carries into the exponent by itself, a subnormal is no special case, and the number
after `x` is the code of `x` plus one.

Numbers travel as float64, which holds every value of every format here.
Sources: IEEE 754-2019 (binary16, 32, 64), FP8 (arXiv:2209.05433, Table 1), OCP
Microscaling Formats v1.0 (E2M1, E8M0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[Any]  # unsigned integers
Rounding = Literal["nearest", "stochastic", "toward_zero"]
ROUNDINGS = ("nearest", "stochastic", "toward_zero")
SPECIALS = ("ieee", "nan only", "none")


@dataclass(frozen=True)
class FloatFormat:
    """One sign bit, `exponent_bits`, `mantissa_bits`.

    Args:
        name: for messages and pictures.
        exponent_bits: 2 to 11.
        mantissa_bits: stored bits of the fraction, 1 to 52.
        specials: which codes are no numbers. "ieee": the highest exponent holds
            infinity and NaN. "nan only": one code, all bits set, is NaN (E4M3).
            "none": every code is a number (E2M1).
        saturate: what is too large becomes the largest number instead of infinity or
            NaN. `encode` can be told otherwise.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: str = "ieee"
    saturate: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.exponent_bits <= 11:
            raise ValueError(f"exponent_bits: got {self.exponent_bits}, allowed: 2-11")
        if not 1 <= self.mantissa_bits <= 52:
            raise ValueError(f"mantissa_bits: got {self.mantissa_bits}, allowed: 1-52")
        if self.specials not in SPECIALS:
            raise ValueError(f"specials: got {self.specials!r}, allowed: {SPECIALS}")
        if self.specials == "none" and not self.saturate:
            raise ValueError("saturate: got False, but no code means infinity or NaN")

    # What the bits say -----------------------------------------------------------

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def min_exponent(self) -> int:
        """Of the smallest normal number; subnormals share it."""
        return 1 - self.bias

    @property
    def max_code(self) -> int:
        """The code of the largest finite number."""
        all_set = (1 << (self.bits - 1)) - 1
        if self.specials == "ieee":
            return all_set - (1 << self.mantissa_bits)
        return all_set - (self.specials == "nan only")

    @property
    def nan_code(self) -> int | None:
        if self.specials == "none":
            return None
        if self.specials == "nan only":
            return self.max_code + 1
        return self.max_code + 1 + (1 << (self.mantissa_bits - 1))  # a quiet one

    @property
    def max(self) -> float:
        return float(self.decode(self.max_code))

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        return float(np.ldexp(1.0, self.min_exponent - self.mantissa_bits))

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number."""
        return 2.0**-self.mantissa_bits

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The smallest unsigned integer that holds a code."""
        for dtype in (np.uint8, np.uint16, np.uint32):
            if self.bits <= np.iinfo(dtype).bits:
                return dtype
        return np.uint64

    # Bits and numbers ------------------------------------------------------------

    def decode(self, codes: npt.ArrayLike) -> Floats:
        """The numbers that codes stand for, as float64.

        Raises:
            ValueError: a code has more bits than the format.
        """
        code = np.asarray(codes).astype(np.uint64)
        if self.bits < 64 and np.any(code >> np.uint64(self.bits)):
            raise ValueError(f"codes: {self.name} has only {self.bits} bits")
        below_sign = np.uint64((1 << (self.bits - 1)) - 1)
        magnitude = (code & below_sign).astype(np.int64)
        exponent = magnitude >> self.mantissa_bits
        fraction = magnitude & ((1 << self.mantissa_bits) - 1)
        multiple = np.where(
            exponent > 0, fraction + (1 << self.mantissa_bits), fraction
        )
        power = np.maximum(exponent, 1) - self.bias - self.mantissa_bits
        with np.errstate(over="ignore"):  # becomes inf or NaN below
            value = np.ldexp(multiple.astype(np.float64), power)
        infinite = np.inf if self.specials == "ieee" else np.nan
        value = np.where(magnitude == self.max_code + 1, infinite, value)
        value = np.where(magnitude > self.max_code + 1, np.nan, value)
        negative = (code >> np.uint64(self.bits - 1)).astype(bool)
        return np.where(negative, -value, value)

    def encode(
        self,
        x: npt.ArrayLike,
        rounding: Rounding = "nearest",
        *,
        generator: np.random.Generator | None = None,
        saturate: bool | None = None,
    ) -> Codes:
        """The codes of the numbers nearest to `x`; ties go to the even code.

        Args:
            x: numbers that float64 holds.
            rounding: "nearest"; "toward_zero", which stops at the largest number; or
                "stochastic": up with a probability that makes the mean exact.
            generator: the source of chance for "stochastic".
            saturate: overrides the format's rule for what is too large.

        Raises:
            ValueError: unknown `rounding`, "stochastic" without a generator, or a NaN
                or an overflow that the format has no code for.
        """
        self._check(rounding, generator, saturate)
        with np.errstate(invalid="ignore"):  # a signaling NaN is a NaN
            numbers = np.asarray(x, dtype=np.float64)
        magnitude = np.where(np.isfinite(numbers), np.abs(numbers), 0.0)
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, self.min_exponent)
        exponent = np.where(magnitude == 0, self.min_exponent, exponent)
        multiple = np.ldexp(magnitude, self.mantissa_bits - exponent)  # exact
        multiple = _to_integer(multiple, rounding, generator)
        first = (exponent + self.bias).astype(np.int64) << self.mantissa_bits
        code = first + multiple.astype(np.int64) - (1 << self.mantissa_bits)

        clip = self.saturate if saturate is None else saturate
        too_large = self.max_code + (0 if clip else 1)
        largest = self.max_code if rounding == "toward_zero" else too_large
        code = np.where(np.isinf(numbers), too_large, np.minimum(code, largest))
        if np.any(np.isnan(numbers)):
            if self.nan_code is None:
                raise ValueError(f"x: contains NaN, {self.name} has none")
            code = np.where(np.isnan(numbers), self.nan_code, code)
        sign = np.signbit(numbers).astype(np.uint64)
        sign = sign << np.uint64(self.bits - 1)
        return (code.astype(np.uint64) | sign).astype(self.dtype)

    def round(
        self,
        x: npt.ArrayLike,
        rounding: Rounding = "nearest",
        *,
        generator: np.random.Generator | None = None,
        saturate: bool | None = None,
    ) -> Floats:
        """`x` as the format can hold it: `decode(encode(x))`."""
        codes = self.encode(x, rounding, generator=generator, saturate=saturate)
        return self.decode(codes)

    def spacing(self, x: npt.ArrayLike) -> Floats:
        """The distance of neighbors around `x`: one unit in the last place.

        NaN for infinity and NaN, as of `numpy.spacing`.
        """
        numbers = np.asarray(x, dtype=np.float64)
        exponent = np.frexp(np.abs(numbers))[1] - 1
        exponent = np.where(numbers == 0, self.min_exponent, exponent)
        exponent = np.maximum(exponent, self.min_exponent)
        step = np.ldexp(1.0, exponent - self.mantissa_bits)
        return np.where(np.isfinite(numbers), step, np.nan)

    def values(self) -> Floats:
        """All finite numbers, ascending, 0 once.

        Raises:
            ValueError: there are too many to list (more than 16 bits).
        """
        if self.bits > 16:
            raise ValueError(f"values: {self.name} has 2^{self.bits} codes, too many")
        positive = self.decode(np.arange(1, self.max_code + 1))
        return np.concatenate([-positive[::-1], [0.0], positive])

    def split(self, code: int) -> tuple[str, str, str]:
        """Sign, exponent and fraction of a code, as strings of 0 and 1.

        Raises:
            ValueError: the code has more bits than the format.
        """
        if not 0 <= code < 1 << self.bits:
            raise ValueError(f"code: got {code}, {self.name} has {self.bits} bits")
        digits = format(int(code), f"0{self.bits}b")
        cut = 1 + self.exponent_bits
        return digits[0], digits[1:cut], digits[cut:]

    def _check(
        self,
        rounding: str,
        generator: np.random.Generator | None,
        saturate: bool | None,
    ) -> None:
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding: got {rounding!r}, allowed: {ROUNDINGS}")
        if rounding == "stochastic" and generator is None:
            raise ValueError("generator: needed for stochastic rounding, got None")
        if self.specials == "none" and saturate is False:
            raise ValueError(f"saturate: got False, but {self.name} has no infinity")


def _to_integer(
    multiple: Floats, rounding: Rounding, generator: np.random.Generator | None
) -> Floats:
    if rounding == "nearest":
        return np.rint(multiple)  # a tie goes to the even integer
    below = np.floor(multiple)
    if rounding == "toward_zero":
        return below
    assert generator is not None
    return below + (generator.random(multiple.shape) < multiple - below)


FP64 = FloatFormat("FP64", 11, 52)
FP32 = FloatFormat("FP32", 8, 23)
TF32 = FloatFormat("TF32", 8, 10)
BF16 = FloatFormat("BF16", 8, 7)
FP16 = FloatFormat("FP16", 5, 10)
E4M3 = FloatFormat("FP8 E4M3", 4, 3, specials="nan only", saturate=True)
E5M2 = FloatFormat("FP8 E5M2", 5, 2)
E3M2 = FloatFormat("FP6 E3M2", 3, 2, specials="none", saturate=True)
E2M3 = FloatFormat("FP6 E2M3", 2, 3, specials="none", saturate=True)
E2M1 = FloatFormat("FP4 E2M1", 2, 1, specials="none", saturate=True)
FORMATS = (FP64, FP32, TF32, BF16, FP16, E4M3, E5M2, E2M1)
