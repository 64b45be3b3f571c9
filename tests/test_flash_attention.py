"""`flash_attention` is exact attention: every backend, shape, mask and dtype.

What only the kernels can get wrong is in test_flash_attention_kernel.py.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.flash_attention import (
    decode_attention,
    flash_attention,
    interface,
    reference_attention,
    ring_attention,
    tiled_attention,
    tiled_gradients,
    triton_mode,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODE = triton_mode()
needs_triton = pytest.mark.skipif(not MODE, reason="triton is not installed")
BACKENDS = ["reference", "tiled", pytest.param("triton", marks=needs_triton)]
LENGTHS = [1, 17, 64, 97, 128, 200]
UNEQUAL = [(2, 5), (5, 2), (113, 203), (108, 256), (203, 113), (1, 130)]
HEAD_DIMS = [16, 32, 40, 64, 111, 128]
# An error below the spacing of the dtype at 1 says nothing about the algorithm: the
# plain formula may happen to hit the exact value (a row with one key, for instance).
FLOOR = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def inputs(
    query_length: int,
    key_length: int,
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    heads: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(query_length * 7919 + key_length * 31 + head_dim)
    shapes = [(1, heads, n, head_dim) for n in (query_length, key_length, key_length)]
    return tuple(torch.randn(shape, device=DEVICE).to(dtype) for shape in shapes)


def exact(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """float64 attention and logsumexp, written without the code under test."""
    q, k, v = query.double(), key.double(), value.double()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    if causal:
        n, m = scores.shape[-2:]
        hidden = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    return weights @ v, torch.logsumexp(scores, dim=-1)


def plain(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """The formula in PyTorch, all in the dtype of the inputs."""
    n, m = query.shape[2], key.shape[2]
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(n, m, dtype=torch.bool, device=query.device).triu(m - n + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, dim=-1).nan_to_num(0.0) @ value


def assert_as_exact_as_plain(
    output: Tensor, tensors: tuple[Tensor, Tensor, Tensor], causal: bool
) -> None:
    """FlashAttention-2's own rule: at most twice the error of the plain formula."""
    truth, _ = exact(*tensors, causal)
    error = (output.double() - truth).abs().max().item()
    allowed = (plain(*tensors, causal).double() - truth).abs().max().item()
    assert error <= 2 * allowed + FLOOR[output.dtype]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_every_length_and_head_dim(backend: str, head_dim: int, causal: bool) -> None:
    for length in LENGTHS:
        tensors = inputs(length, length, head_dim)
        output = flash_attention(*tensors, causal=causal, backend=backend)
        assert output.shape == tensors[0].shape
        assert_as_exact_as_plain(output, tensors, causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", UNEQUAL)
@pytest.mark.parametrize("backend", BACKENDS)
def test_unequal_lengths(backend: str, lengths: tuple[int, int], causal: bool) -> None:
    for head_dim in (40,) if backend == "triton" else (16, 40, 64):
        tensors = inputs(*lengths, head_dim)
        output = flash_attention(*tensors, causal=causal, backend=backend)
        assert_as_exact_as_plain(output, tensors, causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(1, 1), (97, 97), (128, 128), (113, 203), (5, 2)])
@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_float16(backend: str, lengths: tuple[int, int], causal: bool) -> None:
    for head_dim in (32, 64, 80):
        tensors = inputs(*lengths, head_dim, torch.float16)
        output = flash_attention(*tensors, causal=causal, backend=backend)
        assert output.dtype == torch.float16
        assert_as_exact_as_plain(output, tensors, causal)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16(backend: str) -> None:
    tensors = inputs(97, 130, 64, torch.bfloat16)
    if backend == "triton" and MODE == "interpreter":
        with pytest.raises(ValueError, match="bfloat16, wrong in Triton's interpreter"):
            flash_attention(*tensors, backend=backend)
        return
    output = flash_attention(*tensors, causal=True, backend=backend)
    assert output.dtype == torch.bfloat16
    assert_as_exact_as_plain(output, tensors, causal=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(64, 64), (97, 97), (113, 203), (1, 40)])
