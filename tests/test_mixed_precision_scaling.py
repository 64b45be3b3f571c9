"""LossScaler: PyTorch's state machine, step by step; skipped steps touch nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from underhood.mixed_precision import LossScaler


def feed(scaler: LossScaler, overflow: bool) -> tuple[float, int]:
    """One step whose gradient is infinite or not."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.tensor([1.0, math.inf if overflow else 1.0, 1.0])
    scaler.step(optimizer)
    scaler.update()
    return scaler.loss_scale, scaler.clean_steps


def test_acceptance_sequence() -> None:
    scaler = LossScaler(4.0, 2.0, 0.25, 2)
    seen = [feed(scaler, overflow) for overflow in (False, False, True)]
    assert seen == [(4.0, 1), (8.0, 0), (2.0, 0)]


@settings(max_examples=60, deadline=None)
@given(
    overflows=st.lists(st.booleans(), min_size=1, max_size=40),
    start=st.sampled_from([1.0, 65536.0, 2.0**24, 2.0**126, 3e38, 1e-37]),
    growth=st.sampled_from([1.5, 2.0, 4.0]),
    backoff=st.sampled_from([0.25, 0.5, 0.9]),
    interval=st.integers(1, 5),
)
def test_same_scales_as_the_kernel_of_torch(
    overflows: list[bool], start: float, growth: float, backoff: float, interval: int
) -> None:
    scaler = LossScaler(start, growth, backoff, interval)
    scale = torch.tensor(start)
    tracker = torch.tensor(0, dtype=torch.int32)
    for overflow in overflows:
        found = torch.tensor(float(overflow))
        torch._amp_update_scale_(scale, tracker, found, growth, backoff, interval)
        ours, clean = feed(scaler, overflow)
        assert ours == scale.item()
        assert clean == tracker.item()
        if scale.item() < 2.0**-125:
            break  # below, 1 / scale is infinite: ours skips, PyTorch's does not look


def test_a_scale_that_falls_to_zero_does_so_in_the_step_of_torch() -> None:
    scaler = LossScaler(65536.0, 2.0, 0.5, 2000)
    scale, tracker = torch.tensor(65536.0), torch.tensor(0, dtype=torch.int32)
    for _ in range(200):
        torch._amp_update_scale_(scale, tracker, torch.ones(()), 2.0, 0.5, 2000)
        assert feed(scaler, True) == (scale.item(), 0)
    assert scale == 0


def two_models() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    return first, copy.deepcopy(first), torch.randn(60, 8, 5), torch.randn(60, 8, 1)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_trains_like_gradscaler(make: type[torch.optim.Optimizer]) -> None:
    """Two models, the same losses, some infinite: equal weights, scales, states."""
    ours, theirs, x, y = two_models()
    settings_ = {"init_scale": 2.0**20, "growth_interval": 4}
    scaler = LossScaler(**settings_)
    reference = torch.amp.GradScaler("cpu", **settings_)
    steps = [make(model.parameters(), lr=0.01) for model in (ours, theirs)]
    for step in range(60):
        factor = math.inf if step % 7 == 3 else 1.0
        for model, s, optimizer in zip(
            (ours, theirs), (scaler, reference), steps, strict=True
        ):
            optimizer.zero_grad()
            loss = (model(x[step]) - y[step]).square().mean() * factor
            s.scale(loss).backward()
            if step % 2:
                s.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            s.step(optimizer)
            s.update()
        assert scaler.loss_scale == reference.get_scale()
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, their)
    assert scaler.state_dict() == reference.state_dict()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_skipped_step_touches_nothing(bad: float) -> None:
    model, _, x, y = two_models()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = LossScaler(8.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale((model(x[0]) - y[0]).square().mean()).backward()
        assert scaler.step(optimizer)
        scaler.update()
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    list(model.parameters())[1].grad[2] = bad
    assert not scaler.step(optimizer)
    scaler.update()
    after = [model.state_dict(), optimizer.state_dict()]
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    for index, state in before[1]["state"].items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(state[key], after[1]["state"][index][key])
    assert scaler.loss_scale == 4.0


def test_an_overflow_starts_the_count_again() -> None:
    scaler = LossScaler(16.0, growth_interval=3)
    pattern = [False, False, True, False, False, False]
    scales = [feed(scaler, overflow)[0] for overflow in pattern]
    assert scales == [16, 16, 8, 8, 8, 16]


def test_static_scale_skips_and_stays() -> None:
    scaler = LossScaler(8.0, growth_interval=1, dynamic=False)
    assert [feed(scaler, o)[0] for o in (False, True, False)] == [8, 8, 8]


def test_two_optimizers_one_overflow() -> None:
    """Only the one that overflowed is skipped, and the scale goes down once."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
    weights[0].grad = torch.tensor([math.nan, 0.0])
    weights[1].grad = torch.tensor([4.0, 4.0])
    scaler = LossScaler(4.0)
    assert [scaler.step(optimizer) for optimizer in optimizers] == [False, True]
    scaler.update()
    assert weights[0].tolist() == [1, 1] and weights[1].tolist() == [0, 0]
    assert scaler.loss_scale == 2.0


def test_defaults_are_those_of_gradscaler() -> None:
    assert LossScaler().state_dict() == torch.amp.GradScaler("cpu").state_dict()


def test_state_goes_to_gradscaler_and_back() -> None:
    scaler = LossScaler(4.0, growth_interval=3)
    feed(scaler, False)
    reference = torch.amp.GradScaler("cpu")
    reference.load_state_dict(scaler.state_dict())
    assert reference.get_scale() == 4.0
    other = LossScaler()
    other.load_state_dict(reference.state_dict())
    assert other.state_dict() == scaler.state_dict()


def test_order_of_calls() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones(1)
    scaler = LossScaler()
    with pytest.raises(RuntimeError, match="update: no step"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already unscaled"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="called twice"):
        scaler.step(optimizer)
    weight.grad = None
    half = nn.Parameter(torch.ones(1).half())
    half.grad = torch.ones(1).half()
    with pytest.raises(TypeError, match="got float16"):
        LossScaler().unscale_(torch.optim.SGD([half], lr=1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_scale": 0.0}, "init_scale: got 0"),
        ({"init_scale": math.inf}, "init_scale: got inf"),
        ({"growth_factor": 1.0}, "growth_factor: got 1"),
        ({"backoff_factor": 1.0}, "backoff_factor: got 1"),
        ({"growth_interval": 0}, "growth_interval: got 0"),
    ],
)
def test_bad_input(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossScaler(**arguments)
