"""The modern block: identities, torch.nn.RMSNorm, Llama and Qwen3 of transformers."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from underhood.transformer.attention import MultiHeadAttention
from underhood.transformer.modern import (
    DecoderBlock,
    GroupedQueryAttention,
    KVCache,
    RMSNorm,
    SwiGLU,
    kv_cache_bytes,
    rotary_angles,
    rotate,
    speculative_sample,
)

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
DOUBLE = torch.float64


def gap(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- RMSNorm, SwiGLU -----------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (DOUBLE, 1e-12)]
)
def test_rmsnorm_equals_torch(dtype, tolerance):
    ours, theirs = RMSNorm(12, 1e-3).to(dtype), nn.RMSNorm(12, 1e-3, dtype=dtype)
    nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, 5, 12, dtype=dtype) * torch.tensor([1e-3, 1, 100])[:, None, None]
    assert gap(ours(x.to(dtype)), theirs(x.to(dtype))) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rmsnorm_of_large_halves(dtype):
    """Squares of 256 and more do not fit into float16; torch sums them in float32."""
    ours, theirs = RMSNorm(64).to(dtype), nn.RMSNorm(64, 1e-6, dtype=dtype)
    nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = (torch.randn(5, 64) * torch.tensor([1, 30, 300, 1e3, 1e4])[:, None]).to(dtype)
    found = ours(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, theirs(x))


def test_a_block_of_halves_with_a_massive_feature():
    """One feature of 2500, as trained models have, must not silence the sublayers."""
    block = DecoderBlock(16, 4, 2, 24)
    x = torch.randn(1, 5, 16)
    x[..., 3] = 2500
    change = block(x) - x
    halves = block.half()(x.half()).float() - x.half().float()
    other = torch.arange(16) != 3  # 2500 itself is rounded to whole numbers
    assert change[..., other].abs().max() > 0.1
    assert gap(halves[..., other], change[..., other]) < 0.01


def test_swiglu_by_hand():
    layer = SwiGLU(1, 1)
    for linear, weight in ((layer.gate_proj, 2.0), (layer.up_proj, 3.0)):
        nn.init.constant_(linear.weight, weight)
    nn.init.constant_(layer.down_proj.weight, 5.0)
    # silu(2) * 3 * 5 with silu(2) = 2 / (1 + e^-2) = 1.7615942
    assert layer(torch.ones(1, 1)).item() == pytest.approx(26.423912, rel=1e-6)


# --- RoPE ----------------------------------------------------------------------


def rope_by_complex_numbers(x, positions, base):
    """Su et al., 2021, equation 13: multiply by e^(i·position·θ)."""
    half = x.shape[-1] // 2
    theta = base ** (-torch.arange(half, dtype=DOUBLE) / half)
    turn = torch.polar(torch.ones(()).double(), positions.double()[:, None] * theta)
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


@settings(max_examples=60, deadline=None)
@given(
    head_dim=st.integers(1, 16).map(lambda n: 2 * n),
    start=st.integers(0, 5000),
    base=st.sampled_from([10.0, 1e4, 5e5]),
)
def test_rotate_is_multiplication_by_a_unit_complex_number(head_dim, start, base):
    x = torch.randn(2, 3, 7, head_dim, dtype=DOUBLE)
    positions = torch.arange(start, start + 7)
    found = rotate(x, rotary_angles(positions, head_dim, base))
    assert gap(found, rope_by_complex_numbers(x, positions, base)) < 1e-9
    assert gap(found.norm(dim=-1), x.norm(dim=-1)) < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(1, 4000))
def test_scores_depend_on_the_distance_alone(first, second, shift):
    query, key = torch.randn(2, 1, 64, dtype=DOUBLE)

    def score(m, n):
        at = [rotary_angles(torch.tensor([p]), 64) for p in (m, n)]
        return (rotate(query, at[0]) * rotate(key, at[1])).sum().item()

    assert score(first, second) == pytest.approx(
        score(first + shift, second + shift), abs=1e-9
    )
    if first == second:
        assert score(first, second) == pytest.approx((query * key).sum().item())


def test_rope_distances_are_told_apart():
    query, key = torch.randn(2, 1, 64, dtype=DOUBLE)
    angles = rotary_angles(torch.arange(50), 64)
    scores = rotate(query, angles[:1]) @ rotate(key.expand(50, 64), angles).T
    assert len({round(s, 6) for s in scores[0].tolist()}) == 50


def test_odd_head_dim():
    with pytest.raises(ValueError, match="head_dim"):
        rotary_angles(torch.arange(3), 7)


# --- grouped-query attention ---------------------------------------------------


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_equals_torch_with_enable_gqa(kv_heads):
    """One head at a time is torch's; the positions are turned as above."""
    ours = GroupedQueryAttention(24, 6, kv_heads).double()
    x = torch.randn(2, 9, 24, dtype=DOUBLE)
    q, k, v = (
        layer(x).view(2, 9, -1, 4).transpose(1, 2)
        for layer in (ours.q_proj, ours.k_proj, ours.v_proj)
    )
    positions = torch.arange(9)
    q, k = (rope_by_complex_numbers(t, positions, 1e4) for t in (q, k))
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    wanted = ours.o_proj(heads.transpose(1, 2).reshape(2, 9, 24))
    assert gap(ours(x), wanted) < 1e-12


