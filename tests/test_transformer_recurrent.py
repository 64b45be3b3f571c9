"""RNN, LSTM and GRU against `torch.nn`: weights both ways, outputs, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from underhood.transformer import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

LAYERS = [(RNN, nn.RNN), (LSTM, nn.LSTM), (GRU, nn.GRU)]
CELLS = [(RNNCell, nn.RNNCell), (LSTMCell, nn.LSTMCell), (GRUCell, nn.GRUCell)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(kind, *shape, dtype):
    made = tuple(torch.randn(shape, dtype=dtype) for _ in range(kind.num_states))
    return made if len(made) > 1 else made[0]


def distance(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("ours", "theirs"), CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_cell_equals_torch(ours, theirs, bias, dtype):
    torch.manual_seed(0)
    mine = ours(5, 7, bias=bias).to(dtype)
    torch.manual_seed(0)
    reference = theirs(5, 7, bias=bias).to(dtype)
    for name, start in reference.state_dict().items():
        assert torch.equal(mine.get_parameter(name), start)
    reference.load_state_dict(mine.state_dict(), strict=True)
    mine.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(3, 5, dtype=dtype)
    state = random_state(ours, 3, 7, dtype=dtype)
    for given_state in (None, state):
        pairs = zip(
            parts(mine(x, given_state)), parts(reference(x, given_state)), strict=True
        )
        assert max(distance(a, b) for a, b in pairs) < TOLERANCE[dtype]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(LAYERS),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    length=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**20),
)
def test_layers_equal_torch(kind, layers, bidirectional, bias, length, dtype, seed):
    torch.manual_seed(seed)
    options = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
    mine = kind[0](4, 6, **options).to(dtype)
    reference = kind[1](4, 6, batch_first=True, **options).to(dtype)
    mine.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(mine.state_dict(), strict=True)
    ways = layers * (2 if bidirectional else 1)
    state = random_state(kind[0].cell, ways, 3, 6, dtype=dtype)
    x = torch.randn(3, length, 4, dtype=dtype, requires_grad=True)
    x_too = x.detach().clone().requires_grad_()
    output, final = mine(x, state)
    output_too, final_too = reference(x_too, state)
    results = [(output, output_too)]
    results += zip(parts(final), parts(final_too), strict=True)
    assert max(distance(a, b) for a, b in results) < TOLERANCE[dtype]

    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    (output_too * weight).sum().backward()
    assert distance(x.grad, x_too.grad) < TOLERANCE[dtype]
    for (name, p), (name_too, q) in zip(
        mine.named_parameters(), reference.named_parameters(), strict=True
    ):
        assert name == name_too
        # Sums over batch and time: relative to their own size.
        size = 1 + q.grad.abs().max().item()
        assert distance(p.grad, q.grad) < TOLERANCE[dtype] * size


@pytest.mark.parametrize(("ours", "theirs"), LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_equals_packed_sequences(ours, theirs, bidirectional):
    torch.manual_seed(1)
    mine = ours(4, 6, 2, bidirectional=bidirectional).double()
    reference = theirs(4, 6, 2, batch_first=True, bidirectional=bidirectional).double()
    reference.load_state_dict(mine.state_dict())
    x = torch.randn(4, 7, 4, dtype=torch.float64)
    lengths = torch.tensor([3, 7, 1, 5])
    packed = nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=True, enforce_sorted=False
    )
    expected, final = reference(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)
    output, state = mine(x, lengths=lengths)
    assert distance(output, expected) < 1e-10
    for a, b in zip(parts(state), parts(final), strict=True):
        assert distance(a, b) < 1e-10


@pytest.mark.parametrize(("ours", "theirs"), LAYERS)
@pytest.mark.parametrize("filling", [math.nan, math.inf])
def test_padding_may_hold_anything(ours, theirs, filling):
    torch.manual_seed(1)
    mine = ours(4, 6, 2, bidirectional=True).double()
    reference = theirs(4, 6, 2, batch_first=True, bidirectional=True).double()
    reference.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    x[1, 3:] = filling
    lengths = torch.tensor([5, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], True)
    output, _ = mine(x, lengths=lengths)
    assert distance(output, expected) < 1e-10
    output.square().sum().backward()
    expected.square().sum().backward()
    for p, q in zip(mine.parameters(), reference.parameters(), strict=True):
        assert distance(p.grad, q.grad) < 1e-10


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU])
def test_what_is_padded_does_not_matter(ours):
    torch.manual_seed(2)
    layers = ours(4, 6, bidirectional=True).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    noisy = x.clone()
    noisy[0, 2:] = 1e6
    lengths = torch.tensor([2, 5])
    clean, noise = layers(x, lengths=lengths), layers(noisy, lengths=lengths)
    assert torch.equal(clean[0], noise[0])


@pytest.mark.parametrize("ours", [RNN, LSTM, GRU])
def test_layers_are_their_cell_in_a_loop(ours):
    torch.manual_seed(3)
    layers, cell = ours(4, 6).double(), ours.cell(4, 6).double()
    cell.load_state_dict(
        {key.removesuffix("_l0"): v for key, v in layers.state_dict().items()}
    )
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    state, outputs = None, []
    for t in range(5):
        state = cell(x[:, t], state)
        outputs.append(parts(state)[0])
    assert distance(torch.stack(outputs, 1), layers(x)[0]) < 1e-12


def test_lstm_by_hand():
    """All weights 0: each gate is 1/2 and the candidate 0, so the cell halves."""
    cell = LSTMCell(1, 1)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    hidden, memory = cell(torch.ones(1, 1), (torch.zeros(1, 1), torch.full((1, 1), 8)))
    assert memory.item() == 4.0
    assert hidden.item() == pytest.approx(0.5 * torch.tanh(torch.tensor(4.0)).item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GRU(0, 3), "input_size: got 0"),
        (lambda: GRU(3, 3, 0), "num_layers: got 0"),
        (lambda: GRU(3, 4)(torch.zeros(2, 5, 4)), r"x: got shape \(2, 5, 4\)"),
        (lambda: GRU(3, 4)(torch.zeros(5, 3)), "x: got shape"),
        (lambda: GRU(3, 4)(torch.zeros(2, 0, 3)), "at least one step"),
        (lambda: LSTM(3, 4)(torch.zeros(2, 5, 3), torch.zeros(1, 2, 4)), "state: got"),
        (
            lambda: GRU(3, 4)(torch.zeros(2, 5, 3), lengths=torch.tensor([6, 1])),
            "lengths: got",
        ),
        (lambda: LSTMCell(3, 4)(torch.zeros(2, 4)), "x: got shape"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
