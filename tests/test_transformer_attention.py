"""Attention against `torch`: outputs, gradients, masks, rows without any key."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from underhood.transformer import (
    MultiHeadAttention,
    attention_maps,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def distance(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def random_qkv(queries, keys, dtype=torch.float64, dim=5, value_dim=None):
    shapes = [(queries, dim), (keys, dim), (keys, value_dim or dim)]
    return [
        torch.randn(2, 3, *shape, dtype=dtype, requires_grad=True) for shape in shapes
    ]


def by_the_definition(query, key, value, allowed):
    """Equation 1, one number at a time, in Python's own floats."""
    out = []
    for i, q in enumerate(query):
        seen = [j for j in range(len(key)) if allowed[i][j]]
        scores = [
            math.fsum(a * b for a, b in zip(q, key[j], strict=True)) / len(q) ** 0.5
            for j in seen
        ]
        total = math.fsum(math.exp(s) for s in scores)
        columns = zip(*(value[j] for j in seen), strict=True) if seen else []
        row = [
            math.fsum(math.exp(s) / total * v for s, v in zip(scores, c, strict=True))
            for c in columns
        ]
        out.append(row or [0.0] * len(value[0]))
    return out


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 5),
    keys=st.integers(1, 5),
    seed=st.integers(0, 2**20),
    density=st.floats(0, 1),
)
def test_the_definition(queries, keys, seed, density):
    torch.manual_seed(seed)
    query, key = (torch.randn(n, 3, dtype=torch.float64) for n in (queries, keys))
    value = torch.randn(keys, 2, dtype=torch.float64)
    allowed = torch.rand(queries, keys) < density
    expected = by_the_definition(*(t.tolist() for t in (query, key, value, allowed)))
    found = scaled_dot_product_attention(query, key, value, allowed)
    assert distance(found, torch.tensor(expected, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal", "keys"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_function_equals_torch(dtype, mask, scale):
    torch.manual_seed(0)
    queries, keys = (6, 6) if mask == "causal" else (4, 7)
    q, k, v = random_qkv(queries, keys, dtype, value_dim=4)
    attn_mask = {
        "bool": torch.rand(2, 3, queries, keys) < 0.6,
        "float": torch.randn(queries, keys, dtype=dtype),
        "keys": torch.rand(2, 1, 1, keys) < 0.6,
    }.get(mask)
    options = {"attn_mask": attn_mask, "is_causal": mask == "causal", "scale": scale}
    ours = scaled_dot_product_attention(q, k, v, **options)
    theirs = F.scaled_dot_product_attention(q, k, v, **options)
    assert distance(ours, theirs) < TOLERANCE[dtype]
    weight = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    reference = torch.autograd.grad((theirs * weight).sum(), (q, k, v))
    for a, b in zip(mine, reference, strict=True):
        assert distance(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_bias_and_a_mask_of_keys_go_together(is_causal):
    torch.manual_seed(7)
    attention = MultiHeadAttention(12, 3).double()
    x, bias = torch.randn(2, 5, 12).double(), torch.randn(2, 3, 5, 5).double()
    real = torch.arange(5) < torch.tensor([[5], [3]])
    options = {"attn_mask": bias, "key_mask": real, "is_causal": is_causal}
    q, k, v = F.linear(x, attention.in_proj_weight).unflatten(-1, (3, 3, 4)).unbind(2)
    hidden = ~real[:, None, None, :].expand(bias.shape)
    if is_causal:
        hidden = hidden | torch.ones(5, 5).triu(1).bool()
    heads = F.scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in (q, k, v)),
        bias.masked_fill(hidden, -math.inf),
    )
    expected = attention.out_proj(heads.transpose(1, 2).flatten(2))
    assert distance(attention(x, **options)[0], expected) < 1e-12


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_without_keys_gets_zero_and_no_nan(kind):
    torch.manual_seed(1)
    q, k, v = random_qkv(3, 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    if kind == "float":
        mask = torch.zeros(3, 4, dtype=q.dtype).masked_fill(~mask, -math.inf)
    output = scaled_dot_product_attention(q, k, v, mask)
    assert (output[:, :, 1] == 0).all()
    assert (output[:, :, 0] != 0).all()
    grads = torch.autograd.grad(output.square().sum(), (q, k, v))
    assert all(g.isfinite().all() for g in grads)
    assert (grads[0][:, :, 1] == 0).all()


def test_masked_keys_get_no_weight_at_all():
    torch.manual_seed(2)
    q, k, _ = random_qkv(4, 4)
    weights = attention_weights(q, k * 100, is_causal=True)
    future = ~causal_mask(4)
    assert (weights[..., future] == 0).all()
    assert distance(weights.sum(-1), torch.ones(2, 3, 4, dtype=q.dtype)) < 1e-12


def test_causal_masks():
    assert causal_mask(3).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    # FlashAttention 2.1 and later, its README: aligned bottom-right.
    assert causal_mask(2, 5).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert causal_mask(5, 2).int().tolist() == [[0, 0]] * 3 + [[1, 0], [1, 1]]
    assert causal_mask(1, 4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("masks", "cross"),
    [("causal", False), *product(["none", "pairs", "keys", "both"], [False, True])],
)
def test_multi_head_equals_torch(dtype, bias, masks, cross):
    torch.manual_seed(3)
    mine = MultiHeadAttention(12, 3, bias=bias).to(dtype)
    if bias:
        nn.init.normal_(mine.in_proj_bias)
        nn.init.normal_(mine.out_proj.bias)
    reference = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).to(dtype)
    reference.load_state_dict(mine.state_dict(), strict=True)
    mine.load_state_dict(reference.state_dict(), strict=True)
    query = torch.randn(2, 5, 12, dtype=dtype)
    key, value = torch.randn(2, 2, 7, 12, dtype=dtype) if cross else (query, query)
    keys = key.shape[1]
    pairs = torch.rand(5, keys) < 0.7
    pairs[:, 0] = True
    real = torch.arange(keys) < torch.tensor([[keys], [3]])
    if masks == "causal":
        pairs = causal_mask(5)
    output, weights = mine(
        query,
        key,
        value,
        attn_mask=pairs if masks in ("pairs", "both") else None,
        key_mask=real if masks in ("keys", "both") else None,
        is_causal=masks == "causal",
    )
    # torch.nn.MultiheadAttention: True = may NOT attend.
    expected, expected_weights = reference(
        query,
        key,
        value,
        attn_mask=~pairs if masks in ("pairs", "both", "causal") else None,
        key_padding_mask=~real if masks in ("keys", "both") else None,
        average_attn_weights=False,
    )
    assert distance(output, expected) < TOLERANCE[dtype]
    assert distance(weights, expected_weights) < TOLERANCE[dtype]
    seed = torch.randn_like(output)
    mine_grads = torch.autograd.grad((output * seed).sum(), list(mine.parameters()))
    grads = torch.autograd.grad((expected * seed).sum(), list(reference.parameters()))
    for a, b in zip(mine_grads, grads, strict=True):
        assert distance(a, b) < TOLERANCE[dtype] * (1 + b.abs().max().item())


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_mask_per_sequence(kind):
    torch.manual_seed(8)
    attention = MultiHeadAttention(8, 2).double()
    x = torch.randn(2, 5, 8).double()
    masks = torch.stack([torch.ones(5, 5).bool(), causal_mask(5)])
    if kind == "float":
        masks = torch.zeros(2, 5, 5).double().masked_fill(~masks, -math.inf)
    found = attention(x, attn_mask=masks[:, None])[0]
    assert distance(found[:1], attention(x[:1])[0]) < 1e-12
    assert distance(found[1:], attention(x[1:], is_causal=True)[0]) < 1e-12


def test_projected_keys_and_values_can_be_kept():
    torch.manual_seed(4)
    attention = MultiHeadAttention(8, 2).double()
    query, memory = torch.randn(2, 3, 8).double(), torch.randn(2, 5, 8).double()
    kept = attention.project_key_value(memory)
    assert kept[0].shape == (2, 2, 5, 4)
    expected = attention(query, memory)[0]
    assert distance(attention(query, key_value=kept)[0], expected) == 0


def test_dropout_drops_weights_while_training_only():
    torch.manual_seed(5)
    attention = MultiHeadAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    attention.eval()
    assert torch.equal(attention(x)[0], attention(x)[0])
    attention.train()
    assert not torch.equal(attention(x)[0], attention(x)[0])


def test_maps_are_collected_by_name():
    torch.manual_seed(6)
    model = nn.ModuleDict({"a": MultiHeadAttention(4, 2), "b": nn.Linear(4, 4)})
    x = torch.randn(1, 3, 4)
    with attention_maps(model) as maps:
        _, weights = model["a"](x)
        model["a"](x)
    model["a"](x)
    assert list(maps) == ["a"] and len(maps["a"]) == 2
    assert torch.equal(maps["a"][0], weights)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MultiHeadAttention(10, 3), ValueError, "num_heads: got 3"),
        (
            lambda: MultiHeadAttention(4, 2)(torch.zeros(2, 3, 5)),
            ValueError,
            r"query: got shape \(2, 3, 5\)",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(
                torch.zeros(2, 3, 4), key_mask=torch.ones(2, 3)
            ),
            ValueError,
            "key_mask: got torch.float32",
        ),
        (
            lambda: attention_weights(torch.zeros(2, 3), torch.zeros(2, 4)),
            ValueError,
            "key: got head_dim 4",
        ),
        (
            lambda: attention_weights(
                torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 2).long()
            ),
            TypeError,
            "attn_mask: got torch.int64",
        ),
        (
            lambda: attention_weights(
                torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3)
            ),
            ValueError,
            "attn_mask: got shape",
        ),
        (
            lambda: attention_weights(
                torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2)
            ),
            ValueError,
            r"attn_mask: got shape \(2,\)",
        ),
        (
            lambda: attention_weights(
                torch.zeros(1, 3), torch.zeros(2, 3), is_causal=True
            ),
            ValueError,
            "is_causal: query_length 1",
        ),
        (
            lambda: scaled_dot_product_attention(
                torch.zeros(1, 3), torch.zeros(2, 3), torch.zeros(3, 3)
            ),
            ValueError,
            "value: got length 3",
        ),
        (lambda: causal_mask(0), ValueError, "query_length"),
        (  # one mask per sequence: its batch would fall on the heads
            lambda: MultiHeadAttention(4, 2)(
                torch.zeros(2, 3, 4), attn_mask=torch.ones(2, 3, 3).bool()
            ),
            ValueError,
            r"attn_mask: got shape \(2, 3, 3\)",
        ),
        (
            lambda: MultiHeadAttention(4, 2)(
                torch.zeros(2, 3, 4),
                torch.zeros(2, 3, 4),
                key_value=(torch.zeros(2, 2, 3, 2),) * 2,
            ),
            ValueError,
            "key_value: takes the place of key and value",
        ),
    ],
)
def test_arguments_are_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()
