"""linear_attention: four forms, one result; feature maps; state in and out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from underhood.linear_attention import (
    FEATURE_MAPS,
    FeatureMap,
    State,
    attention_by_definition,
    effective_support,
    favor_features,
    future_leak,
    gaussian_directions,
    linear_attention,
    peak_bytes,
    recall_error,
    relatives,
    row_weights,
)

FORMS = ("quadratic", "recurrent", "chunked", "scan")
TOKENWISE = [name for name, phi in FEATURE_MAPS.items() if phi.tokenwise] + ["favor+"]
POSITIVE = ["elu+1", "relu2", "softmax", "taylor", "favor+"]


def inputs(
    length: int, dim: int = 5, value_dim: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dims = (dim, dim, value_dim)
    return tuple(
        torch.randn(2, 2, length, d, dtype=torch.float64, generator=generator)
        for d in dims
    )


def elu_similarity(q: Tensor, k: Tensor) -> Tensor:
    """Written out, apart from the code under test."""
    phi = [torch.where(x > 0, x + 1, x.exp()) for x in (q, k)]
    return (phi[0] * phi[1]).sum()


SIMILARITIES = {
    "elu+1": elu_similarity,
    "relu2": lambda q, k: (q.clamp(min=0) ** 2 * k.clamp(min=0) ** 2).sum(),
    "softmax": lambda q, k: (q.exp() * k.exp()).sum() / (q.exp().sum() * k.exp().sum()),
    "taylor": lambda q, k: 1 + torch.cosine_similarity(q, k, dim=0),
}


def of_first_head(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [each[0, 0] for each in tensors]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_each_form_is_the_definition(name: str, form: str, causal: bool) -> None:
    qkv = inputs(13)
    expected = attention_by_definition(
        *of_first_head(qkv), SIMILARITIES[name], causal=causal
    )
    got = linear_attention(
        *qkv, feature_map=name, causal=causal, form=form, chunk_size=4
    )
    # A row of squared relus may have no weight at all: 0 here, 0/0 there.
    assert torch.allclose(got[0, 0], expected.nan_to_num(0), rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 70),
    dim=st.integers(1, 6),
    value_dim=st.integers(1, 6),
    chunk_size=st.integers(1, 80),
    causal=st.booleans(),
    name=st.sampled_from(POSITIVE),
    seed=st.integers(0, 99),
)
def test_forms_agree_for_any_shape(
    length: int,
    dim: int,
    value_dim: int,
    chunk_size: int,
    causal: bool,
    name: str,
    seed: int,
) -> None:
    qkv = inputs(length, dim, value_dim, seed)
    options = {"feature_map": name, "causal": causal, "chunk_size": chunk_size}
    first, state = linear_attention(
        *qkv, form="quadratic", return_state=True, **options
    )
    for form in FORMS[1:]:
        other, last = linear_attention(*qkv, form=form, return_state=True, **options)
        assert torch.allclose(first, other, rtol=1e-10, atol=1e-10)
        assert torch.allclose(state.memory, last.memory, atol=1e-10)
        assert torch.allclose(state.normalizer, last.normalizer, atol=1e-10)


@pytest.mark.parametrize("name", TOKENWISE)
@pytest.mark.parametrize("causal", [False, True])
def test_forms_agree_unnormalized(name: str, causal: bool) -> None:
    qkv = inputs(37)
    options = {"feature_map": name, "causal": causal, "normalize": False}
    first = linear_attention(*qkv, form="quadratic", **options)
    for form in FORMS[1:]:
        other = linear_attention(*qkv, form=form, chunk_size=8, **options)
        assert torch.allclose(first, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_with_the_definition(form: str, causal: bool) -> None:
    qkv = inputs(11)
    expected = [x.clone().requires_grad_() for x in qkv]
    phi = [torch.where(x > 0, x + 1, x.exp()) for x in expected[:2]]
    weights = phi[0] @ phi[1].mT
    weights = weights.tril() if causal else weights
    ((weights / weights.sum(-1, keepdim=True)) @ expected[2]).square().sum().backward()
    given_ = [x.clone().requires_grad_() for x in qkv]
    out = linear_attention(*given_, causal=causal, form=form, chunk_size=4)
    out.square().sum().backward()
    for e, g in zip(expected, given_, strict=True):
        assert torch.allclose(e.grad, g.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [1, 7, 16, 30])
def test_a_sequence_may_be_split_anywhere(form: str, cut: int) -> None:
    qkv = inputs(31)
    options = {"causal": True, "form": form, "chunk_size": 8}
    whole = linear_attention(*qkv, **options)
    head, state = linear_attention(
        *(x[:, :, :cut] for x in qkv), return_state=True, **options
    )
    tail = linear_attention(
        *(x[:, :, cut:] for x in qkv), initial_state=state, **options
    )
    assert torch.allclose(torch.cat([head, tail], 2), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_up_in_float32(dtype: torch.dtype, form: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1024, 64).to(dtype)
    v = torch.rand(1, 1, 1024, 64).to(dtype)  # a mean that is not 0
    exact = linear_attention(*(x.double() for x in (q, k, v)), causal=True)
    out, state = linear_attention(q, k, v, causal=True, form=form, return_state=True)
    assert out.dtype == dtype and state.memory.dtype == torch.float32
    rounding = torch.finfo(dtype).eps / 2  # of the output
    assert ((out - exact) / exact).abs().max() < 1.001 * rounding
    more = linear_attention(q, k, v, form=form, causal=True, initial_state=state)
    assert more.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_cross_attention_from_a_state_is_the_whole(form: str) -> None:
    q, k, v = inputs(20)
    q = q[:, :, :6]
    _, state = linear_attention(
        q, k[:, :, :9], v[:, :, :9], form=form, return_state=True
    )
    rest = linear_attention(q, k[:, :, 9:], v[:, :, 9:], form=form, initial_state=state)
    assert torch.allclose(
        rest, linear_attention(q, k, v, form="quadratic"), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TOKENWISE)
def test_the_last_token_does_not_reach_back(form: str, name: str) -> None:
    leak = future_leak(
        lambda q, k, v: linear_attention(
            q,
            k,
            v,
            feature_map=name,
            causal=True,
            form=form,
            chunk_size=8,
            normalize=name != "identity",
        )
    )
    assert leak == 0


def test_softmax_over_the_tokens_leaks_and_is_refused() -> None:
    efficient = FEATURE_MAPS["efficient"]
    forced = FeatureMap(efficient.query, efficient.key)  # says that it is tokenwise
    # Dividing each row by its sum does not help: each feature has its own leak.
    for normalize in (True, False):
        leak = future_leak(
            lambda q, k, v, normalize=normalize: linear_attention(
                q, k, v, feature_map=forced, causal=True, normalize=normalize
            )
        )
        assert leak > 0.01
    for option in ({"causal": True}, {"return_state": True}):
        with pytest.raises(ValueError, match="feature_map"):
            linear_attention(*inputs(4), feature_map="efficient", **option)


def test_efficient_attention_needs_no_normalizer() -> None:
    q, k, v = inputs(20)
    expected = q.softmax(-1) @ (k.softmax(-2).mT @ v)
    for normalize in (True, False):
        got = linear_attention(q, k, v, feature_map="efficient", normalize=normalize)
        assert torch.allclose(got, expected, rtol=0, atol=1e-10)


def test_row_without_weight_is_zero() -> None:
    q, k, v = inputs(4)
    got = linear_attention(-q.abs(), k, v, feature_map="relu", causal=True)
    assert torch.equal(got, torch.zeros_like(v))


def test_weights_that_cancel_give_zero() -> None:
    q, k, v = inputs(2)
    k[:, :, 1] = -k[:, :, 0]
    q.requires_grad_()
    got = linear_attention(q, k, v, feature_map="identity")
    assert torch.equal(got, torch.zeros_like(v))
    got.sum().backward()
    assert torch.equal(q.grad, torch.zeros_like(q))


@pytest.mark.parametrize("orthogonal", [True, False])
def test_favor_is_unbiased(orthogonal: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    scale = 0.5 / (q + k).square().sum().item()  # keeps the tail of exp light
    draws = []
    for seed in range(1600):
        phi = favor_features(
            8, 64, orthogonal=orthogonal, softmax_scale=scale, seed=10_000 + seed
        )
        draws.append((phi.query(q[None]) @ phi.key(k[None]).mT).item())
    got = torch.tensor(draws, dtype=torch.float64)
    expected = math.exp(scale * (q @ k).item())
    assert abs(got.mean().item() - expected) < 4 * got.std().item() / 40
    # Per independent feature: exp(q·k)² (exp|q+k|² - 1), and |q+k|² is 0.5.
    variance = expected**2 * math.expm1(0.5) / 64
    if orthogonal:
        assert got.var().item() < 0.9 * variance
    else:
        assert got.var().item() == pytest.approx(variance, rel=0.15)


def test_orthogonal_directions_are_orthogonal_and_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = gaussian_directions(8, 8, orthogonal=True, generator=generator)
    unit = F.normalize(rows, dim=-1)
    assert torch.allclose(unit @ unit.mT, torch.eye(8, dtype=torch.float64), atol=1e-12)
    many = torch.cat(
        [
            gaussian_directions(4, 4, orthogonal=True, generator=generator)
            for _ in range(3000)
        ]
    )
    assert many.mean(0).abs().max() < 0.04
    assert (many.mT @ many / len(many) - torch.eye(4)).abs().max() < 0.06


@pytest.mark.parametrize(
    ("name", "rank"), [("identity", 5), ("elu+1", 5), ("taylor", 6), ("softmax", 5)]
)
def test_rank_is_the_number_of_features(name: str, rank: int) -> None:
    q, k, _ = inputs(40)
    weights = row_weights(q, k, name)
    assert set(torch.linalg.matrix_rank(weights).flatten().tolist()) == {rank}


def test_effective_support_of_known_rows() -> None:
    rows = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    found = effective_support(rows.expand(2, 5, 3, 4))
    assert torch.allclose(found, torch.tensor([4.0, 1, 2]).expand(2, 5, 3))


def test_recall_error_of_linear_attention_follows_the_formula() -> None:
    def read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.mT @ v)

    for pairs, dim in ((8, 32), (64, 32), (32, 64)):
        expected = math.sqrt((pairs - 1) / dim)
        assert recall_error(read, pairs, dim) == pytest.approx(expected, rel=0.05)


def test_peak_bytes_counts_what_is_alive_at_once() -> None:
    x = torch.zeros(1000)  # 4000 bytes, not counted: it was there before
    assert peak_bytes(lambda: x + 1) == 4000
    assert peak_bytes(lambda: (x + 1) * 2) == 8000
    assert peak_bytes(lambda: [x + 1 for _ in range(5)] and None) == 20000
    assert peak_bytes(lambda: x[:10].view(2, 5).mT) == 0

    def one_after_the_other() -> None:
        for _ in range(5):
            x + 1

    assert peak_bytes(one_after_the_other) == 4000


def test_softmax_attention_is_small_to_the_allocator_too() -> None:
    """`peak_bytes` sees no scratch memory inside an operator; the allocator does."""
    q, k, v = torch.randn(3, 1, 1, 2048, 64).unbind()

    def allocated(run: Callable[[], Tensor]) -> int:
        with (
            torch.no_grad(),
            profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
        ):
            run()
        events = profiler.profiler.kineto_results.events()
        changes = [e for e in events if e.name() == "[memory]"]
        now = peak = 0
        for event in sorted(changes, key=lambda e: e.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        return peak

    matrix = 4 * 2048**2
    assert allocated(lambda: (q @ k.mT).softmax(-1) @ v) > matrix  # it can tell
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread has a buffer of its own for the tiles
    try:
        fused = allocated(
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        )
    finally:
        torch.set_num_threads(threads)
    assert fused < matrix / 10


# Related work: which of them can be causal?

DENSE = {
    "local": lambda q, k, v, causal: relatives.masked_attention(
        q, k, v, relatives.local_pattern(32, 4, causal=causal)
    ),
    "strided": lambda q, k, v, causal: relatives.masked_attention(
        q, k, v, relatives.strided_pattern(32, 4, causal=causal)
    ),
    "pooled": lambda q, k, v, causal: relatives.pooled_attention(
        q, k, v, stride=4, causal=causal
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_patterns_and_pooling_can_be_causal(name: str) -> None:
    attention = DENSE[name]
    assert future_leak(lambda q, k, v: attention(q, k, v, True)) == 0
    assert future_leak(lambda q, k, v: attention(q, k, v, False)) > 0.001


def test_masked_and_pooled_attention_equal_torch() -> None:
    q, k, v = inputs(12, 6, 4)
    visible = relatives.local_pattern(12, 3, causal=True)
    got = relatives.masked_attention(q, k, v, visible)
    expected = F.scaled_dot_product_attention(q, k, v, visible)
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)
    small = [F.avg_pool2d(x, (4, 1)) for x in (k, v)]  # 4 tokens, each feature alone
    for causal in (False, True):
        got = relatives.pooled_attention(q, k, v, stride=4, causal=causal)
        ended = torch.tensor([[4 * b + 3 <= i for b in range(3)] for i in range(12)])
        expected = F.scaled_dot_product_attention(q, *small, ended | (not causal))
        assert torch.allclose(got, expected, rtol=0, atol=1e-10)


def test_linformer_cannot_be_causal() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 32, dtype=torch.float64, generator=generator)
    leak = future_leak(lambda q, k, v: relatives.linformer_attention(q, k, v, mix))
    assert leak > 0.1
    # Not even if each mixture hides the future of its own place: row 0 of the
    # outputs reads every mixture, and the last one contains the last token.
    lower = mix.tril(28)
    leak = future_leak(lambda q, k, v: relatives.linformer_attention(q, k, v, lower))
    assert leak > 0.01


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk_size", [16, 8, 4, 2])
def test_lsh_is_masked_attention(chunk_size: int, causal: bool) -> None:
    """To the same side, among the places of one's own chunk and the one before."""
    q, _, v = inputs(16, 6, 6)
    options = {"num_buckets": 2, "chunk_size": chunk_size, "causal": causal}
    got = relatives.lsh_attention(q, v, **options)
    rotation = torch.randn(6, 1, generator=torch.Generator().manual_seed(0)).to(q)
    side = (q @ rotation)[..., 0] <= 0  # the positive one is sorted first
    chunk = side.int().argsort(dim=-1, stable=True).argsort(-1) // chunk_size
    behind = (chunk[..., :, None] - chunk[..., None, :]) % (16 // chunk_size)
    same = (side[..., :, None] == side[..., None, :]) & (behind <= 1)
    if causal:
        same = same.tril()
    expected = relatives.masked_attention(q, F.normalize(q, dim=-1), v, same)
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)


