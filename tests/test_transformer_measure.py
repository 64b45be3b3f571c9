"""The scan, the measurements on the graph, and the recall task."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.transformer import LSTM, RNN, scaled_dot_product_attention
from underhood.transformer.measure import input_gradients, jacobian_norm, longest_chain
from underhood.transformer.recall import READERS, recall_accuracy, recall_batch
from underhood.transformer.scan import loop_recurrence, scan_recurrence


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 40), seed=st.integers(0, 2**20))
def test_scan_equals_loop(length, seed):
    torch.manual_seed(seed)
    a = torch.rand(2, length, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    loop, scan = loop_recurrence(a, b), scan_recurrence(a, b)
    assert (loop - scan).abs().max() < 1e-12
    weight = torch.randn_like(loop)
    expected = torch.autograd.grad((loop * weight).sum(), (a, b))
    found = torch.autograd.grad((scan * weight).sum(), (a, b))
    for x, y in zip(found, expected, strict=True):
        assert (x - y).abs().max() < 1e-12


def test_loop_by_hand():
    a = torch.tensor([[[9.0], [2.0], [0.5]]])
    b = torch.tensor([[[1.0], [3.0], [4.0]]])
    assert loop_recurrence(a, b).flatten().tolist() == [1.0, 5.0, 6.5]
    assert scan_recurrence(a[:, :1], b[:, :1]).item() == 1.0


def test_scan_checks_its_arguments():
    with pytest.raises(ValueError, match="a, b: got shapes"):
        scan_recurrence(torch.ones(1, 2, 3), torch.ones(1, 3, 3))


def test_longest_chain_by_hand():
    x = torch.ones(3, requires_grad=True)
    assert longest_chain(x * 2) == 1
    assert longest_chain((x * 2 + x.exp()).tanh()) == 3
    assert longest_chain(torch.stack([x * 2, x * 3]).view(6)) == 1


def test_chains_of_the_models():
    def chain_of_rnn(length):
        x = torch.randn(1, length, 2, requires_grad=True)
        return longest_chain(RNN(2, 2)(x)[0])

    # Two more operations or so per step, whatever the length so far.
    growth = chain_of_rnn(11) - chain_of_rnn(10)
    assert growth >= 2
    assert chain_of_rnn(40) - chain_of_rnn(10) == 30 * growth

    def chain_of_attention(length):
        x = torch.randn(length, 2, requires_grad=True)
        return longest_chain(scaled_dot_product_attention(x, x, x))

    assert chain_of_attention(10) == chain_of_attention(100)

    def chain_of_scan(length):
        a = torch.rand(1, length, 1, requires_grad=True)
        return longest_chain(scan_recurrence(a, a * 2))

    assert chain_of_scan(256) - chain_of_scan(128) == chain_of_scan(
        128
    ) - chain_of_scan(64)


def test_input_gradients_of_a_known_recurrence():
    x = torch.randn(4, 20, 3, dtype=torch.float64, requires_grad=True)
    a = torch.full_like(x, 0.5)
    found = input_gradients(loop_recurrence(a, x)[:, -1], x)
    expected = torch.tensor([0.5 ** (19 - t) for t in range(20)], dtype=torch.float64)
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("gain", "norm"), [(0.9, 2.66e-5), (1.0, 1.0), (1.1, 1.38e4)])
def test_a_hundred_orthogonal_steps(gain, norm):
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q
    start = torch.randn(16, dtype=torch.float64)
    assert jacobian_norm(lambda h: gain * turn @ h, start, 100) == pytest.approx(
        norm, rel=2e-3
    )


def test_the_cell_of_an_lstm_is_a_linear_recurrence():
    """Without W_hh the gates do not depend on the state: dc_T/dc_0 = product of f."""
    torch.manual_seed(1)
    lstm = LSTM(3, 4).double()
    torch.nn.init.zeros_(lstm.weight_hh_l0)
    x = torch.randn(1, 9, 3, dtype=torch.float64)
    cell = torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True)
    _, (_, last) = lstm(x, (torch.zeros_like(cell), cell))
    (gradient,) = torch.autograd.grad(last.sum(), cell)
    rows = slice(4, 8)  # the forget gate
    weight, bias = lstm.weight_ih_l0[rows], (lstm.bias_ih_l0 + lstm.bias_hh_l0)[rows]
    forget = torch.sigmoid(x[0] @ weight.T + bias)
    assert (gradient[0, 0] - forget.prod(dim=0)).abs().max() < 1e-12


def test_recall_data():
    generator = torch.Generator().manual_seed(0)
    tokens, wanted = recall_batch(500, 6, generator)
    assert tokens.shape == (500, 7)
    assert torch.equal(tokens[:, 0], wanted)
    assert (tokens[:, 1:] >= 8).all() and (tokens < 16).all()
    assert set(wanted.tolist()) == set(range(8))
    with pytest.raises(ValueError, match="distance: got 0"):
        recall_batch(1, 0, generator)


@pytest.mark.parametrize("name", list(READERS))
def test_every_reader_recalls_over_a_short_distance(name):
    assert recall_accuracy(name, 2, updates=120, batch=32) > 0.95


def test_untrained_readers_guess():
    accuracy = recall_accuracy("GRU", 8, updates=0)
    assert abs(accuracy - 1 / 8) < 6 * math.sqrt(7 / 64 / 1000)
    assert recall_accuracy("GRU", 8, updates=0) == accuracy
    with pytest.raises(ValueError, match="name: got 'CNN'"):
        recall_accuracy("CNN", 8)