def as_full(grouped, num_heads, num_kv_heads):
    """The same function with a key and value head per query head, copied."""
    full = GroupedQueryAttention(32, num_heads, num_heads).double()
    state = grouped.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        heads = state[name].unflatten(0, (num_kv_heads, -1))
        owner = [h * num_kv_heads // num_heads for h in range(num_heads)]
        state[name] = heads[owner].flatten(0, 1)
    full.load_state_dict(state, strict=True)
    return full


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_groups_are_heads_with_shared_keys_and_values(kv_heads):
    grouped = GroupedQueryAttention(32, 8, kv_heads).double()
    x = torch.randn(2, 5, 32, dtype=DOUBLE)
    assert gap(grouped(x), as_full(grouped, 8, kv_heads)(x)) < 1e-13


def test_full_groups_equal_multi_head_attention():
    ours = GroupedQueryAttention(24, 6, 6, base=None).double()
    theirs = MultiHeadAttention(24, 6, bias=False).double()
    parts = [ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat(parts),
            "out_proj.weight": ours.o_proj.weight,
        }
    )
    x = torch.randn(4, 7, 24, dtype=DOUBLE)
    assert gap(ours(x), theirs(x, is_causal=True)[0]) < 1e-13


def test_qk_norm_bounds_the_scores():
    """Queries and keys of length √head_dim: no score is above √head_dim."""
    block = GroupedQueryAttention(32, 4, 2, qk_norm=True).double()
    x = 1000 * torch.randn(1, 6, 32, dtype=DOUBLE)
    query = block.q_norm(block.q_proj(x).unflatten(-1, (-1, 8)))
    assert gap(query.norm(dim=-1), torch.full((1, 6, 4), 8.0**0.5).double()) < 1e-6
    assert gap(block(x), block(100 * x) / 100) < 1e-6  # the scale reaches values only


def test_attention_arguments():
    for kv_heads in (0, 3, 5):
        with pytest.raises(ValueError, match="num_kv_heads"):
            GroupedQueryAttention(32, 4, kv_heads)
    with pytest.raises(ValueError, match="num_heads"):
        GroupedQueryAttention(30, 4, 2)
    assert GroupedQueryAttention(30, 4, 2, head_dim=8).q_proj.weight.shape == (32, 30)


# --- the block -----------------------------------------------------------------

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_attention_heads": 8,
    "num_hidden_layers": 1,
    "vocab_size": 11,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "attn_implementation": "eager",
}
MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaModel, False, 4),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3Model, True, 6),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_block_equals_transformers(name, kv_heads):
    config, model, qk_norm, head_dim = MODELS[name]
    options = {"num_key_value_heads": kv_heads, "head_dim": head_dim}
    reference = model(config(**SIZES, **options)).double().eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = DecoderBlock(
        32, 8, kv_heads, 40, head_dim=head_dim, qk_norm=qk_norm, base=500.0, eps=1e-5
    ).double()
    ours.load_state_dict(reference.layers[0].state_dict(), strict=True)
    norm = RMSNorm(32, 1e-5).double()
    norm.load_state_dict(reference.norm.state_dict(), strict=True)
    x = torch.randn(2, 13, 32, dtype=DOUBLE)
    with torch.no_grad():
        wanted = reference(inputs_embeds=x).last_hidden_state
        # transformers keeps cos, sin and the norms in float32.
        assert gap(norm(ours(x)), wanted) < 1e-5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([1, 2, 4]))
def test_cache_changes_nothing(pieces, kv_heads):
    block = DecoderBlock(16, 4, kv_heads, 24, qk_norm=True).double()
    x = torch.randn(2, sum(pieces), 16, dtype=DOUBLE)
    cache = KVCache()
    outputs = [block(part, cache) for part in x.split(pieces, dim=1)]
    assert gap(torch.cat(outputs, dim=1), block(x)) < 1e-12
    assert cache.length == sum(pieces)
    head_dim, batch = 4, 2
    one = kv_cache_bytes(1, kv_heads, head_dim, sum(pieces), bytes_per_value=8)
    assert cache.nbytes == batch * one


def test_cache_bytes_of_known_models():
    """Llama 2 7B: half a MiB per token (Kwon et al. count 800 KB for OPT 13B)."""
    assert kv_cache_bytes(32, 32, 128, 1) == 2**19
    assert kv_cache_bytes(32, 8, 128, 8192) == 2**30  # Llama 3 8B: 1 GiB
    assert kv_cache_bytes(40, 40, 128, 1) == 800 * 1024  # OPT 13B


# --- speculative sampling ------------------------------------------------------


def test_speculative_tokens_follow_the_target():
    target = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=DOUBLE)
    draft = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)
    n = 200_000
    generator = torch.Generator().manual_seed(1)
    tokens, kept = speculative_sample(
        target.expand(n, 4), draft.expand(n, 4), generator
    )
    found = torch.bincount(tokens, minlength=4) / n
    # Five standard deviations: 5 sqrt(0.25 / n) = 0.0056.
    assert gap(found.double(), target) < 0.0056
    assert found[3] == 0
    # Kept: the sum of min(target, draft) = 0.1 + 0.2 + 0.2.
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.0056)


def test_speculative_sampling_stays_on_the_device_of_its_input():
    with FakeTensorMode():  # a device without the hardware
        p = torch.empty(4, 9, device="cuda").softmax(-1)
        assert {out.device.type for out in speculative_sample(p, p)} == {"cuda"}


def test_a_perfect_draft_is_never_refused():
    p = torch.softmax(torch.randn(1000, 7), dim=-1)
    _, kept = speculative_sample(p, p)
    assert kept.all()
    with pytest.raises(ValueError, match="draft"):
        speculative_sample(p, p[:5])
