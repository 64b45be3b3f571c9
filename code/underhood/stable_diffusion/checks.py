"""Checks at the door that several files share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def one_of(name: str, value: T, allowed: Sequence[T]) -> T:
    """`value`, if it is allowed.

    Raises:
        ValueError: it is not; the message names what came and what is allowed.
    """
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}: got {value!r}; allowed: {choices}")
    return value


def at_least(name: str, value: int, least: int) -> int:
    """`value`, if it is a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}; a whole number ≥ {least} is needed")
    return value


def fraction(name: str, value: float) -> float:
    """`value`, if it is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value}; allowed: 0 to 1")
    return value


def per_level(name: str, value: Any, levels: int) -> tuple[int, ...]:
    """One number per resolution: a number counts for all of them.

    Raises:
        ValueError: a list of another length, or not of whole numbers ≥ 1.
    """
    numbers = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(numbers) != levels:
        raise ValueError(
            f"{name}: got {len(numbers)} values; a number, or one for each of the "
            f"{levels} entries of block_out_channels, is needed"
        )
    return tuple(at_least(name, number, 1) for number in numbers)


def divides(name: str, value: int, of_name: str, of: Sequence[int]) -> None:
    """Each of `of` must be a multiple of `value`."""
    for number in of:
        if number % value:
            raise ValueError(
                f"{name}: got {value}; it must divide every entry of {of_name} "
                f"({number} is no multiple)"
            )