def test_equals_sdpa(backend: str, lengths: tuple[int, int]) -> None:
    tensors = inputs(*lengths, 64)
    for causal in (False, True):
        mask = torch.ones(lengths, dtype=torch.bool, device=DEVICE)
        mask = mask.tril(lengths[1] - lengths[0]) if causal else None
        wanted = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
        output = flash_attention(*tensors, causal=causal, backend=backend)
        torch.testing.assert_close(output, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(64, 64), (97, 97), (113, 203), (5, 2), (200, 70)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_lse_is_the_natural_logsumexp(
    backend: str, lengths: tuple[int, int], causal: bool
) -> None:
    tensors = inputs(*lengths, 32)
    _, lse = flash_attention(*tensors, causal=causal, return_lse=True, backend=backend)
    _, wanted = exact(*tensors, causal)
    assert lse.dtype == torch.float32
    # Equal infinities are close to each other, an infinity and a number are not.
    torch.testing.assert_close(lse.double(), wanted, atol=3e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_is_aligned_bottom_right(backend: str) -> None:
    """With one-hot values the output is the row of weights: 0 = not seen."""

    def seen(query_length: int, key_length: int) -> list[list[int]]:
        query, key, value = inputs(query_length, key_length, 16, heads=1)
        value = torch.eye(16, device=DEVICE)[None, None, :key_length]
        output = flash_attention(query, key, value, causal=True, backend=backend)
        return (output[0, 0, :, :key_length] > 0).int().tolist()

    assert seen(2, 5) == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert seen(5, 2) == [[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]]
    assert seen(3, 3) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(5, 2), (203, 113), (300, 1)])
