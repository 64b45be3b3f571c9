"""initialization: signals through depth, residual blocks, one step of Adam."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.initialization import (
    VARIANTS,
    Dense,
    Norm,
    ResidualBlock,
    branch_gains,
    change_by_one_step,
    dense_stack,
    depth_sweep,
    lsuv_,
    random_gradient,
    residual_stack,
    run,
    trace,
)


def gaussian(*shape: int, seed: int = 100) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=0.0)


# trace: what it reports is what autograd says, and what the rules promise.


def test_trace_by_a_plain_backward_pass() -> None:
    layers = dense_stack(3, 8, "tanh", "lecun")
    x = gaussian(5, 8)
    signal = trace(layers, x, seed=2)

    x.requires_grad_()
    out = x
    for layer in copy.deepcopy(layers):
        out = torch.tanh(out @ layer.weight.T)
    top = random_gradient(out, seed=2)
    assert top.std().item() == pytest.approx(1, rel=0.2)
    (gradient,) = torch.autograd.grad((out * top).sum(), x)
    assert signal.forward[0] == pytest.approx(x.square().mean().item())
    assert signal.forward[-1] == pytest.approx(out.square().mean().item())
    assert signal.backward[0] == pytest.approx(gradient.square().mean().item())
    assert signal.backward[-1] == pytest.approx(top.square().mean().item())
    assert len(signal.forward) == len(signal.backward) == 4
    assert len(signal.weights) == 3


def test_trace_twice_is_the_same() -> None:
    layers = dense_stack(3, 8, "relu", "he")
    x = gaussian(5, 8)
    assert trace(layers, x) == trace(layers, x)


PER_LAYER = {
    ("identity", "lecun"): 1.0,
    ("identity", "torch"): 1 / 3,
    ("identity", "he"): 2.0,
    ("relu", "he"): 1.0,
    ("relu", "lecun"): 0.5,
    ("relu", "xavier"): 0.5,
}


@pytest.mark.parametrize("pair", PER_LAYER)
def test_a_rule_keeps_or_loses_by_its_factor(pair: tuple[str, str]) -> None:
    depth = 10
    signal = trace(dense_stack(depth, 300, *pair), gaussian(100, 300))
    for moments in (signal.forward[-1] / signal.forward[0], signal.backward[0]):
        per_layer = moments ** (1 / depth)
        assert per_layer == pytest.approx(PER_LAYER[pair], rel=0.06)


def test_fan_in_holds_the_signal_and_fan_out_the_gradient() -> None:
    x, generator = gaussian(400, 600), torch.Generator().manual_seed(0)
    fan_in = trace([Dense(600, 150, "identity", "lecun", generator)], x)
    assert fan_in.forward[1] / fan_in.forward[0] == pytest.approx(1, rel=0.05)
    assert fan_in.backward[0] == pytest.approx(150 / 600, rel=0.05)
    fan_out = trace([Dense(600, 150, "relu", "he-fan-out", generator)], x)
    assert fan_out.backward[0] == pytest.approx(1, rel=0.05)
    assert fan_out.forward[1] == pytest.approx(600 / 150, rel=0.05)


def test_orthogonal_keeps_each_length() -> None:
    x = gaussian(7, 64)
    out = x
    for layer in dense_stack(30, 64, "identity", "orthogonal"):
        out = layer(out)
    assert torch.allclose(out.norm(dim=1), x.norm(dim=1), rtol=1e-4)


def test_lsuv_by_its_promise() -> None:
    layers = dense_stack(12, 64, "silu", "torch")
    x = gaussian(200, 64) * 3 + 1
    lsuv_(layers, x)
    assert trace(layers, x).forward[1:] == pytest.approx([1] * 12, rel=2e-3)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_lsuv_cannot_scale_a_bounded_activation(activation: str) -> None:
    layers = [*dense_stack(1, 64, "relu", "he"), Dense(64, 64, activation)]
    with pytest.raises(ValueError, match="layers: number 1 puts out"):
        lsuv_(layers, gaussian(200, 64))


def test_lsuv_cannot_scale_zeros() -> None:
    layers = dense_stack(2, 64, "relu", "he")
    nn.init.zeros_(layers[1].weight)
    with pytest.raises(ValueError, match="layers: number 1 puts out 0,"):
        lsuv_(layers, gaussian(200, 64))
    assert torch.equal(layers[1].weight, torch.zeros(64, 64))


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="activation: got 'swish', allowed are iden"):
        Dense(4, 4, "swish")


# Residual blocks: each variant by its formula, written out once more.


def by_formula(variant: str, block: ResidualBlock, x: Tensor) -> Tensor:
    def branch(x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, block.w1)), block.w2)

    match variant:
        case "no-norm" | "fixup":
            return x + branch(x)
        case "post-norm":
            return norm(x + branch(x))
        case "pre-norm" | "gpt2":
            return x + branch(norm(x))
        case "depth-scaled":  # layer 3
            return x + branch(norm(x) / 3**0.5)
        case "completep":  # 6 blocks
            return x + branch(norm(x)) / 6
        case "rezero":
            return x + block.alpha * branch(x)
        case "deepnorm":  # N = 3 layers of 2 branches: (2N)^(1/4)
            return norm((2 * 3) ** 0.25 * x + branch(x))
        case "sandwich":
            return x + norm(branch(norm(x)))
        case "sub-norm":
            inner = norm(F.relu(F.linear(norm(x), block.w1)))
            return x + F.linear(inner, block.w2) / 2**0.5
    raise AssertionError(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_block_is_its_formula(variant: str) -> None:
    block = residual_stack(variant, 6, 32)[2]
    with torch.no_grad():
        block.w2.add_(gaussian(32, 32, seed=5) / 8)  # not the zeros of Fixup
        if variant == "rezero":
            block.alpha.fill_(0.3)
    x = gaussian(4, 32, seed=1)
    assert torch.allclose(block(x), by_formula(variant, block, x), atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("pre-norm", (1.0, 1.0)),
        ("gpt2", (1.0, 24**-0.5)),  # 1/√N with N residual layers
        ("fixup", (24**-0.5, 0.0)),
        ("deepnorm", ((8 * 12) ** -0.25,) * 2),  # 12 layers of two branches
        ("sub-norm", (math.log(2 * 12) ** 0.5,) * 2),
    ],
)
def test_the_gains_of_24_branches(variant: str, expected: tuple[float, float]) -> None:
    assert branch_gains(variant, 24) == pytest.approx(expected)
    block = residual_stack(variant, 24, 200)[0]
    drawn = (block.w1.std().item() * 200**0.5, block.w2.std().item() * 100**0.5)
    assert drawn == pytest.approx(expected, rel=0.03)


def test_the_gains_of_one_layer_are_not_zero() -> None:
    assert branch_gains("sub-norm", 2) == pytest.approx((math.log(2) ** 0.5,) * 2)
    assert branch_gains("sub-norm", 1) == pytest.approx((math.log(2) ** 0.5,) * 2)


def test_a_branch_keeps_the_second_moment() -> None:
    block = ResidualBlock(400, "no-norm", generator=torch.Generator().manual_seed(0))
    x = gaussian(300, 400)
    assert block.branch(x).square().mean().item() == pytest.approx(1, rel=0.08)


def test_bad_blocks_are_named() -> None:
    with pytest.raises(ValueError, match="variant: got 'postnorm', allowed are no-n"):
        ResidualBlock(4, "postnorm")
    with pytest.raises(ValueError, match="layer: got 3, allowed are 1 to 2"):
        ResidualBlock(4, "pre-norm", 3, 2)


# Depth: what theory says of each variant.


def forward_of(variant: str, depth: int = 24) -> list[float]:
    blocks = residual_stack(variant, depth, 200)
    return trace(blocks, norm(gaussian(200, 200, seed=3))).forward


def test_second_moments_over_depth() -> None:
    assert forward_of("no-norm")[8] == pytest.approx(2**8, rel=0.35)
    assert forward_of("post-norm") == pytest.approx([1] * 25, rel=1e-5)
    assert forward_of("deepnorm") == pytest.approx([1] * 25, rel=1e-5)
    pre = forward_of("pre-norm")
    assert pre == pytest.approx([layer + 1 for layer in range(25)], rel=0.15)
    sandwich = forward_of("sandwich")
    assert sandwich == pytest.approx([layer + 1 for layer in range(25)], rel=0.15)
    assert forward_of("gpt2")[-1] == pytest.approx(2, rel=0.1)
    harmonic = 1 + sum(1 / layer for layer in range(1, 25))
    assert forward_of("depth-scaled")[-1] == pytest.approx(harmonic, rel=0.1)
    assert forward_of("rezero") == pytest.approx([1] * 25)
    assert forward_of("fixup") == pytest.approx([1] * 25)


def test_rezero_is_the_identity_and_learns_alpha_first() -> None:
    (block,) = residual_stack("rezero", 1, 16)
    x = gaussian(5, 16)
    out = block(x)
    assert torch.equal(out, x)
    (out * gaussian(5, 16, seed=1)).sum().backward()
    assert block.w1.grad.abs().max() == 0 and block.w2.grad.abs().max() == 0
    assert block.alpha.grad.abs() > 0


def last_gradient(variant: str, depth: int) -> float:
    total = 0.0
    for seed in range(4):
        blocks = residual_stack(variant, depth, 64, seed)
        total += trace([*blocks, Norm()], gaussian(64, 64, seed=9), seed).weights[-2]
    return total / 4


def test_the_last_gradient_by_depth_as_in_xiong() -> None:
    # Xiong et al. (2020), theorem 1: O(1) for post-norm, O(1/√L) for pre-norm.
    post = last_gradient("post-norm", 32) / last_gradient("post-norm", 2)
    pre = last_gradient("pre-norm", 32) / last_gradient("pre-norm", 2)
    assert post == pytest.approx(1, rel=0.15)
    assert pre == pytest.approx((3 / 33) ** 0.5, rel=0.15)


def test_change_by_one_step_is_that_of_torch_adam() -> None:
    blocks = residual_stack("pre-norm", 3, 16)
    model = copy.deepcopy(nn.ModuleList(blocks))
    x = gaussian(4, 16, seed=1)
    measured = change_by_one_step(blocks, x, 1e-3)

    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-30)
    before = run(list(model), x)
    (before * random_gradient(before)).sum().backward()
    optimizer.step()
    change = (run(list(model), x) - before).norm() / before.norm()
    assert measured == pytest.approx(change.item(), rel=1e-4)


def test_an_update_grows_with_the_depth_least_under_deepnorm() -> None:
    x = gaussian(64, 64)
    growth = {
        variant: change_by_one_step(residual_stack(variant, 48, 64), x, 1e-4)
        / change_by_one_step(residual_stack(variant, 6, 64), x, 1e-4)
        for variant in ("post-norm", "pre-norm", "deepnorm", "completep")
    }
    assert growth["post-norm"] > 8
    assert growth["pre-norm"] < 8
    assert growth["deepnorm"] < 4
    assert growth["completep"] == pytest.approx(1, rel=0.15)


def test_depth_sweep_learns_and_warms_up() -> None:
    labels = torch.arange(200) % 4
    x = 0.3 * gaussian(200, 16) + torch.eye(4).repeat(1, 4)[labels]
    history = depth_sweep("pre-norm", 3, [0.003, 0.01], x, labels, steps=60)
    assert history.shape == (60, 1, 2)
    assert history[0, 0].tolist() == pytest.approx([math.log(4)] * 2, abs=1e-5)
    assert history[-1].max() < 0.3
    slow = depth_sweep("pre-norm", 1, [0.003], x, labels, steps=3, warmup=1000)
    assert slow[-1].item() == pytest.approx(math.log(4), abs=0.01)


def test_depth_sweep_is_a_plain_loop_for_each_seed() -> None:
    x, labels = gaussian(80, 16), torch.arange(80) % 4
    rates = [0.01, 0.001]
    swept = depth_sweep("post-norm", 2, rates, x, labels, seeds=3, steps=4, warmup=2)
    assert swept.shape == (4, 3, 2)
    for seed in range(3):
        for number, rate in enumerate(rates):
            model = nn.ModuleList(residual_stack("post-norm", 2, 16, seed))
            readout = nn.Parameter(torch.zeros(4, 16))
            adam = torch.optim.Adam([readout, *model.parameters()], betas=(0.9, 0.99))
            batches = torch.Generator().manual_seed(0)
            for step in range(4):
                adam.param_groups[0]["lr"] = rate * min(1, (step + 1) / 2)
                chosen = torch.randint(80, (64,), generator=batches)
                logits = run(list(model), x[chosen]) @ readout.T
                loss = F.cross_entropy(logits, labels[chosen])
                found = swept[step, seed, number].item()
                assert found == pytest.approx(loss.item(), rel=1e-4)
                adam.zero_grad()
                loss.backward()
                adam.step()