def test_lsh_passes_nothing_back_by_value_but_selects_by_the_future() -> None:
    def leak(fixed: Tensor | None, seed: int) -> float:
        return future_leak(
            lambda q, k, v: relatives.lsh_attention(
                q if fixed is None else fixed,
                v,
                num_buckets=4,
                chunk_size=4,
                causal=True,
                seed=seed,
            )
        )

    fixed = inputs(32, 8, 8)[0][:1, :1]
    assert max(leak(fixed, seed) for seed in range(8)) == 0
    assert max(leak(None, seed) for seed in range(8)) > 0.001


def test_local_and_strided_patterns_by_hand() -> None:
    local = relatives.local_pattern(4, 2, causal=True).int().tolist()
    assert local == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    both_ways = relatives.local_pattern(3, 2).int().tolist()
    assert both_ways == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    strided = relatives.strided_pattern(6, 2, causal=True).int().tolist()
    assert strided[5] == [0, 1, 0, 1, 1, 1]
    assert relatives.strided_pattern(6, 2)[0].int().tolist() == [1, 1, 1, 0, 1, 0]


# At the door


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"form": "fast"}, "form"),
        ({"feature_map": "gelu"}, "feature_map"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"query": torch.zeros(2, 2, 4)}, "query"),
        ({"query": torch.zeros(2, 2, 3, 5), "causal": True}, "query"),
        ({"key": torch.zeros(2, 1, 4, 5)}, "key"),
        ({"key": torch.zeros(2, 2, 4, 6)}, "key"),
        ({"value": torch.zeros(2, 2, 5, 3)}, "value"),
        ({"query": torch.zeros(2, 2, 0, 5)}, "length 0"),
        (
            {"key": torch.zeros(2, 2, 0, 5), "value": torch.zeros(2, 2, 0, 3)},
            "length 0",
        ),
    ],
)
def test_refused_by_name(change: dict, match: str) -> None:
    shapes = {"query": 5, "key": 5, "value": 3}
    given_ = {name: torch.zeros(2, 2, 4, d) for name, d in shapes.items()} | change
    with pytest.raises(ValueError, match=match):
        linear_attention(**given_)


