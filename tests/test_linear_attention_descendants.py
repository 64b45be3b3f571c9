"""Decay, gates, the delta rule, and the Triton kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from underhood.linear_attention import (
    compile_kernel,
    delta_rule,
    future_leak,
    gated_linear_attention,
    kernel_mode,
    linear_attention,
    recall_error,
    retention,
    triton_linear_attention,
    wy_factor,
)

CODE = str(Path(__file__).parents[1] / "code")
FORMS = ("quadratic", "recurrent", "chunked", "scan")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(kernel_mode() == "none", reason="no Triton")


def inputs(length: int, seed: int = 0, *, batch: int = 1, heads: int = 2) -> dict:
    """Query, unit keys, values, gates and betas, float64."""
    torch.manual_seed(seed)

    def normal(*last: int) -> Tensor:
        return torch.randn(batch, heads, length, *last, dtype=torch.float64)

    return {
        "query": normal(4),
        "key": F.normalize(normal(4), dim=-1),
        "value": normal(3),
        "log_decay": F.logsigmoid(normal(4) + 2),
        "beta": 2 * normal().sigmoid(),
    }


def by_steps(
    x: dict, gates: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """S <- (I - beta k kᵀ) diag(gate) S + beta k vᵀ, one matrix at a time."""
    query, key, value = x["query"], x["key"], x["value"]
    batch, heads, length, dim = key.shape
    out = torch.zeros_like(value)
    last = torch.zeros(batch, heads, dim, value.shape[-1], dtype=key.dtype)
    for b in range(batch):
        for h in range(heads):
            state = last[b, h]
            for t in range(length):
                k, v = key[b, h, t], value[b, h, t]
                strength = 1.0 if beta is None else beta[b, h, t]
                state = torch.diag(gates[b, h, t].expand(dim)) @ state
                if beta is not None:
                    eye = torch.eye(dim, dtype=key.dtype)
                    state = (eye - strength * torch.outer(k, k)) @ state
                state = state + strength * torch.outer(k, v)
                out[b, h, t] = state.T @ query[b, h, t]
            last[b, h] = state
    return out, last


def qkv(x: dict) -> tuple[Tensor, Tensor, Tensor]:
    return x["query"], x["key"], x["value"]


def agree(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    return all(
        torch.allclose(g, e, rtol=0, atol=1e-10)
        for g, e in zip(got, expected, strict=True)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 8, 21])
@pytest.mark.parametrize(("batch", "heads"), [(1, 2), (2, 1)])
def test_gates_per_dimension_are_the_steps(
    form: str, length: int, batch: int, heads: int
) -> None:
    x = inputs(length, batch=batch, heads=heads)
    got = gated_linear_attention(*qkv(x), x["log_decay"], form=form, chunk_size=8)
    assert agree(got, by_steps(x, x["log_decay"].exp()))


@pytest.mark.parametrize("form", FORMS)
def test_one_gate_per_head_is_the_steps(form: str) -> None:
    x = inputs(21)
    gate = x["log_decay"][..., :1]
    got = gated_linear_attention(*qkv(x), gate, form=form, chunk_size=8)
    assert agree(got, by_steps(x, gate.exp()))


@pytest.mark.parametrize("form", FORMS)
def test_retention_is_the_steps_and_its_published_decays(form: str) -> None:
    x = inputs(21)
    decay = torch.tensor([1 - 1 / 32, 1 - 1 / 64], dtype=torch.float64)
    gates = decay[None, :, None, None].expand(1, 2, 21, 1)
    got = retention(*qkv(x), form=form, chunk_size=8)
    assert agree(got, by_steps(x, gates))


@pytest.mark.parametrize("form", FORMS)
def test_without_decay_it_is_linear_attention(form: str) -> None:
    x = inputs(21)
    got, _ = gated_linear_attention(
        *qkv(x), torch.zeros_like(x["log_decay"]), form=form, chunk_size=8
    )
    expected = linear_attention(
        *qkv(x), feature_map="identity", causal=True, normalize=False
    )
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 8, 21])
@pytest.mark.parametrize(("batch", "heads"), [(1, 2), (2, 1)])
def test_delta_rule_is_the_steps(
    form: str, length: int, batch: int, heads: int
) -> None:
    x = inputs(length, batch=batch, heads=heads)
    ones = torch.ones_like(x["beta"])[..., None]
    got = delta_rule(*qkv(x), x["beta"], form=form, chunk_size=8)
    assert agree(got, by_steps(x, ones, x["beta"]))


@pytest.mark.parametrize("form", FORMS)
def test_gated_delta_rule_is_the_steps(form: str) -> None:
    x = inputs(21)
    gate = x["log_decay"][..., 0]
    got = delta_rule(*qkv(x), x["beta"], gate, form=form, chunk_size=8)
    assert agree(got, by_steps(x, gate.exp()[..., None], x["beta"]))


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(2, 40),
    cut=st.floats(0, 1),
    chunk_size=st.integers(1, 48),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
def test_descendants_may_be_split_anywhere(
    length: int, cut: float, chunk_size: int, form: str, seed: int
) -> None:
    x = inputs(length, seed=seed)
    at = min(max(1, round(cut * length)), length - 1)
    options = {"form": form, "chunk_size": chunk_size}
    runs = {
        gated_linear_attention: (*qkv(x), x["log_decay"]),
        delta_rule: (*qkv(x), x["beta"], x["log_decay"][..., 0]),
    }
    for function, sequences in runs.items():
        whole = function(*sequences, **options)
        head, state = function(*(s[:, :, :at] for s in sequences), **options)
        tail, last = function(
            *(s[:, :, at:] for s in sequences), initial_state=state, **options
        )
        assert agree((torch.cat([head, tail], 2), last), whole)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_descendants(form: str) -> None:
    x = inputs(9)
    for function, names in (
        (gated_linear_attention, ("query", "key", "value", "log_decay")),
        (delta_rule, ("query", "key", "value", "beta")),
    ):
        grads = []
        for each in (form, "recurrent"):
            leaves = [x[name].clone().requires_grad_() for name in names]
            out, _ = function(*leaves, form=each, chunk_size=4)
            out.square().sum().backward()
            grads.append([leaf.grad for leaf in leaves])
        assert agree(tuple(grads[0]), tuple(grads[1]))


@pytest.mark.parametrize("form", FORMS)
def test_descendants_are_causal(form: str) -> None:
    def delta(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return delta_rule(q, F.normalize(k, dim=-1), v, k[..., 0] * 0 + 1, form=form)[0]

    assert future_leak(lambda q, k, v: retention(q, k, v, form=form)[0]) == 0
    # The triangular solver of a whole block may round differently.
    assert future_leak(delta) < 1e-12


def test_strong_decay_does_not_overflow() -> None:
    x = inputs(64)
    strong = torch.full_like(x["log_decay"], -50.0)  # exp(64 * 50) has no float64
    for form in FORMS:
        got = gated_linear_attention(*qkv(x), strong, form=form)
        assert agree(got, by_steps(x, strong.exp()))


def test_wy_factor_is_the_product() -> None:
    x = inputs(12)
    product = torch.eye(4, dtype=torch.float64)
    key, beta = x["key"][0, 0], x["beta"][0, 0]
    for k, b in zip(key, beta, strict=True):
        product = (torch.eye(4, dtype=torch.float64) - b * torch.outer(k, k)) @ product
    got = torch.eye(4, dtype=torch.float64) - key.T @ wy_factor(key, beta)
    assert torch.allclose(got, product, rtol=0, atol=1e-10)


def test_delta_rule_overwrites_what_it_is_told_again() -> None:
    key = torch.zeros(1, 1, 2, 4)
    key[..., 0] = 1.0  # the same key twice
    value = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, None]
    out, _ = delta_rule(key, key, value, torch.ones(1, 1, 2))
    assert out[0, 0, 1].tolist() == [0.0, 1.0]
    added, _ = gated_linear_attention(key, key, value, torch.zeros(1, 1, 2, 1))
    assert added[0, 0, 1].tolist() == [1.0, 1.0]


def test_delta_rule_recalls_better() -> None:
    def delta(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        _, state = delta_rule(q, k, v, torch.ones(k.shape[:3]))
        return q @ state

    errors = [recall_error(delta, pairs, 32) for pairs in (8, 32, 128)]
    assert errors == pytest.approx([0.37, 0.76, 1.21], abs=0.04)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"log_decay": torch.full((1, 2, 6, 4), 0.1)}, "log_decay"),
        ({"log_decay": torch.full((1, 2, 6, 4), -torch.inf)}, "log_decay"),
        ({"log_decay": torch.zeros(1, 2, 6, 3)}, "log_decay"),
        ({"initial_state": torch.zeros(1, 2, 4, 9)}, "initial_state"),
        ({"form": "auto"}, "form"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_gates_are_refused_by_name(change: dict, match: str) -> None:
    x = inputs(6)
    given_ = {name: x[name] for name in ("query", "key", "value", "log_decay")}
    with pytest.raises(ValueError, match=match):
        gated_linear_attention(**(given_ | change))


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_its_state_in_float32(form: str) -> None:
    x = inputs(200)
    half = [each.bfloat16() for each in qkv(x)]
    exact = [each.double() for each in half]
    rounding = torch.finfo(torch.bfloat16).eps
    calls = {
        "gated": lambda *a: gated_linear_attention(*a, x["log_decay"], form=form),
        "retention": lambda *a: retention(*a, form=form),
        "delta": lambda *a: delta_rule(
            *a, x["beta"], x["log_decay"][..., 0], form=form
        ),
    }
    for name, call in calls.items():
        out, state = call(*half)
        expected, last = call(*exact)
        assert out.dtype == torch.bfloat16 and state.dtype == torch.float32, name
        assert (out - expected).abs().max() < rounding * expected.abs().max(), name
        assert torch.allclose(state.double(), last, rtol=1e-4, atol=1e-4), name


def test_decays_near_one_still_forget_in_bfloat16() -> None:
    ones = torch.ones(1, 8, 1000, 1, dtype=torch.bfloat16)
    out, _ = retention(ones, ones, ones)
    decay = 1 - 2.0 ** (-5 - torch.arange(8, dtype=torch.float64))
    expected = (1 - decay**1000) / (1 - decay)  # of a geometric series
    assert out[0, :, -1, 0].double() == pytest.approx(expected, rel=2**-8)


def test_beta_and_decay_are_refused_by_name() -> None:
    x = inputs(6)
    with pytest.raises(ValueError, match="beta"):
        delta_rule(*qkv(x), x["beta"][..., None])
    for option in ({"form": "auto"}, {"chunk_size": 0}, {"initial_state": x["key"]}):
        with pytest.raises(ValueError, match=next(iter(option))):
            delta_rule(*qkv(x), x["beta"], **option)
    with pytest.raises(ValueError, match="log_decay"):
        delta_rule(*qkv(x), x["beta"], x["beta"])
    with pytest.raises(ValueError, match=r"log_decay: got .*, allowed is \(1, 2, 6\)"):
        delta_rule(*qkv(x), x["beta"], x["log_decay"])
    for decay in (torch.ones(3), torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.5])):
        with pytest.raises(ValueError, match=r"^decay: allowed is shape \(2,\)"):
            retention(*qkv(x), decay=decay)


def test_a_query_of_another_length_is_refused() -> None:
    x = inputs(6)
    one = x["query"][:, :, :1]  # would broadcast
    calls = [
        lambda: gated_linear_attention(one, *qkv(x)[1:], x["log_decay"]),
        lambda: delta_rule(one, *qkv(x)[1:], x["beta"]),
        lambda: retention(one, *qkv(x)[1:]),
        lambda: triton_linear_attention(*(each.float() for each in (one, *qkv(x)[1:]))),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="query: got length 1"):
            call()


# The kernel


def for_kernel(
    length: int, dim: int, value_dim: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    torch.manual_seed(length)
    shapes = [(1, 2, length, d) for d in (dim, dim, value_dim)]
    return [torch.randn(shape).to(DEVICE, dtype) for shape in shapes]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """The largest error, in units of the largest value."""
    return ((got.double() - exact).abs().max() / exact.abs().max()).item()


@needs_triton
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("length", "dim", "value_dim"), [(1, 16, 16), (64, 16, 32), (97, 24, 72)]
)
def test_kernel_is_the_quadratic_form(
    length: int, dim: int, value_dim: int, normalize: bool
) -> None:
    x = for_kernel(length, dim, value_dim)
    exact = [each.double() for each in x]
    expected, last = linear_attention(
        *exact, causal=True, form="quadratic", normalize=normalize, return_state=True
    )
    got, state = triton_linear_attention(*x, normalize=normalize, chunk_size=32)
    assert relative_error(got, expected) < 2e-6
    assert relative_error(state.memory, last.memory) < 2e-6
    assert relative_error(state.normalizer, last.normalizer) < 2e-6


@needs_triton
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("length", [33, 64])
def test_kernel_with_decay_is_retention(length: int, normalize: bool) -> None:
    x = for_kernel(length, 16, 16)
    decay = torch.tensor([0.9, 1e-30], device=DEVICE)  # the second one underflows
    got, state = triton_linear_attention(
        *x, decay=decay, normalize=normalize, chunk_size=32
    )
    q, k, v = (each.double() for each in x)
    ones = torch.ones_like(v[..., :1])  # their sum is the normalizer
    features = (F.elu(q) + 1, F.elu(k) + 1, torch.cat([v, ones], -1))
    out, last = retention(*features, decay=decay, form="recurrent")
    expected = out[..., :-1] / (out[..., -1:] if normalize else 1)
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.cat([state.memory, state.normalizer[..., None]], -1)
    assert torch.allclose(found.double(), last, rtol=1e-5, atol=1e-5)


@needs_triton
def test_kernel_gives_zero_where_weights_cancel() -> None:
    q, k, v = for_kernel(2, 16, 16)
    q[:, :, 1], k[:, :, 1] = q[:, :, 0], -k[:, :, 0]
    got, _ = triton_linear_attention(q, k, v, feature_map="identity")
    assert torch.equal(got[:, :, 1], torch.zeros_like(v[:, :, 1]))


@needs_triton
def test_kernel_takes_random_features() -> None:
    x = for_kernel(40, 16, 16)
    got, _ = triton_linear_attention(*x, feature_map="favor+", chunk_size=32)
    exact = (each.double() for each in x)
    expected = linear_attention(*exact, feature_map="favor+", causal=True)
    assert relative_error(got, expected) < 1e-5
    with pytest.raises(ValueError, match="feature_map: got 260 features, max 256"):
        triton_linear_attention(*for_kernel(16, 65, 16), feature_map="favor+")


@needs_triton
def test_kernel_takes_a_state() -> None:
    x = for_kernel(50, 16, 16)
    whole, last = triton_linear_attention(*x, chunk_size=16)
    head, state = triton_linear_attention(
        *(each[:, :, :23] for each in x), chunk_size=16
    )
    tail, end = triton_linear_attention(
        *(each[:, :, 23:] for each in x), chunk_size=16, initial_state=state
    )
    assert torch.allclose(torch.cat([head, tail], 2), whole, rtol=1e-5, atol=1e-5)
    assert torch.allclose(end.memory, last.memory, rtol=1e-5, atol=1e-4)


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
def test_kernel_in_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    x = for_kernel(70, 16, 16, dtype)
    got, _ = triton_linear_attention(*x, chunk_size=32)
    expected = linear_attention(*(each.double() for each in x), causal=True)
    assert got.dtype == dtype
    assert (got.double() - expected).abs().max() < tolerance * expected.abs().max()


@needs_triton
def test_kernel_writes_between_the_fences(monkeypatch) -> None:
    x, wholes = for_kernel(33, 24, 20), []

    def fenced(like: Tensor) -> Tensor:
        wholes.append(torch.full((like.numel() + 2000,), torch.nan, device=DEVICE))
        return wholes[-1][1000:-1000].view(like.shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", fenced)
        triton_linear_attention(*x, chunk_size=32)
    assert len(wholes) == 3
    for whole in wholes:
        assert whole[1000:-1000].isfinite().all()
        assert whole[:1000].isnan().all() and whole[-1000:].isnan().all()


@needs_triton
def test_kernel_refuses() -> None:
    x = for_kernel(16, 16, 16)
    with pytest.raises(TypeError, match="float64"):
        triton_linear_attention(*(each.double() for each in x))
    with pytest.raises(RuntimeError, match="no_grad"):
        triton_linear_attention(x[0].requires_grad_(), x[1], x[2])
    x = for_kernel(16, 16, 16)
    with pytest.raises(ValueError, match="chunk_size"):
        triton_linear_attention(*x, chunk_size=48)
    with pytest.raises(ValueError, match="decay"):
        triton_linear_attention(*x, decay=torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="tokenwise"):
        triton_linear_attention(*x, feature_map="efficient")


@needs_triton
def test_chunks_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    from underhood.linear_attention import kernel

    x, tried = for_kernel(70, 16, 16), []
    whole, _ = triton_linear_attention(*x, chunk_size=16)
    run = kernel.chunked_forward

    class SmallGPU:
        def __getitem__(self, grid: tuple) -> object:
            def launch(*args: object, CHUNK: int, **fixed: object) -> None:
                tried.append(CHUNK)
                if limit < CHUNK:
                    raise OutOfResources(CHUNK, limit, "shared memory")
                run[grid](*args, CHUNK=CHUNK, **fixed)

            return launch

    monkeypatch.setattr(kernel, "chunked_forward", SmallGPU())
    limit = 32
    got, _ = triton_linear_attention(*x, chunk_size=128)
    assert tried == [128, 64, 32]
    assert torch.allclose(got, whole, rtol=1e-5, atol=1e-5)
    limit = 8
    with pytest.raises(OutOfResources):
        triton_linear_attention(*x, chunk_size=16)


@needs_triton
def test_many_features_fit_an_a100_in_shorter_chunks() -> None:
    options = {"num_features": 256, "capability": 80}
    assert compile_kernel(**options)["shared_bytes"] > 163 * 1024
    assert compile_kernel(chunk_size=32, **options)["shared_bytes"] < 163 * 1024


@needs_triton
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_kernel_compiles_for_hopper(dtype: str) -> None:
    found = compile_kernel(dtype, 64, decay=True)
    assert 0 < found["shared_bytes"] < 227 * 1024
    # Tensor cores multiply halves; float32 at full precision they cannot.
    assert (found["wgmma"] + found["mma.sync"] > 0) == (dtype != "float32")


def test_package_needs_no_triton() -> None:
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, underhood.linear_attention as la\n"
        "x = torch.ones(1, 1, 3, 2)\n"
        "assert la.linear_attention(x, x, x).shape == x.shape\n"
        "assert 'triton.language' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": CODE}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda", reason="the compiler has its GPU")
def test_triton_imported_too_early_is_explained() -> None:
    script = (
        "import torch, triton, underhood.linear_attention as la\n"
        "x = torch.ones(1, 1, 16, 16)\n"
        "try:\n    la.triton_linear_attention(x, x, x)\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": CODE}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "import this package first" in done.stdout