def test_rows_that_see_nothing(backend: str, lengths: tuple[int, int]) -> None:
    tensors = inputs(*lengths, 16)
    output, lse = flash_attention(
        *tensors, causal=True, return_lse=True, backend=backend
    )
    blind = lengths[0] - lengths[1]
    assert (output[:, :, :blind] == 0).all()
    assert (lse[:, :, :blind] == -torch.inf).all()
    assert lse[:, :, blind:].isfinite().all()
    assert (output[:, :, blind:].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_logits(backend: str, causal: bool) -> None:
    """Scores of +-1e4: exp would overflow, and the result is an argmax."""
    torch.manual_seed(0)
    choice = torch.randint(0, 150, (150,), device=DEVICE)
    choice = torch.minimum(choice, torch.arange(150, device=DEVICE))
    key = F.one_hot(torch.arange(150, device=DEVICE) % 15, 16).float()
    query = key[choice] * 2e4 - 1e4  # 1e4 for the chosen class of keys, else -1e4
    value = torch.randn(150, 16, device=DEVICE)
    query, key, value = (each[None, None] for each in (query, key, value))
    options = {"causal": causal, "softmax_scale": 1.0}
    output, lse = flash_attention(
        query, key, value, return_lse=True, backend=backend, **options
    )
    wanted, wanted_lse = exact(query, key, value, causal, scale=1.0)
    torch.testing.assert_close(output.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=2e-3, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    """(batch, length, heads, head_dim) memory, a slice, a flip, an expanded head."""
    torch.manual_seed(0)
    packed = torch.randn(2, 70, 3, 3, 80, device=DEVICE)
    query, key, value = packed[..., 5:69].permute(2, 0, 3, 1, 4)  # each (2, 3, 70, 64)
    key = key.mT.contiguous().mT  # head_dim is not the fastest axis
    value = value[:, :1].expand(-1, 3, -1, -1)  # stride 0
    query = query[:, :, ::2]
    assert not (query.is_contiguous() or key.is_contiguous() or value.is_contiguous())
    output, lse = flash_attention(
        query, key, value, causal=True, return_lse=True, backend=backend
    )
    wanted, wanted_lse = exact(query, key, value, causal=True)
    torch.testing.assert_close(output.double(), wanted, atol=3e-6, rtol=0)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=3e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_and_heads_do_not_mix(backend: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 33, 16, device=DEVICE)
    together = flash_attention(query, key, value, backend=backend)
    for b in range(2):
        for h in range(3):
            index = slice(b, b + 1), slice(h, h + 1)
            alone, _ = exact(query[index], key[index], value[index], causal=False)
            torch.testing.assert_close(
                together[index].double(), alone, atol=2e-6, rtol=0
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_softmax_scale(backend: str) -> None:
    tensors = inputs(50, 60, 32)
    output, lse = flash_attention(
        *tensors, softmax_scale=0.7, return_lse=True, backend=backend
    )
    wanted, wanted_lse = exact(*tensors, causal=False, scale=0.7)
    torch.testing.assert_close(output.double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block_k", [1, 7, 64, 500])
@pytest.mark.parametrize("block_q", [1, 7, 64, 500])
def test_any_tile_size(block_q: int, block_k: int) -> None:
    for lengths in ((40, 40), (13, 30), (30, 13)):
        tensors = tuple(each.double() for each in inputs(*lengths, 16))
        options = {"causal": True, "softmax_scale": 0.25}
        sizes = {"block_q": block_q, "block_k": block_k}
        output, lse = tiled_attention(*tensors, **options, **sizes)
        wanted, wanted_lse = exact(*tensors, causal=True, scale=0.25)
        torch.testing.assert_close(output, wanted, atol=1e-14, rtol=0)
        torch.testing.assert_close(lse, wanted_lse, atol=1e-14, rtol=0)


@pytest.mark.parametrize("backend", ["auto", "reference", "tiled"])
def test_gradients_flow_through_pytorch(backend: str) -> None:
    tensors = [each.double().requires_grad_() for each in inputs(6, 4, 16)]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = flash_attention(
            *tensors, causal=True, return_lse=True, backend=backend
        )
        return output, lse[:, :, 2:]  # the first two rows see nothing

    assert torch.autograd.gradcheck(function, tensors)


FEATURES = [
    {},
    {"window": (3, 2)},
    {"causal": True, "window": (4, -1), "softcap": 1.5},
    {"alibi_slopes": torch.tensor([0.5, 0.1], dtype=torch.float64), "softcap": 2.0},
    {"causal": True, "key_lengths": torch.tensor([9, 3])},
    {"key_lengths": torch.tensor([0, 7]), "window": (2, 2)},
]


@pytest.mark.parametrize("options", FEATURES, ids=str)
@pytest.mark.parametrize("key_heads", [1, 2])
def test_finite_differences(options: dict, key_heads: int) -> None:
    """The backward pass in tiles, for every feature; tiles of 64 hold it all."""
    torch.manual_seed(0)
    shapes = [(2, 2, 6, 4), (2, key_heads, 9, 4), (2, key_heads, 9, 4)]
    tensors = [torch.randn(shape).double().requires_grad_() for shape in shapes]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = flash_attention(
            *tensors, return_lse=True, backend="tiled", **options
        )
        return output, lse.masked_fill(lse == -torch.inf, 0.0)

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("block_k", [1, 5, 64])
@pytest.mark.parametrize("block_q", [3, 7, 64])
def test_gradients_in_any_tile_size(block_q: int, block_k: int) -> None:
    tensors = [each.double().requires_grad_() for each in inputs(13, 30, 16)]
    for options in ({"causal": True}, {"causal": False, "window": (4, 6)}):
        call = {"softmax_scale": 0.25, **options}
        output, lse = reference_attention(*tensors, **call)
        d_output, d_lse = torch.randn_like(output), torch.randn_like(lse)
        wanted = torch.autograd.grad((output, lse), tensors, (d_output, d_lse))
        found = tiled_gradients(
            *tensors, output, lse, d_output, d_lse, **call,
            block_q=block_q, block_k=block_k,
        )  # fmt: skip
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_causal_batch_needs_no_lengths(backend: str) -> None:
    """Padding on the right is in the future of every real token."""
    tensors = inputs(20, 20, 16)
    padded = [F.pad(each, (0, 0, 0, 12)) for each in tensors]
    alone = flash_attention(*tensors, causal=True, backend=backend)
    among = flash_attention(*padded, causal=True, backend=backend)
    torch.testing.assert_close(among[:, :, :20], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("is_cuda", "mode", "head_dim", "wanted"),
    [
        (True, "gpu", 64, "triton"),
        (False, "gpu", 64, "tiled"),
        (True, "interpreter", 64, "tiled"),
        (True, "", 64, "tiled"),
        (True, "gpu", 8, "tiled"),
    ],
)
def test_auto_takes_the_kernel_where_it_is_compiled(
    is_cuda: bool,
    mode: str,
    head_dim: int,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interface, "triton_mode", lambda: mode)
    query = SimpleNamespace(
        is_cuda=is_cuda, dtype=torch.float32, shape=(1, 1, 9, head_dim)
    )
    assert interface._chosen("auto", query) == wanted


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("splits", [1, 4])
def test_decoding_in_pieces(backend: str, splits: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, 6, 1, 16, device=DEVICE)
    key, value = torch.randn(2, 3, 2, 64, 16, device=DEVICE)
    lengths = torch.tensor([64, 17, 0], device=DEVICE)
    output, lse = decode_attention(
        query, key, value, splits=splits, key_lengths=lengths, backend=backend
    )
    for b, length in enumerate(lengths.tolist()):
        own = (
            each[b : b + 1, :, :length].repeat_interleave(3, 1) for each in (key, value)
        )
        wanted, wanted_lse = exact(query[b : b + 1], *own, causal=False)
        torch.testing.assert_close(
            output[b : b + 1].double(), wanted, atol=2e-6, rtol=0
        )
        torch.testing.assert_close(
            lse[b : b + 1].double(), wanted_lse, atol=2e-6, rtol=0
        )
    with pytest.raises(ValueError, match="splits: got 5; it must divide the 64 keys"):
        decode_attention(query, key, value, splits=5)
    with pytest.raises(ValueError, match="query: got 2 rows"):
        decode_attention(query.expand(-1, -1, 2, -1), key, value, splits=4)
    if DEVICE == "cpu":  # on a GPU the values are not looked at
        wrong = torch.tensor([64, 65, -1])
        with pytest.raises(ValueError, match=r"key_lengths: got \[64, 65, -1\]"):
            decode_attention(query, key, value, splits=4, key_lengths=wrong)


def test_decoding_with_a_length_for_each_key_head() -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 1, 16)
    key, value = torch.randn(2, 2, 3, 64, 16)
    lengths = torch.tensor([[64, 17, 0], [5, 40, 33]])
    found = decode_attention(query, key, value, splits=4, key_lengths=lengths)
    wanted = flash_attention(
        query, key, value, key_lengths=lengths, return_lse=True, backend="reference"
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decoding_scales_and_caps_the_scores(backend: str) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 1, 16, device=DEVICE)
    key, value = torch.randn(2, 2, 3, 64, 16, device=DEVICE)
    output, lse = decode_attention(
        query, key, value, splits=4, softmax_scale=0.7, softcap=2.0, backend=backend
    )
    k, v = (each.double().repeat_interleave(2, 1) for each in (key, value))
    scores = 2.0 * torch.tanh(query.double() @ k.mT * 0.7 / 2.0)
    wanted = torch.softmax(scores, -1) @ v
    torch.testing.assert_close(output.double(), wanted, atol=2e-6, rtol=0)
    wanted_lse = torch.logsumexp(scores, -1)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=2e-6, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_a_ring_of_ranks(causal: bool) -> None:
    torch.manual_seed(0)
    whole = [torch.randn(1, 2, 30, 8).double().requires_grad_() for _ in range(3)]
    shares = [each.split(10, dim=2) for each in whole]
    ring = torch.cat(ring_attention(*shares, causal=causal), dim=2)
    wanted = F.scaled_dot_product_attention(*whole, is_causal=causal)
    torch.testing.assert_close(ring, wanted, atol=1e-14, rtol=0)
    weight = torch.randn_like(ring)
    for one, other in zip(
        torch.autograd.grad(ring, whole, weight),
        torch.autograd.grad(wanted, whole, weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


def test_a_long_ring_rounds_once() -> None:
    """The running output is wider than bfloat16, or each hop would round it."""
    torch.manual_seed(0)
    whole = torch.randn(3, 1, 2, 32 * 16, 32)
    whole[2] += 1  # outputs that are not small
    whole = whole.bfloat16()
    ring = torch.cat(ring_attention(*(each.split(16, dim=2) for each in whole)), dim=2)
    assert ring.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(*whole.double())
    at_once = flash_attention(*whole, backend="tiled")
    error, least = ((each.double() - exact).abs().max() for each in (ring, at_once))
    assert error < 2 * least


def test_a_ring_says_which_shares_do_not_fit() -> None:
    query, key = torch.randn(2, 1, 1, 12, 16)
    with pytest.raises(ValueError, match="got 2 and 3 shares; needed are 3"):
        ring_attention(query.split(4, 2), key.split(6, 2), key.split(4, 2))
    uneven = key.split([2, 4, 6], 2)
    with pytest.raises(ValueError, match=r"shares of \[2, 4, 6\]"):
        ring_attention(query.split(4, 2), uneven, uneven, causal=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.randn(2, 3, 4)}, ValueError, r"query: got shape \(2, 3, 4\)"),
        ({"query": torch.randn(1, 2, 0, 16)}, ValueError, "each at least 1"),
        ({"key": torch.randn(1, 1, 5, 16)}, ValueError, "value: got shape"),
        ({"query": torch.randn(2, 2, 5, 16)}, ValueError, "key: got shape"),
        ({"query": torch.randn(1, 2, 5, 32)}, ValueError, "key: got shape"),
        ({"key": torch.randn(1, 2, 5, 16).half()}, ValueError, "key: is torch.float16"),
        ({"query": torch.ones(1, 2, 5, 16).int()}, TypeError, "query: got torch.int32"),
        ({"softmax_scale": 0.0}, ValueError, "softmax_scale: got 0.0"),
        ({"softmax_scale": float("nan")}, ValueError, "softmax_scale: got nan"),
        ({"backend": "cuda"}, ValueError, "backend: got 'cuda', allowed"),
        ({"softcap": -1.0}, ValueError, "softcap: got -1.0"),
        ({"window": (-2, 0)}, ValueError, r"window: got \(-2, 0\)"),
        ({"window": (1, 2, 3)}, ValueError, r"window: got \(1, 2, 3\)"),
        (
            {"key_lengths": torch.tensor([1.0])},
            TypeError,
            "key_lengths: got torch.float",
        ),
        ({"key_lengths": torch.tensor([6])}, ValueError, r"key_lengths: got \[6\]"),
        ({"key_lengths": torch.tensor([-1])}, ValueError, r"key_lengths: got \[-1\]"),
        ({"key_lengths": torch.tensor([1, 1])}, ValueError, "key_lengths: got shape"),
        ({"alibi_slopes": torch.ones(3)}, ValueError, "alibi_slopes: got shape"),
        (
            {"alibi_slopes": torch.ones(2, requires_grad=True)},
            ValueError,
            "alibi_slopes: requires a gradient",
        ),
    ],
)
def test_arguments_are_checked(
    change: dict, error: type[Exception], message: str
) -> None:
    arguments = {name: torch.randn(1, 2, 5, 16) for name in ("query", "key", "value")}
    arguments |= change
    with pytest.raises(error, match=message):
        flash_attention(**arguments)


@needs_triton
@pytest.mark.parametrize("head_dim", [8, 257])
def test_the_kernel_says_which_head_dims_it_takes(head_dim: int) -> None:
    tensors = inputs(4, 4, head_dim)
    with pytest.raises(ValueError, match=f"head_dim {head_dim}, the kernel takes 16"):
        flash_attention(*tensors, backend="triton")
    wide = [each.double() for each in inputs(4, 4, 16)]
    with pytest.raises(ValueError, match="float64, the kernel takes"):
        flash_attention(*wide, backend="triton")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source_root = os.path.join(os.path.dirname(__file__), "..", "code")
    base = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=base | {"PYTHONPATH": source_root} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_triton_all_but_the_kernel_works() -> None:
    done = run_python(
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from underhood.flash_attention import flash_attention, triton_mode\n"
        "assert triton_mode() == ''\n"
        "q = torch.randn(1, 1, 9, 16)\n"
        "flash_attention(q, q, q); flash_attention(q, q, q, backend='reference')\n"
        "flash_attention(q, q, q, backend='triton')\n"
    )
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith('ModuleNotFoundError: backend: "triton" needs the package triton')
    )


def test_the_kernel_file_stands_alone() -> None:
    """A reader can copy it: beyond the standard library it imports torch and triton."""
    with open(find_spec("underhood.flash_attention.kernel").origin) as file:
        tree = ast.parse(file.read())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "triton"}


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda", reason="about machines without a GPU")
def test_triton_imported_too_early_is_said() -> None:
    done = run_python(
        "import triton, torch\n"
        "from underhood.flash_attention import flash_attention\n"
        "q = torch.randn(1, 1, 9, 16)\n"
        "flash_attention(q, q, q, backend='triton')\n"
    )
    assert "set TRITON_INTERPRET=1 before triton is imported" in done.stderr