def test_a_state_of_another_shape_is_refused() -> None:
    x = inputs(4, 5, 3)
    _, state = linear_attention(*x, return_state=True)
    for wrong, match in (
        (state._replace(normalizer=state.normalizer[..., :1]), "normalizer of"),
        (State(state.memory[..., :1, :], state.normalizer[..., :1]), "got shape"),
    ):
        with pytest.raises(ValueError, match=f"initial_state: .*{match}"):
            linear_attention(*x, initial_state=wrong)


def test_random_features_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="num_features: got 0"):
        favor_features(32, 0)
    with pytest.raises(ValueError, match="x: got dim 5, the directions are for 4"):
        linear_attention(*inputs(4, 5, 3), feature_map=favor_features(4))


def test_dtypes_must_be_one_and_floating() -> None:
    q = torch.zeros(1, 1, 2, 2)
    with pytest.raises(TypeError, match="value"):
        linear_attention(q, q, q.double())
    with pytest.raises(TypeError, match="query"):
        linear_attention(q.int(), q.int(), q.int())


def test_relatives_refuse_what_does_not_divide() -> None:
    q, k, v = inputs(10, 4, 4)
    with pytest.raises(ValueError, match="length"):
        relatives.pooled_attention(q, k, v, stride=4)
    with pytest.raises(ValueError, match="length"):
        relatives.lsh_attention(q, v, num_buckets=4, chunk_size=4)
    with pytest.raises(ValueError, match="num_buckets"):
        relatives.lsh_attention(q, v, num_buckets=3, chunk_size=5)


def test_relatives_make_their_masks_where_the_queries_are() -> None:
    # Neither a GPU nor numbers: a tensor made on the CPU raises beside these.
    q = torch.empty(1, 1, 32, 8, device="meta")
    options = {"num_buckets": 4, "chunk_size": 4, "causal": True}
    outs = [attention(q, q, q, True) for attention in DENSE.values()]
    outs.append(relatives.lsh_attention(q, q, **options))
    assert {(out.device.type, out.shape) for out in outs} == {("meta", q.shape)}
