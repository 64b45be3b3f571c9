"""Drawings: as many cells as bits, as many ticks as numbers, well-formed SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import torch

from underhood.mixed_precision import E2M1, E4M3, E5M2, FP16, picture

SVG = "{http://www.w3.org/2000/svg}"


def words(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bits_are_those_of_torch() -> None:
    svg = picture.draw_bits(0.1, (FP16,))
    code = torch.tensor(0.1).half().view(torch.int16).item()
    bits = [word for word in words(svg) if word in ("0", "1")]
    assert "".join(bits) == f"{code:016b}"
    cells = list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))
    assert len(cells) == 16 + 3  # and three of the legend


def test_bits_say_what_was_lost() -> None:
    assert "0, lost" in words(picture.draw_bits(0.1, (E2M1,)))
    assert "0.5, exact" in words(picture.draw_bits(0.5, (FP16,)))
    assert "0, exact" in words(picture.draw_bits(0.0, (FP16,)))
    assert "inf, overflow" in words(picture.draw_bits(1e6, (FP16,)))
    assert "448, off by 3.6e-01" in words(picture.draw_bits(700.0, (E4M3,)))


def test_one_tick_per_number() -> None:
    lines = list(
        ElementTree.fromstring(picture.draw_numbers((E2M1, E5M2))).iter(f"{SVG}line")
    )
    by_torch = torch.arange(128, dtype=torch.uint8).view(torch.float8_e5m2).float()
    assert len(lines) == 2 + 8 + int((by_torch <= 8).sum())


def test_relative_spacing() -> None:
    error = picture.relative_spacing(FP16, range(-26, 18))
    x = 2.0 ** np.arange(-26, 18, 1 / 8)
    assert np.isnan(error[x < 2.0**-24]).all() and np.isnan(error[x > 65504]).all()
    inside = (x >= 2.0**-14) & (x <= 65504)
    below = FP16.round(x[inside], "toward_zero").astype(np.float16)  # same binade
    gap = np.spacing(below).astype(float) / 2 / x[inside]
    assert np.allclose(error[inside], gap)
