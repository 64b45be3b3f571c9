"""Longer contexts and experts: against `transformers`, and by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from underhood.transformer.attention import attention_weights
from underhood.transformer.context import (
    alibi_bias,
    sliding_window_mask,
    stretched_base,
)
from underhood.transformer.experts import MixtureOfExperts
from underhood.transformer.modern import rotary_angles


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_alibi_equals_bloom(heads):
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    mask = torch.ones(1, 9, dtype=torch.long)
    theirs = bloom.build_alibi_tensor(mask, heads, torch.float32)  # (heads, 1, 9)
    q, k = torch.randn(2, heads, 9, 4, generator=torch.Generator().manual_seed(0))
    scores = q @ k.mT / 2
    causal = torch.ones(9, 9).triu(1).bool()
    wanted = (scores + theirs).masked_fill(causal, -math.inf).softmax(-1)
    ours = attention_weights(q, k, alibi_bias(heads, 9), is_causal=True)
    assert (ours - wanted).abs().max() < 1e-6


def test_alibi_by_hand():
    assert alibi_bias(2, 3)[0].tolist() == [
        [0, 0, 0],
        [-1 / 16, 0, 0],
        [-1 / 8, -1 / 16, 0],
    ]


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0, 8.5])
def test_stretching_slows_the_slowest_pair_by_the_factor(factor):
    place = torch.tensor([1.0])
    before = rotary_angles(place, 64)[0]
    after = rotary_angles(place, 64, stretched_base(10000.0, 64, factor))[0]
    slowed = (before / after).tolist()
    assert slowed[0] == pytest.approx(1)
    assert slowed[-1] == pytest.approx(factor)
    assert slowed == sorted(slowed)


def test_window_by_hand():
    assert sliding_window_mask(4, 2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]
    assert sliding_window_mask(5, 9).equal(torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_experts_equal_mixtral(top_k):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    torch.manual_seed(0)
    config = mixtral.MixtralConfig(
        hidden_size=12,
        intermediate_size=20,
        num_local_experts=5,
        num_experts_per_tok=top_k,
    )
    config._experts_implementation = "eager"
    theirs = mixtral.MixtralSparseMoeBlock(config).double().eval()
    ours = MixtureOfExperts(12, 20, 5, top_k).double()
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        for number, expert in enumerate(ours.experts):
            both = torch.cat([expert.gate_proj.weight, expert.up_proj.weight])
            theirs.experts.gate_up_proj[number] = both
            theirs.experts.down_proj[number] = expert.down_proj.weight
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    # Its router computes the softmax in float32.
    assert (ours(x) - theirs(x)).abs().max() < 1e-6


def test_all_experts_are_a_weighted_sum():
    torch.manual_seed(1)
    layer = MixtureOfExperts(6, 8, 3, 3).double()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    share = F.softmax(x @ layer.router.weight.T, -1)
    wanted = sum(share[..., i, None] * e(x) for i, e in enumerate(layer.experts))
    assert (layer(x) - wanted).abs().max() < 1e-12


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_heads: got 6"):
        alibi_bias(6, 4)
    with pytest.raises(ValueError, match="head_dim, factor: got 2"):
        stretched_base(1e4, 2, 2.0)
    with pytest.raises(ValueError, match="window: got 0"):
        sliding_window_mask(4, 0)
    for top_k in (0, 4):
        with pytest.raises(ValueError, match=f"top_k: got {top_k}"):
            MixtureOfExperts(6, 8, 3, top_k)


def test_experts_under_autocast():
    """Weights in float32, products in bfloat16: how it is mostly trained."""
    layer = MixtureOfExperts(8, 16, 4, 2)
    x = torch.randn(1, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert (found - layer(x)).abs().max() < 0.02


def test_experts_take_any_number_of_leading_axes():
    layer = MixtureOfExperts(8, 16, 4, 2)
    x = torch.randn(2, 3, 5, 8)
    whole = layer(x)
    assert whole.shape == x.shape
    assert (layer(x[1, 2]) - whole[1, 2]).abs().max() < 1e-6
    assert (layer(x[1]) - whole[1]).abs().max() < 1e-6
