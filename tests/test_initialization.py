"""initialization: samplers, moments of activations, norms, the scale of attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.initialization import (
    ACTIVATIONS,
    AXES,
    RULES,
    center,
    depth_map,
    dynamic_tanh,
    fans,
    gain,
    gaussian_expectation,
    normal_,
    orthogonal_,
    qk_clip_,
    qk_norm_scores,
    random_scores,
    rms_norm,
    rule_std,
    second_moment,
    slope_moment,
    soft_cap,
    softmax_jacobian_norm,
    solve_selu,
    standardize,
    t5_query_key_std,
    truncated_normal_,
    truncated_variance,
    uniform_,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


# Samplers. The laws are scipy's; a sample of 40,000 tells a deviation of 1% apart.

STD, COUNT = 0.3, 40_000
LAWS = {
    "normal": (normal_, stats.norm(scale=STD)),
    "uniform": (
        uniform_,
        stats.uniform(-math.sqrt(3) * STD, 2 * math.sqrt(3) * STD),
    ),
    "truncated": (
        truncated_normal_,
        # scipy's scale is that of the normal before the cut.
        stats.truncnorm(-2, 2, scale=STD / stats.truncnorm(-2, 2).std()),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_sampler_follows_its_law(name: str) -> None:
    sampler, law = LAWS[name]
    assert law.std() == pytest.approx(STD, rel=1e-9)
    weight = sampler(torch.empty(COUNT), STD, generator=generator())
    assert stats.kstest(weight.numpy(), law.cdf).pvalue > 0.01
    assert weight.std().item() == pytest.approx(STD, rel=0.012)
    assert weight.mean().item() == pytest.approx(0, abs=4 * STD / COUNT**0.5)


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 3.5])
def test_the_variance_that_a_cut_leaves(cut: float) -> None:
    assert truncated_variance(cut) == pytest.approx(stats.truncnorm(-cut, cut).var())


def test_the_narrowest_and_the_widest_cut() -> None:
    assert truncated_variance(1e-3) == pytest.approx(1e-6 / 3, rel=1e-6)  # uniform
    assert truncated_variance(1e160) == 1.0


def test_two_sigma_by_the_known_number() -> None:
    assert truncated_variance(2.0) == pytest.approx(0.7737413, abs=1e-7)
    assert truncated_variance(2.0) ** 0.5 == pytest.approx(0.87962566, abs=1e-8)


def test_a_truncated_weight_stays_within_its_cut() -> None:
    weight = truncated_normal_(torch.empty(COUNT), 0.02, 2.0, generator())
    assert weight.abs().max() <= 2 * 0.02 / 0.87962566 * (1 + 1e-6)
    assert weight.abs().max() > 1.99 * 0.02 / 0.87962566


def test_truncation_as_in_torch_when_torch_is_told_the_bounds() -> None:
    ours = truncated_normal_(torch.empty(COUNT), STD * 0.87962566, 2.0, generator())
    theirs = nn.init.trunc_normal_(
        torch.empty(COUNT), std=STD, a=-2 * STD, b=2 * STD, generator=generator(1)
    )
    assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 0.01


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    weight = orthogonal_(torch.empty(shape, dtype=torch.float64), 1.5, generator())
    values = torch.linalg.svdvals(weight)
    assert torch.allclose(values, torch.full_like(values, 1.5))
    theirs = torch.linalg.svdvals(nn.init.orthogonal_(torch.empty(shape), 1.5))
    assert torch.allclose(values.float(), theirs, atol=1e-5)


def test_orthogonal_is_uniform_over_the_rotations() -> None:
    # Without the sign of r's diagonal, LAPACK's first column leans to one side.
    drawn = generator()
    first = [orthogonal_(torch.empty(3, 3), 1.0, drawn)[0, 0] for _ in range(3000)]
    # One coordinate of a uniform direction in 3D is uniform on (-1, 1).
    assert stats.kstest(np.array(first), stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", [(5, 3), (8, 2, 3, 3), (4, 6, 5)])
def test_fans_are_those_of_torch(shape: tuple[int, ...]) -> None:
    weight = torch.empty(shape)
    assert fans(weight) == nn.init._calculate_fan_in_and_fan_out(weight)


def by_torch(rule: str, weight: Tensor) -> Tensor:
    """The same rules, as torch spells them."""
    match rule:
        case "lecun":
            return nn.init.kaiming_normal_(weight, nonlinearity="linear")
        case "xavier":
            return nn.init.xavier_normal_(weight)
        case "he":
            return nn.init.kaiming_normal_(weight, nonlinearity="relu")
        case "he-fan-out":
            return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        case _:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            return weight.data.copy_(layer.weight.data)


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_those_of_torch(rule: str) -> None:
    torch.manual_seed(0)
    weight = by_torch(rule, torch.empty(160, 400))
    assert rule_std(rule, 400, 160) == pytest.approx(weight.std().item(), rel=0.01)


def test_rules_of_one_neuron() -> None:
    ones = [rule_std(rule, 1, 1) for rule in RULES]
    assert ones == pytest.approx([1, 1, 2**0.5, 2**0.5, 3**-0.5])


def test_a_linear_layer_of_torch_is_uniform() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(100, 400)
    bound = 0.1
    assert layer.weight.abs().max() <= bound
    law = stats.uniform(-bound, 2 * bound)
    assert stats.kstest(layer.weight.detach().flatten().numpy(), law.cdf).pvalue > 0.01
    assert stats.kstest(layer.bias.detach().numpy(), law.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normal_(torch.empty(2), -1.0), "std: got -1.0"),
        (lambda: uniform_(torch.empty(2), math.nan), "std: got nan"),
        (lambda: truncated_normal_(torch.empty(2), math.inf), "std: got inf"),
        (lambda: truncated_variance(0.0), "cut: got 0.0"),
        (lambda: truncated_variance(1e-8), "cut: got 1e-08"),
        (lambda: truncated_normal_(torch.empty(2), 1.0, math.inf), "cut: got inf"),
        (lambda: second_moment(torch.tanh, -1.0), "variance: got -1.0"),
        (lambda: slope_moment(torch.tanh, math.nan), "variance: got nan"),
        (lambda: orthogonal_(torch.empty(2)), "weight: got 1 dimensions"),
        (lambda: fans(torch.empty(2)), "weight: got 1 dimension"),
        (lambda: rule_std("glorot", 2, 2), "rule: got 'glorot', allowed are lecun"),
        (lambda: rule_std("he", 0, 2), "fan_in, fan_out: got 0, 2"),
        (lambda: rule_std("he", 2, 0), "fan_in, fan_out: got 2, 0"),
        (lambda: soft_cap(torch.ones(2), 0.0), "cap: got 0.0"),
        (lambda: random_scores(4, 9, 3, align=1.0), "align: got 1.0"),
        (lambda: random_scores(4, 3, 9, align=1.5), "align: got 1.5"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Moments of activations.


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_by_an_adaptive_rule(name: str) -> None:
    function = ACTIVATIONS[name]

    def at(z: float) -> float:
        return function(torch.tensor(z, dtype=torch.float64)).item()

    def expectation(integrand) -> float:
        return sum(
            integrate.quad(lambda z: integrand(z) * stats.norm.pdf(z), *half)[0]
            for half in ((-12, 0), (0, 12))
        )

    mean, square = expectation(at), expectation(lambda z: at(z) ** 2)
    assert gaussian_expectation(function) == pytest.approx(mean, abs=1e-9)
    assert second_moment(function) == pytest.approx(square, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", 0.5),
        ("sigmoid", 0.2933790),
        ("tanh", 0.3942945),
        ("gelu", 0.4252215),
        ("silu", 0.3557755),
        ("elu", 0.6449454),
    ],
)
def test_moments_by_monte_carlo_and_known_numbers(name: str, expected: float) -> None:
    assert second_moment(ACTIVATIONS[name]) == pytest.approx(expected, abs=1e-7)
    sampled = ACTIVATIONS[name](gaussian(400_000)).square().mean().item()
    assert sampled == pytest.approx(expected, rel=0.01)
    assert gain(ACTIVATIONS[name]) == pytest.approx(expected**-0.5, rel=1e-6)


def test_second_moment_at_another_variance() -> None:
    assert second_moment(F.relu, 3.0) == pytest.approx(1.5)
    sampled = (2.0 * gaussian(400_000)).tanh().square().mean().item()
    assert second_moment(torch.tanh, 4.0) == pytest.approx(sampled, rel=0.01)


def test_selu_by_a_root_finder() -> None:
    def conditions(unknown: np.ndarray) -> list[float]:
        scale, alpha = unknown

        def selu(z: float) -> float:
            return scale * (z if z > 0 else alpha * math.expm1(z))

        def expectation(power: int) -> float:
            return sum(
                integrate.quad(lambda z: selu(z) ** power * stats.norm.pdf(z), *half)[0]
                for half in ((-12, 0), (0, 12))
            )

        return [expectation(1), expectation(2) - 1]

    root = optimize.root(conditions, [1.0, 1.0], tol=1e-10)
    assert root.success
    assert solve_selu() == pytest.approx(tuple(root.x), abs=1e-7)
    assert solve_selu() == pytest.approx((1.0507009873554805, 1.6732632423543772))


def test_slopes() -> None:
    assert slope_moment(F.relu) == pytest.approx(0.5)
    z = gaussian(400_000)
    sampled = (1 - (1.5 * z).tanh().square()).square().mean().item()
    assert slope_moment(torch.tanh, 1.5**2) == pytest.approx(sampled, rel=0.01)


def test_the_depth_map_predicts_a_wide_network() -> None:
    predicted = depth_map(torch.tanh, 1.7, 6)
    x, measured = gaussian(8, 1500), [1.0]
    for layer in range(6):
        weight = gaussian(1500, 1500, seed=layer + 1) * (1.7 / 1500) ** 0.5
        x = torch.tanh(x @ weight.T)
        measured.append(x.square().mean().item())
    assert measured == pytest.approx(predicted, rel=0.04)


# Norms.


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 99))
def test_norms_are_those_of_torch(batch: int, dim: int, seed: int) -> None:
    x = 3 * gaussian(batch, 3, dim, seed=seed) + 1
    assert torch.allclose(standardize(x, eps=1e-5), F.layer_norm(x, (dim,), eps=1e-5))
    assert torch.allclose(rms_norm(x, eps=1e-5), F.rms_norm(x, (dim,), eps=1e-5))
    unit = x / x.norm(dim=-1, keepdim=True)
    assert torch.allclose(rms_norm(x), dim**0.5 * unit)
    assert torch.allclose(standardize(x), rms_norm(center(x)))


def test_each_norm_looks_at_its_axes() -> None:
    x = 3 * gaussian(4, 5, 6, 7) + 1
    theirs = {
        "batch": F.batch_norm(x, None, None, training=True, eps=1e-5),
        "instance": F.instance_norm(x, eps=1e-5),
        "layer": F.layer_norm(x, (5, 6, 7), eps=1e-5),
    }
    assert set(AXES) == set(theirs)
    for name, dims in AXES.items():
        assert torch.allclose(standardize(x, dims, eps=1e-5), theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_squares_in_single_precision(dtype: torch.dtype) -> None:
    x = torch.full((1, 4), 300.0, dtype=dtype)  # in FP16, 300² is infinite
    assert torch.equal(rms_norm(x), torch.ones_like(x))
    x = (30 * gaussian(5, 64)).to(dtype)
    normed = rms_norm(x, eps=1e-5)
    assert normed.dtype == dtype
    assert torch.allclose(normed, F.rms_norm(x, (64,), eps=1e-5), rtol=1e-2)


def test_a_row_of_zeros_needs_an_eps() -> None:
    zeros = torch.zeros(1, 4)
    assert rms_norm(zeros).isnan().all()
    assert torch.equal(rms_norm(zeros, eps=1e-5), zeros)


def test_dynamic_tanh() -> None:
    assert dynamic_tanh(torch.tensor(2.0), 0.5).item() == pytest.approx(math.tanh(1))


# The scale of attention.


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.floats(0.1, 8), st.integers(0, 99))
def test_jacobian_norm_by_autograd(keys: int, spread: float, seed: int) -> None:
    scores = spread * gaussian(2, keys, seed=seed)
    for row, norm in zip(scores, softmax_jacobian_norm(scores), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(-1), row)
        assert norm.item() == pytest.approx(jacobian.norm().item(), abs=1e-14)


@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float32, 10), (torch.float64, 40), (torch.float64, 300)]
)
def test_jacobian_norm_of_a_saturated_row(dtype: torch.dtype, gap: int) -> None:
    # Of two keys: p (1 - p) in all four entries.
    exact = 2 * math.exp(-gap) / (1 + math.exp(-gap)) ** 2
    scores = torch.tensor([[0, -gap], [-gap, 0]], dtype=dtype)
    rel = 10 * torch.finfo(dtype).eps
    norms = softmax_jacobian_norm(scores).tolist()
    assert norms == pytest.approx([exact] * 2, rel=rel, abs=0)


def test_jacobian_norm_of_even_rows() -> None:
    even = torch.zeros(1, 4, dtype=torch.float64)  # ‖J‖² = (n - 1) / n²
    assert softmax_jacobian_norm(even).item() == pytest.approx(3**0.5 / 4, rel=1e-15)
    assert softmax_jacobian_norm(torch.tensor([[3.0]])).item() == 0


@pytest.mark.parametrize("dim", [16, 64, 256, 1024])
def test_the_variance_of_a_score_is_d(dim: int) -> None:
    assert random_scores(dim, 300, 300).var().item() == pytest.approx(dim, rel=0.05)
    aligned = random_scores(dim, 200, 200, align=1.0).diagonal().mean().item()
    assert aligned == pytest.approx(dim, rel=0.05)
    half = random_scores(dim, 400, 400, align=0.5)
    assert half.diagonal().mean().item() == pytest.approx(dim / 2, rel=0.15)
    others = half[~torch.eye(400, dtype=torch.bool)]
    assert others.var().item() == pytest.approx(dim, rel=0.1)


def test_soft_cap() -> None:
    scores = torch.tensor([-1e4, -0.01, 0.0, 0.01, 1e4], dtype=torch.float64)
    capped = soft_cap(scores, 50.0)
    assert capped.tolist() == pytest.approx([-50, -0.01, 0, 0.01, 50], rel=1e-6)
    small = soft_cap(torch.tensor(0.3), 0.5).item()
    assert small == pytest.approx(0.5 * math.tanh(0.6))


def test_qk_norm_bounds_the_scores() -> None:
    query, key = 100 * gaussian(6, 8), gaussian(7, 8, seed=1)
    scores = qk_norm_scores(query, key, 0.5)
    cosine = F.cosine_similarity(query[:, None], key[None], dim=-1)
    assert torch.allclose(scores, 0.5 * 8 * cosine)


def test_qk_clip_puts_the_largest_score_at_the_limit() -> None:
    x = gaussian(20, 16)
    query, key = 5 * gaussian(8, 16, seed=1), 5 * gaussian(8, 16, seed=2)

    def largest() -> float:
        return ((x @ query.T) @ (x @ key.T).T).max().item()

    ratio = query.norm() / key.norm()
    qk_clip_(query, key, largest(), 100.0)
    assert largest() == pytest.approx(100.0)
    assert query.norm() / key.norm() == pytest.approx(ratio)  # shared evenly
    kept = query.clone()
    qk_clip_(query, key, 99.0, 100.0)
    assert torch.equal(query, kept)


def test_t5_draws_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=8, d_model=256, d_kv=64, num_heads=8, num_layers=1, d_ff=8
    )
    model = transformers.T5EncoderModel(config)
    attention = model.encoder.block[0].layer[0].SelfAttention
    drawn = (attention.q.weight.std().item(), attention.k.weight.std().item())
    assert t5_query_key_std(256, 64) == pytest.approx(drawn, rel=0.02)
