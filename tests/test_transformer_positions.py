"""Sinusoidal positions against the formula of the paper, in Python's own floats."""

import math

import pytest
import torch

from underhood.transformer import position_rotation, sinusoidal_positions, wavelengths


def test_the_formula():
    table = sinusoidal_positions(50, 8)
    for p in (0, 1, 7, 49):
        for i in range(4):
            angle = p / 10000 ** (2 * i / 8)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[p, 2 * i + 1].item() == pytest.approx(
                math.cos(angle), abs=1e-6
            )


def test_a_slice_is_the_slice_of_the_table():
    assert torch.equal(
        sinusoidal_positions(20, 6)[5:9], sinusoidal_positions(4, 6, start=5)
    )


def test_wavelengths():
    found = wavelengths(64)
    assert found[0].item() == pytest.approx(2 * math.pi)
    assert found[-1].item() == pytest.approx(2 * math.pi * 10000 ** (62 / 64))
    ratios = found[1:] / found[:-1]
    assert ratios.max().item() == pytest.approx(10000 ** (1 / 32))
    assert ratios.min().item() == pytest.approx(10000 ** (1 / 32))


@pytest.mark.parametrize("offset", [-3, 0, 1, 12])
def test_an_offset_is_one_rotation_for_all_positions(offset):
    table = sinusoidal_positions(60, 16).double()
    turn = position_rotation(offset, 16)
    here = torch.arange(10, 40)
    moved = table[here] @ turn.T
    assert (moved - table[here + offset]).abs().max() < 1e-6
    assert (turn @ turn.T - torch.eye(16)).abs().max() < 1e-12
    assert torch.linalg.det(turn).item() == pytest.approx(1)


def test_the_dot_product_depends_on_the_distance_alone():
    table = sinusoidal_positions(40, 64).double()
    products = table @ table.T
    for offset in range(10):
        diagonal = products.diagonal(offset)
        assert diagonal.max() - diagonal.min() < 1e-4
    assert products.diagonal()[0].item() == pytest.approx(32)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="d_model: got 7"):
        sinusoidal_positions(3, 7)
    for length, start in ((-1, 0), (3, -1)):
        with pytest.raises(ValueError, match=f"length, start: got {length}, {start}"):
            sinusoidal_positions(length, 8, start=start)
    assert sinusoidal_positions(0, 8).shape == (0, 8)
