"""The gated attention unit and FLASH against definitions, loops and identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from underhood.gated_attention import (
    FLASH,
    FLASHQuad,
    GatedAttentionUnit,
    GatedLinearUnit,
    LanguageModel,
    PerDimAffine,
    apply_rope,
    attention_matrix,
    bits_per_byte,
    bytes_of_modules,
    count_parameters,
    laplace,
    mixed_chunk_attention,
    mixed_chunk_by_definition,
    relu_squared,
    train,
    windows,
)
from underhood.gated_attention.sink import Copier, copy_batch, measure_silence
from underhood.gated_attention.training import KINDS

DOUBLE = torch.float64


def gap(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def five(length, s=4, e=3, batch=1, seed=0):
    widths = (s, s, s, s, e)
    generator = rng(seed)
    return [
        torch.randn(batch, length, w, dtype=DOUBLE, generator=generator) for w in widths
    ]


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 14),
    chunk=st.integers(1, 16),
    causal=st.booleans(),
    seed=st.integers(0, 2**20),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_mixed_chunks_equal_their_definition(length, chunk, causal, seed, density):
    parts = five(length, seed=seed)
    real = torch.rand(1, length, generator=rng(seed)) < density
    ours = mixed_chunk_attention(*parts, chunk_size=chunk, causal=causal, key_mask=real)
    plain = mixed_chunk_by_definition(
        *(p[0] for p in parts), chunk, causal, real[0].tolist()
    )
    assert gap(ours[0], plain) < 1e-10


def test_the_definition_by_hand():
    # s = 1, one feature, chunks of 2, causal, all queries and keys 1.
    one = torch.ones(4, 1, dtype=DOUBLE)
    value = torch.tensor([[1.0], [3.0], [10.0], [20.0]], dtype=DOUBLE)
    out = mixed_chunk_by_definition(one, one, one, one, value, 2, causal=True)
    # in the chunk: running means 1, 2, 10, 15; across: mean of (1, 3) is 2
    assert out[:, 0].tolist() == [1, 2, 12, 17]


@pytest.mark.parametrize("unit_kind", [GatedAttentionUnit, FLASH])
@pytest.mark.parametrize("kernel", ["relu2", "laplace", "softmax"])
def test_a_causal_prefix_does_not_change_as_the_text_grows(unit_kind, kernel):
    torch.manual_seed(1)
    options = {"chunk_size": 4} if unit_kind is FLASH else {}
    unit = unit_kind(6, s=4, kernel=kernel, causal=True, **options).to(DOUBLE)
    x = torch.randn(2, 19, 6, dtype=DOUBLE)
    whole = unit(x)
    for end in (1, 3, 4, 5, 8, 13):
        assert gap(unit(x[:, :end]), whole[:, :end]) < 1e-12


@pytest.mark.parametrize("unit_kind", [GatedAttentionUnit, FLASH])
def test_gradients_come_from_all_of_the_past_and_not_from_the_future(unit_kind):
    torch.manual_seed(2)
    options = {"chunk_size": 4} if unit_kind is FLASH else {}
    # Laplace is 0 nowhere; the squared ReLU would hide some of the past.
    unit = unit_kind(6, s=4, kernel="laplace", causal=True, **options).to(DOUBLE)
    x = torch.randn(1, 11, 6, dtype=DOUBLE, requires_grad=True)
    for i in range(11):
        (grad,) = torch.autograd.grad(unit(x)[0, i].sum(), x)
        reach = grad[0].abs().sum(dim=-1) > 0
        assert reach.tolist() == [True] * (i + 1) + [False] * (10 - i)


@pytest.mark.parametrize("unit_kind", [GatedAttentionUnit, FLASH, FLASHQuad])
def test_units_look_both_ways_unless_told_otherwise(unit_kind):
    options = {FLASH: {"chunk_size": 4}, FLASHQuad: {"pairs": 1}}.get(unit_kind, {})
    unit = unit_kind(6, s=4, kernel="laplace", **options).to(DOUBLE)
    x = torch.randn(1, 11, 6, dtype=DOUBLE, requires_grad=True)
    (grad,) = torch.autograd.grad(unit(x)[0, 0].sum(), x)
    assert (grad[0].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("unit_kind", [GatedAttentionUnit, FLASH, FLASHQuad])
def test_padding_changes_no_real_token(unit_kind, causal):
    options = {FLASH: {"chunk_size": 4}, FLASHQuad: {"pairs": 2}}.get(unit_kind, {})
    unit = unit_kind(6, s=4, causal=causal, **options).to(DOUBLE)
    x = torch.randn(2, 15, 6, dtype=DOUBLE)
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[1, 9:] = False
    padded = unit(x, mask)
    alone = unit(x[1:, :9])
    assert gap(padded[1:, :9], alone) < 1e-12
    assert gap(padded[:1], unit(x[:1])) < 1e-12


def test_a_is_the_identity_gives_the_linear_unit(monkeypatch):
    unit = GatedAttentionUnit(6, s=4).to(DOUBLE)
    linear = GatedLinearUnit(6).to(DOUBLE)
    linear.load_state_dict(unit.state_dict(), strict=False)
    x = torch.randn(2, 5, 6, dtype=DOUBLE)
    monkeypatch.setattr(unit, "attend", lambda x, value, mask: value)
    assert gap(unit(x), linear(x)) == 0
    by_hand = F.silu(x @ linear.to_gate.weight.T) * F.silu(x @ linear.to_value.weight.T)
    assert gap(linear(x), by_hand @ linear.to_out.weight.T) < 1e-12


def test_softmax_kernel_and_a_gate_of_one_give_plain_attention(monkeypatch):
    unit = GatedAttentionUnit(6, s=4, kernel="softmax", causal=True).to(DOUBLE)
    x = torch.randn(2, 5, 6, dtype=DOUBLE)
    _, value = unit.gate_and_value(x)
    query, key = unit.heads(x)
    plain = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    ones = torch.ones_like(value)
    monkeypatch.setattr(unit, "gate_and_value", lambda x: (ones, value))
    assert gap(unit(x), plain @ unit.to_out.weight.T) < 1e-12


def by_matrices(unit, x):
    """U, V, and the views of Z of one text, from the parameters alone."""
    p = {name: each.detach() for name, each in unit.named_parameters()}
    U, V, Z = (
        F.silu(x @ p[f"to_{name}.weight"].T) for name in ("gate", "value", "shared")
    )
    gammas, betas = p["affine.gamma"], p["affine.beta"]
    views = [g * Z + b for g, b in zip(gammas, betas, strict=True)]
    return U, V, views, p["to_out.weight"].T


@pytest.mark.parametrize("causal", [False, True])
def test_units_are_their_formulas(causal):
    x = torch.randn(2, 7, 6, dtype=DOUBLE, generator=rng())
    options = {"s": 4, "causal": causal, "rope": False}
    gau = GatedAttentionUnit(6, **options).to(DOUBLE)
    flash = FLASH(6, chunk_size=3, **options).to(DOUBLE)
    for unit in (gau, flash):
        torch.nn.init.normal_(unit.affine.beta)

    U, V, (q, k), W = by_matrices(gau, x[1])
    allowed = torch.ones(7, 7).tril() if causal else torch.ones(7, 7)
    A = (q @ k.T / 2).clamp(min=0).square() * allowed / allowed.sum(1, keepdim=True)
    assert gap(gau(x)[1], (U * (A @ V)) @ W) < 1e-12

    U, V, views, W = by_matrices(flash, x[1])
    mixture = mixed_chunk_by_definition(*views, V, 3, causal)
    assert gap(flash(x)[1], (U * mixture) @ W) < 1e-12


@pytest.mark.parametrize("unit_kind", [GatedAttentionUnit, FLASH])
def test_all_views_are_rotated(unit_kind):
    unit = unit_kind(6, s=4).to(DOUBLE)
    views = unit.heads(torch.randn(1, 1, 6, dtype=DOUBLE).expand(1, 12, 6))
    for query, key in zip(views[::2], views[1::2], strict=True):
        scores = (query @ key.mT)[0]
        assert scores[0].std() > 1e-6
        for i in range(-11, 12):
            diagonal = scores.diagonal(i)
            assert gap(diagonal, diagonal[:1].expand_as(diagonal)) < 1e-12


def test_the_gate_counts():
    unit = GatedAttentionUnit(6, s=4).to(DOUBLE)
    x = torch.randn(1, 5, 6, dtype=DOUBLE)
    torch.nn.init.zeros_(unit.to_gate.weight)  # SiLU(0) = 0: the gate is shut
    assert unit(x).abs().max().item() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_one_chunk_is_quadratic_plus_global(causal):
    q, k, lin_q, lin_k, v = five(7)
    allowed = torch.ones(7, 7, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    scores = (q @ k.mT / 2).clamp(min=0).square() * allowed
    wanted = scores / allowed.sum(1, keepdim=True) @ v
    if not causal:
        wanted = wanted + lin_q @ (lin_k.mT @ v) / 7
    parts = (q, k, lin_q, lin_k, v)
    for chunk in (7, 8, 256):
        ours = mixed_chunk_attention(*parts, chunk_size=chunk, causal=causal)
        assert gap(ours, wanted) < 1e-12


def test_gradients_of_mixed_chunks():
    parts = [p.requires_grad_() for p in five(7, s=2, e=2)]
    assert torch.autograd.gradcheck(
        lambda *p: mixed_chunk_attention(*p, chunk_size=3, causal=True), parts
    )


def test_kernels():
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert relu_squared(x).tolist() == [0, 0, 9]
    at = torch.tensor(math.sqrt(0.5), dtype=DOUBLE, requires_grad=True)
    assert laplace(at).item() == pytest.approx(0.5)
    (slope,) = torch.autograd.grad(laplace(at), at)
    assert slope.item() == pytest.approx(math.sqrt(2))
    normal = torch.distributions.Normal(math.sqrt(0.5), math.sqrt(0.25 / math.pi))
    points = torch.linspace(-2, 2, 9)
    assert gap(laplace(points), normal.cdf(points)) < 1e-6


def test_attention_matrix_divides_by_what_a_query_may_see():
    one = torch.ones(1, 3, 4)
    allowed = torch.ones(3, 3, dtype=torch.bool).tril()
    allowed[0] = False
    # each score is 4 / √4 = 2, and relu² makes 4 of it
    wanted = [[0, 0, 0], [2, 2, 0], [4 / 3] * 3]
    found = attention_matrix(one, one, "relu2", allowed)[0]
    assert gap(found, torch.tensor(wanted)) < 1e-6
    assert attention_matrix(one, one, "softmax", allowed)[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kernel", ["relu2", "laplace", "softmax"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 5), (2, 5, 1)])
def test_a_mask_that_broadcasts_counts_every_key(kernel, shape):
    query, key = torch.randn(2, 2, 5, 4, dtype=DOUBLE, generator=rng())
    allowed = torch.ones(shape, dtype=torch.bool)
    found = attention_matrix(query, key, kernel, allowed)
    assert gap(found, attention_matrix(query, key, kernel)) < 1e-12


def test_a_query_that_is_padding_gets_an_empty_row():
    query, key = torch.randn(2, 3, 4, dtype=DOUBLE, generator=rng())
    allowed = torch.tensor([[True], [False], [True]])
    found = attention_matrix(query, key, "laplace", allowed)
    wanted = attention_matrix(query, key, "laplace")
    wanted[1] = 0
    assert gap(found, wanted) < 1e-12


def test_rope_depends_on_distance_alone_and_keeps_lengths():
    q, k = torch.randn(2, 8, dtype=DOUBLE)
    turned_q = apply_rope(q.expand(20, 8))
    turned_k = apply_rope(k.expand(20, 8))
    scores = turned_q @ turned_k.T
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        assert gap(diagonal, diagonal[:1].expand_as(diagonal)) < 1e-12
    assert gap(turned_q.norm(dim=-1), q.norm().expand(20)) < 1e-12
    # pair i turns by 10000^(-i/4) radians for each position
    east = apply_rope(torch.tensor([[1.0, 0.0] * 4] * 3, dtype=DOUBLE))
    angles = [2 / 10000 ** (i / 4) for i in range(4)]
    wanted = [turn(angle) for angle in angles for turn in (math.cos, math.sin)]
    assert east[2].tolist() == pytest.approx(wanted)


def test_parameters():
    d, s = 64, 32
    unit = GatedAttentionUnit(d, s=s)
    affine = count_parameters(PerDimAffine(2, s))
    assert affine == 4 * s
    assert count_parameters(unit) == 6 * d * d + d * s + affine
    assert count_parameters(FLASH(d, s=s)) == count_parameters(unit) + affine
    sizes = {kind: count_parameters(LanguageModel(kind)) for kind in KINDS}
    assert max(sizes.values()) - min(sizes.values()) == 16 * s
    stack = FLASHQuad(d, pairs=3, s=s)
    assert len(stack.units) == 6
    assert stack(torch.randn(1, 5, d)).shape == (1, 5, d)


def test_stack_is_residual():
    stack = FLASHQuad(6, pairs=1, s=4)
    for unit in stack.units:
        torch.nn.init.zeros_(unit.to_out.weight)
    x = torch.randn(1, 5, 6)
    assert gap(stack(x), x) == 0
    stack = FLASHQuad(6, pairs=1, s=4)
    expected = x
    for norm, unit in zip(stack.norms, stack.units, strict=True):
        expected = expected + unit(norm(expected))
    assert gap(stack(x), expected) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_language_models_are_causal(kind):
    torch.manual_seed(0)
    model = LanguageModel(kind, d_model=16, s=8, chunk_size=4)
    ids = torch.randint(256, (1, 13), generator=rng())
    whole = model(ids)
    for end in (1, 4, 6):
        assert gap(model(ids[:, :end]), whole[:, :end]) < 1e-5


def test_text_and_windows():
    text = bytes_of_modules(("textwrap",))
    assert b"def wrap(" in bytes(text.tolist())
    inputs, targets = windows(text, 5, torch.tensor([0, 7]))
    assert inputs[1].tolist() == text[7:12].tolist()
    assert targets[1].tolist() == text[8:13].tolist()
    for name in ("sys", "no_such_module"):
        with pytest.raises(ValueError, match=f"'{name}' has no source file"):
            bytes_of_modules((name,))
    with pytest.raises(ValueError, match="text: got 5 bytes; more than length, 5"):
        windows(text[:5], 5, torch.tensor([0]))


def test_bits_per_byte_of_a_model_that_guesses():
    class Uniform(torch.nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 256)

    text = torch.randint(256, (1000,), generator=rng())
    assert bits_per_byte(Uniform(), text, 16) == pytest.approx(8)


def test_bits_per_byte_is_the_mean_over_the_windows():
    table = torch.nn.Embedding(256, 256)  # of the next byte, from the last one
    text = torch.randint(256, (1000,), generator=rng())
    with torch.no_grad():
        wanted = F.cross_entropy(table(text[:992]), text[1:993]) / math.log(2)
    assert bits_per_byte(table, text, 8) == pytest.approx(wanted.item())


def test_the_rate_rises_over_a_tenth_and_falls_to_zero():
    def rates(steps):
        found = []
        hook = register_optimizer_step_pre_hook(
            lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"])
        )
        try:
            options = {"steps": steps, "batch": 1, "length": 8, "d_model": 8, "s": 4}
            text = torch.arange(100)
            train(KINDS[0], text, text, seed=0, learning_rate=2.0, **options)
        finally:
            hook.remove()
        return found

    assert rates(25) == pytest.approx([1, 2, *(2 * n / 23 for n in range(23, 0, -1))])
    assert rates(1) == [2]


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_and_repeats(kind):
    torch.set_num_threads(1)
    text = torch.tensor(list(b"abcdefgh" * 100))
    options = {"d_model": 16, "s": 8, "chunk_size": 8}
    run = train(kind, text, text, seed=0, steps=40, length=32, **options)
    again = train(kind, text, text, seed=0, steps=40, length=32, **options)
    assert run.losses == again.losses
    # Untrained it is worse than 4 bits; the text has none after its first byte.
    assert run.losses[0] > 4
    assert run.validation < run.losses[0] / 2


def test_what_is_refused():
    q = torch.randn(1, 5, 4)
    with pytest.raises(ValueError, match="kernel: got 'relu'"):
        GatedAttentionUnit(6, kernel="relu")
    with pytest.raises(ValueError, match="kernel: got 'sigmoid'"):
        attention_matrix(q, q, "sigmoid")
    with pytest.raises(TypeError, match=r"allowed: got torch\.float32"):
        attention_matrix(q, q, allowed=torch.ones(5, 5))
    with pytest.raises(ValueError, match="chunk_size: got 0"):
        FLASH(6, chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size: got 0"):
        mixed_chunk_attention(q, q, q, q, q, chunk_size=0)
    with pytest.raises(ValueError, match=r"key_mask: got torch\.float32"):
        mixed_chunk_attention(q, q, q, q, q, chunk_size=1, key_mask=torch.ones(1, 5))
    assert FLASH(4, s=1, chunk_size=1, rope=False)(q).shape == q.shape
    with pytest.raises(ValueError, match="s: got 0"):
        GatedAttentionUnit(6, s=0, rope=False)
    for place, name in enumerate(("quad_query", "quad_key", "lin_query", "lin_key")):
        views = [q] * 4
        views[place] = q[:, :4]  # fills as many chunks as the others
        with pytest.raises(ValueError, match=rf"{name}: got shape \(1, 4, 4\)"):
            mixed_chunk_attention(*views, q, chunk_size=5)
        views[place] = torch.randn(1, 5, 3)
        with pytest.raises(ValueError, match=r"\(1, 5, [34]\) is needed"):
            mixed_chunk_attention(*views, q, chunk_size=5)
    with pytest.raises(ValueError, match="s: got 3"):
        GatedAttentionUnit(6, s=3)
    with pytest.raises(ValueError, match="x: got shape"):
        GatedAttentionUnit(6)(q)
    with pytest.raises(ValueError, match="key_mask: got"):
        GatedAttentionUnit(4)(q, torch.ones(1, 5))
    with pytest.raises(ValueError, match="x: got 3 features"):
        apply_rope(torch.randn(2, 3))
    with pytest.raises(ValueError, match="kind: got"):
        LanguageModel("RNN")
    with pytest.raises(ValueError, match="pairs: got 0"):
        FLASHQuad(6, pairs=0)
    for sizes in ((0, 2), (2, 0.4), (-1, -2)):
        with pytest.raises(ValueError, match="d_model, expansion"):
            GatedLinearUnit(*sizes)
    assert GatedLinearUnit(1, 1)(torch.ones(1, 1, 1)).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="steps: got 0"):
        train(KINDS[0], torch.arange(200), torch.arange(200), seed=0, steps=0)
    for sizes, name in (((128, 200), "training"), ((200, 128), "validation")):
        texts = [torch.arange(size) for size in sizes]
        with pytest.raises(ValueError, match=f"{name}: got 128 bytes"):
            train(KINDS[0], *texts, seed=0, steps=1, length=128)
    with pytest.raises(ValueError, match="text: got 128 bytes"):
        bits_per_byte(LanguageModel(KINDS[0]), torch.arange(128))


def test_what_is_asked_of_the_copier():
    for empty in (True, False):
        ids, answers, asked = copy_batch(20, empty, rng())
        for row in range(20):
            for place in range(17):
                word = int(ids[row, place])
                before = int(ids[row, place - 1]) if place else 16
                wanted = torch.zeros(16)
                if place and word < 4 and before < 16:
                    wanted[before] = 1
                assert answers[row, place].equal(wanted)
                assert asked[row, place] == bool(wanted.any())


def test_the_copier_is_causal_and_takes_shorter_texts():
    torch.manual_seed(0)
    ids = torch.randint(17, (3, 17))
    for gated in (False, True):
        head = Copier(gated).double()
        (whole, weights), (part, fewer) = head(ids), head(ids[:, :9])
        assert torch.allclose(part, whole[:, :9], atol=1e-12)
        assert torch.allclose(fewer, weights[:, :9, :9], atol=1e-12)


def test_a_head_without_gate_needs_a_sink():
    parked = measure_silence(gated=False, first_is_empty=True, seed=1)
    stuck = measure_silence(gated=False, first_is_empty=False, seed=1)
    gated = measure_silence(gated=True, first_is_empty=False, seed=1)
    assert parked.first > 0.95
    assert stuck.error > 5 * parked.error
    assert stuck.noise > 5 * gated.noise
    assert gated.error < 0.1 and gated.first < 0.6
    with pytest.raises(ValueError, match="updates: got 0"):
        measure_silence(gated=True, first_is_empty=True, updates=0)
