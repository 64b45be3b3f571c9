"""Drawings of formats: the bits of a number, and where the numbers lie. SVG text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from underhood.mixed_precision.formats import (
    BF16,
    E2M1,
    E4M3,
    E5M2,
    FP16,
    FP32,
    TF32,
    FloatFormat,
)

SIGN, EXPONENT, FRACTION = "#d1495b", "#3d85c6", "#2e9e6b"
CELL, ROW, LEFT = 15, 54, 8
SHOWN = (FP32, TF32, BF16, FP16, E5M2, E4M3, E2M1)


def draw_bits(value: float, formats: Sequence[FloatFormat] = SHOWN) -> str:
    """What each format stores for a number, bit by bit.

    Exponents end at one line and fractions begin there: what reaches further to the
    left has more range, to the right more precision.
    """
    widest = max(form.exponent_bits for form in formats)
    edge = LEFT + (1 + widest) * CELL + 6
    longest = max(form.mantissa_bits for form in formats)
    width = edge + max(longest * CELL, 215) + LEFT  # room for the text of a row
    parts = []
    for index, form in enumerate(formats):
        parts += _row(form, value, edge, 20 + index * ROW)
    legend = 20 + len(formats) * ROW
    for name, color, x in (
        ("sign", SIGN, LEFT),
        ("exponent", EXPONENT, LEFT + 80),
        ("fraction", FRACTION, LEFT + 190),
    ):
        parts.append(_cell(x, legend, color, ""))
        parts.append(_text(x + CELL + 6, legend + 12, name))
    return _svg(width, legend + CELL + 8, parts)


def _row(form: FloatFormat, value: float, edge: float, y: float) -> list[str]:
    code = int(form.encode(value))
    stored = float(form.decode(code))
    sign, exponent, fraction = form.split(code)
    parts = [_text(LEFT, y, f"{form.name}", weight="bold")]
    error = abs(stored - value) / abs(value) if value else 0.0
    off = "exact" if error == 0 else f"off by {error:.1e}"
    off = "overflow" if error == np.inf else "lost" if error == 1 else off
    parts.append(_text(edge - 6, y, f"{stored:.9g}, {off}"))
    top, x = y + 6, edge - len(exponent) * CELL - 6
    parts.append(_cell(x - CELL - 3, top, SIGN, sign))
    for index, bit in enumerate(exponent):
        parts.append(_cell(x + index * CELL, top, EXPONENT, bit))
    for index, bit in enumerate(fraction):
        parts.append(_cell(edge + index * CELL, top, FRACTION, bit))
    return parts


def draw_numbers(
    formats: Sequence[FloatFormat] = (E2M1, E5M2, E4M3), upto: float = 8.0
) -> str:
    """A line per format with a tick at each number from 0 to `upto`."""
    width, left, row = 500, 14, 54
    unit = (width - 2 * left) / upto
    parts = []
    for index, form in enumerate(formats):
        y = 40 + index * row
        values = form.values()
        shown = values[(values >= 0) & (values <= upto)]
        parts.append(_text(left, y - 20, form.name, weight="bold"))
        count = f"{len(shown)} numbers from 0 to {upto:g}"
        parts.append(_text(width - left, y - 20, count, anchor="end"))
        parts.append(
            f'<line x1="{left}" y1="{y}" x2="{width - left}" y2="{y}" '
            f'stroke="currentColor" stroke-opacity="0.4"/>'
        )
        for value in shown:
            x = left + value * unit
            low = value < form.smallest_normal
            color = "#d9762b" if low else EXPONENT
            parts.append(
                f'<line x1="{x:.1f}" y1="{y - 9}" x2="{x:.1f}" y2="{y + 9}" '
                f'stroke="{color}" stroke-width="1.6"/>'
            )
    base = 40 + len(formats) * row - 12
    for value in range(int(upto) + 1):
        parts.append(_text(left + value * unit, base, str(value), anchor="middle"))
    return _svg(width, base + 10, parts)


def relative_spacing(form: FloatFormat, exponents: range) -> np.ndarray:
    """Half a spacing over the number, at 8 points per power of two: NaN out of range.

    The largest relative error of rounding there.
    """
    x = 2.0 ** np.arange(exponents.start, exponents.stop, 1 / 8)
    error = form.spacing(x) / 2 / x
    inside = (x >= form.smallest_subnormal) & (x <= form.max)
    return np.where(inside, error, np.nan)


def _cell(x: float, y: float, color: str, bit: str) -> str:
    opacity = 0.65 if bit == "1" else 0.16
    box = (
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="18" rx="2" fill="{color}" '
        f'fill-opacity="{opacity}" stroke="{color}"/>'
    )
    middle = x + (CELL - 2) / 2
    return box + _text(middle, y + 13.5, bit, anchor="middle", size=12)


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    size: int = 15,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}" fill="currentColor">{words}</text>'
    )


def _svg(width: float, height: float, parts: list[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" font-family="sans-serif" '
        f'style="max-width:100%;height:auto">{body}</svg>'
    )
