"""Layers and stacks against `torch.nn`, the values that PyTorch publishes, counts."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from underhood.transformer import (
    RNN,
    LayerNorm,
    Transformer,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    base_parameter_count,
    causal_mask,
    count_parameters,
    learning_rate,
)
from underhood.transformer.parity import cases, largest_error

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
both_norms = pytest.mark.parametrize("norm_first", [False, True])
# The inverse of ours: in torch.nn, True = may NOT attend.
REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def distance(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def exchange(mine, reference):
    """Random weights (norms and biases too), moved there and back."""
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference.load_state_dict(mine.state_dict(), strict=True)
    mine.load_state_dict(reference.state_dict(), strict=True)


def compare(mine, reference, ours, theirs, dtype):
    """Outputs, and the gradient of every parameter."""
    assert distance(ours, theirs) < TOLERANCE[dtype] * (1 + theirs.abs().max().item())
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in mine.named_parameters():
        wanted = expected[name].grad
        size = 1 + wanted.abs().max().item()
        assert distance(parameter.grad, wanted) < TOLERANCE[dtype] * size, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_of_large_halves(dtype):
    """Squares of 256 and more do not fit into float16; torch sums them in float32."""
    torch.manual_seed(0)
    mine, reference = LayerNorm(64).to(dtype), nn.LayerNorm(64, dtype=dtype)
    exchange(mine, reference)
    x = (torch.randn(5, 64) * torch.tensor([1, 30, 300, 1e3, 1e4])[:, None]).to(dtype)
    found = mine(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, reference(x))


@both_dtypes
@both_norms
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("masks", ["none", "causal", "keys", "both"])
def test_encoder_layer_equals_torch(dtype, norm_first, activation, masks):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "activation": activation, "norm_first": norm_first}
    mine = TransformerEncoderLayer(12, 3, 20, **options).to(dtype)
    reference = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, **options)
    reference = reference.to(dtype)
    exchange(mine, reference)
    x = torch.randn(2, 6, 12, dtype=dtype)
    causal, keys = masks in ("causal", "both"), masks in ("keys", "both")
    ours = mine(x, key_mask=REAL if keys else None, is_causal=causal)
    theirs = reference(
        x,
        src_mask=~causal_mask(6) if causal else None,
        src_key_padding_mask=~REAL if keys else None,
    )
    compare(mine, reference, ours, theirs, dtype)


@both_dtypes
@both_norms
@pytest.mark.parametrize("masks", ["none", "all"])
def test_decoder_layer_equals_torch(dtype, norm_first, masks):
    torch.manual_seed(1)
    options = {"dropout": 0.0, "norm_first": norm_first}
    mine = TransformerDecoderLayer(12, 3, 20, **options).to(dtype)
    reference = nn.TransformerDecoderLayer(12, 3, 20, batch_first=True, **options)
    reference = reference.to(dtype)
    exchange(mine, reference)
    x, memory = torch.randn(2, 5, 12, dtype=dtype), torch.randn(2, 6, 12, dtype=dtype)
    some = torch.rand(5, 6) < 0.7
    some[:, 0] = True
    target_real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    if masks == "none":
        ours = mine(x, memory, is_causal=False)
        theirs = reference(x, memory)
    else:
        ours = mine(x, memory, None, some, target_real, REAL)
        theirs = reference(x, memory, ~causal_mask(5), ~some, ~target_real, ~REAL)
    compare(mine, reference, ours, theirs, dtype)


@both_dtypes
@both_norms
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_transformer_equals_torch(dtype, norm_first):
    torch.manual_seed(2)
    sizes, options = (12, 3, 2, 2, 20, 0.0), {"norm_first": norm_first}
    mine = Transformer(*sizes, **options).to(dtype)
    reference = nn.Transformer(*sizes, batch_first=True, **options).to(dtype)
    exchange(mine, reference)
    source = torch.randn(2, 6, 12, dtype=dtype)
    target = torch.randn(2, 5, 12, dtype=dtype)
    target_real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    ours = mine(source, target, REAL, target_real)
    theirs = reference(
        source,
        target,
        tgt_mask=~causal_mask(5),
        src_key_padding_mask=~REAL,
        tgt_key_padding_mask=~target_real,
        memory_key_padding_mask=~REAL,
    )
    compare(mine, reference, ours, theirs, dtype)


@both_norms
def test_dropout_falls_where_it_does_in_torch(norm_first):
    """The same draws in the same order; of one sequence, which both lay out alike."""
    torch.manual_seed(8)
    x, memory = torch.randn(1, 6, 12), torch.randn(1, 5, 12)
    options = {"dropout": 0.4, "norm_first": norm_first}
    for name, inputs in (("Encoder", (x,)), ("Decoder", (x, memory))):
        kinds = {"Encoder": TransformerEncoderLayer, "Decoder": TransformerDecoderLayer}
        mine = kinds[name](12, 3, 20, **options)
        reference = getattr(nn, f"Transformer{name}Layer")(
            12, 3, 20, batch_first=True, **options
        )
        exchange(mine, reference)
        torch.manual_seed(9)
        ours = mine(*inputs, is_causal=False)
        torch.manual_seed(9)
        assert distance(ours, reference(*inputs)) < 1e-5


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_weights_start_as_in_torch(case):
    torch.manual_seed(10)
    mine = case.ours().state_dict()
    torch.manual_seed(10)
    for name, theirs in case.theirs().state_dict().items():
        if not case.name.startswith("whole model"):
            assert torch.equal(mine[name], theirs), name
        elif theirs.dim() > 1:  # nn.Transformer draws what it then overwrites
            spread = theirs.std().item()
            assert mine[name].std().item() == pytest.approx(spread, rel=0.15), name


def test_values_published_with_pytorch():
    """test/test_transformers.py of PyTorch: every parameter is cos(0, 1, 2, …)."""
    layer = TransformerEncoderLayer(4, 2, 16, dropout=0.0)
    with torch.no_grad():
        for parameter in layer.parameters():
            values = torch.arange(parameter.numel(), dtype=torch.float).cos()
            parameter.copy_(values.view_as(parameter))
        one = layer(torch.tensor([[[20.0, 30.0, 40.0, 50.0]]]))
        two = layer(torch.tensor([[[1.0, 2, 3, 4], [5.0, 6, 7, 8]]]))
    expected = torch.tensor([2.258703, 0.127985, -0.697881, 0.170862])
    assert distance(one[0, 0], expected) < 1e-5
    expected = torch.tensor([2.272644, 0.119035, -0.691669, 0.153486])
    assert distance(two[0], expected.expand(2, 4)) < 1e-5


@both_norms
def test_a_sequence_of_padding_alone_gives_numbers(norm_first):
    """torch.nn gives NaN here; ours adds 0 from attention and goes on."""
    torch.manual_seed(3)
    layer = TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=norm_first)
    x = torch.randn(2, 3, 8)
    real = torch.tensor([[True] * 3, [False] * 3])
    output = layer(x, key_mask=real)
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@both_dtypes
def test_layer_norm_equals_torch(dtype):
    torch.manual_seed(4)
    mine = LayerNorm(7).to(dtype)
    for parameter in mine.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, 7, dtype=dtype) * 10 + 3
    expected = F.layer_norm(x, (7,), mine.weight, mine.bias)
    assert distance(mine(x), expected) < TOLERANCE[dtype]


@both_norms
def test_steps_with_a_cache_equal_one_pass(norm_first):
    torch.manual_seed(5)
    model = Transformer(12, 3, 1, 3, 20, 0.0, norm_first=norm_first).double()
    source = torch.randn(2, 6, 12, dtype=torch.float64)
    target = torch.randn(2, 7, 12, dtype=torch.float64)
    memory = model.encoder(source, key_mask=REAL)
    at_once = model.decoder(target, memory, memory_key_mask=REAL)
    for sizes in ([1] * 7, [3, 1, 2, 1], [7]):
        caches = model.decoder.start_cache(memory)
        steps = [
            model.decoder.step(part, caches, REAL) for part in target.split(sizes, 1)
        ]
        assert distance(torch.cat(steps, 1), at_once) < 1e-12


def test_a_cache_keeps_chosen_rows():
    torch.manual_seed(6)
    layer = TransformerDecoderLayer(8, 2, 16, 0.0).double()
    x, memory = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
    cache = layer.start_cache(memory)
    rows = torch.tensor([2, 0, 0])
    assert cache.select(rows).key is None
    layer.step(x[:, :3], cache)
    chosen = layer.step(x[rows, 3:], cache.select(rows))
    assert distance(chosen, layer(x, memory)[rows, 3:]) < 1e-12


def test_the_base_model_of_the_paper():
    with torch.device("meta"):
        model = Transformer(attention_bias=False, final_norm=False)
    assert count_parameters(model) + 37_000 * 512 == 63_045_632
    assert base_parameter_count() == 63_045_632
    with torch.device("meta"):
        assert count_parameters(Transformer()) == count_parameters(
            nn.Transformer(batch_first=True)
        )


def test_learning_rate():
    # The paper's schedule, section 5.3, evaluated by hand at its peak.
    assert learning_rate(4000) == pytest.approx(6.987712e-4, rel=1e-6)
    assert learning_rate(1000) == pytest.approx(learning_rate(4000) / 4)
    assert learning_rate(16000) == pytest.approx(learning_rate(4000) / 2)
    with pytest.raises(ValueError, match="step: got 0"):
        learning_rate(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "activation: got 'tanh'"),
        ({"dropout": 1.5}, "dropout: got 1.5"),
        ({"num_heads": 3}, "num_heads: got 3"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        TransformerEncoderLayer(**{"d_model": 8, "num_heads": 2} | options)


def test_no_row_of_the_parity_table_is_there_twice():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)


@both_dtypes
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_parity_table(case, dtype):
    assert largest_error(case, dtype, seed=7) < TOLERANCE[dtype]


def test_the_parity_table_can_fail():
    """A wrong weight in one of the two modules is seen."""
    case = cases()[0]

    class Broken(RNN):
        def forward(self, x, state=None, lengths=None):
            output, state = super().forward(x, state, lengths)
            return output + 1e-3, state

    broken = replace(case, ours=lambda: Broken(12, 8, 2, bidirectional=True))
    assert largest_error(broken, torch.float64) > 1e-4
