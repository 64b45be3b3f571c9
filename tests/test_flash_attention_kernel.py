"""The operator, forward and backward, held to float64 by FlashAttention-2's own rule.

The error of the output is at most twice, that of the gradients at most three times the
error of the plain formula in the same dtype (tests/test_flash_attn.py of flash-attn).
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from underhood.flash_attention import flash_attention, triton_mode

MODE = triton_mode()
if not MODE:
    pytest.skip("triton is not installed", allow_module_level=True)

from underhood.flash_attention import kernel  # noqa: E402

DEVICE = "cuda" if MODE == "gpu" else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (MODE == "gpu")
NO_WINDOW = (-1, -1)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call, and the inputs for it."""

    lengths: tuple[int, int]
    head_dim: int = 16
    dtype: torch.dtype = torch.float32
    causal: bool = False
    heads: tuple[int, int] = (1, 1)
    window: tuple[int, int] = NO_WINDOW
    softcap: float = 0.0
    alibi: bool = False
    padded: bool = False  # two sequences, the second with a third of the keys

    def inputs(self) -> tuple[list[Tensor], dict[str, Any]]:
        n, m = self.lengths
        torch.manual_seed(n * 7919 + m * 31 + self.head_dim)
        batch = 2 if self.padded else 1
        shapes = [
            (batch, heads, length, self.head_dim)
            for heads, length in zip(
                (self.heads[0], *[self.heads[1]] * 2), (n, m, m), strict=True
            )
        ]
        tensors = [torch.randn(s, device=DEVICE).to(self.dtype) for s in shapes]
        options: dict[str, Any] = {
            "causal": self.causal,
            "window": self.window,
            "softcap": self.softcap,
        }
        if self.alibi:
            slopes = 2.0 ** -torch.arange(1, self.heads[0] + 1, device=DEVICE)
            # One for each head, or for each head of each sequence.
            options["alibi_slopes"] = (
                torch.stack([slopes, slopes / 3]) if self.padded else slopes
            )
        if self.padded:
            options["key_lengths"] = torch.tensor([m, m // 3], device=DEVICE)
        return tensors, options


def formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] = NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    key_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention and logsumexp in the dtype of the inputs, without code under test."""
    batch, heads, n, head_dim = query.shape
    m, group = key.shape[2], heads // key.shape[1]
    key, value = (each.repeat_interleave(group, dim=1) for each in (key, value))
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * head_dim**-0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    own = torch.full((batch,), m, device=query.device)
    own = own if key_lengths is None else key_lengths
    place = torch.arange(n, device=query.device) + (own - n)[:, None]
    place = place[:, None, :, None]  # (batch, 1, n, 1)
    column = torch.arange(m, device=query.device)
    if alibi_slopes is not None:
        slopes = alibi_slopes.to(scores)[..., None, None]
        scores = scores - slopes * (place - column).abs()
    left, right = window[0], 0 if causal else window[1]
    hidden = (column >= own[:, None, None, None]).expand(batch, 1, n, m)
    if left >= 0:
        hidden = hidden | (column < place - left)
    if right >= 0:
        hidden = hidden | (column > place + right)
    scores = scores.masked_fill(hidden, -torch.inf)
    blind = hidden.all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)
    return weights @ value, torch.logsumexp(scores.double(), dim=-1)


def gradients(output: Tensor, tensors: list[Tensor], d_output: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output, tensors, d_output.to(output)))


def what_cancels(
    case: Case, tensors: list[Tensor], d_output: Tensor
) -> dict[str, float]:
    """The sizes of dP and Delta in dS = P * (dP - Delta), as parts of gradients.

    With one key dS is 0. The plain formula gets exactly that; the kernel adds up the
    two in two orders. On a GPU, in float32, where no output is rounded, they differ.
    """
    if MODE != "gpu" or case.dtype != torch.float32 or case.lengths[1] > 1:
        return {}
    query, key, value = (t.double() for t in tensors)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    size = (d_output.double() @ value.mT).abs().max() * case.head_dim**-0.5
    return {
        "d query": float(size * key.abs().max()),
        "d key": float(size * query.abs().max()),
    }


def hold(case: Case) -> None:
    """FlashAttention-2's rule.

    A rounding or three at the size of the result, or of what cancels, are free.
    """
    tensors, options = case.inputs()
    # In float32 the kernel adds the products of two rows in one chain, as a CPU does.
    # cuBLAS adds them in several, so its error is not one to be held to.
    place = torch.device("cpu" if case.dtype == torch.float32 else DEVICE)
    ours, exact = ([t.to(d).requires_grad_() for t in tensors]
                   for d in (case.dtype, torch.double))  # fmt: skip
    plain = [t.to(place, copy=True).requires_grad_() for t in tensors]
    there = {k: v.to(place) if torch.is_tensor(v) else v for k, v in options.items()}
    output, lse = flash_attention(*ours, return_lse=True, backend="triton", **options)
    plain_output, _ = formula(*plain, **there)
    truth, true_lse = formula(*exact, **options)
    torch.testing.assert_close(lse.double(), true_lse, atol=2e-5, rtol=1e-5)
    d_output = torch.randn_like(output)
    found = [output, *gradients(output, ours, d_output)]
    naive = [plain_output, *gradients(plain_output, plain, d_output)]
    wanted = [truth, *gradients(truth, exact, d_output)]
    cancelled = what_cancels(case, tensors, d_output)
    rules = (("output", 2, 1), ("d query", 3, 3), ("d key", 3, 3), ("d value", 3, 3))
    for (name, factor, free), x, y, z in zip(rules, found, naive, wanted, strict=True):
        error = (x.double() - z).abs().max().item()
        size = max(1.0, z.abs().max().item(), cancelled.get(name, 0.0))
        rounding = torch.finfo(case.dtype).eps * size
        worse = (y.double().to(z.device) - z).abs().max().item()
        allowed = factor * worse + free * rounding
        assert error <= allowed, f"{name}: {error:.1e}, allowed {allowed:.1e}: {case}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_every_length(head_dim: int, causal: bool, dtype: torch.dtype) -> None:
    for length in (1, 17, 64, 97, 128, 200):
        hold(Case((length, length), head_dim, dtype, causal))


# Each of these meets most others in some case; the interpreter takes 0.3 s for one.
MORE = [
    Case((113, 203), 80, causal=True),
    Case((128, 217), 128, torch.float16),
    Case((108, 256), 40, torch.float16, causal=True, heads=(4, 2)),
    Case((203, 113), 59, causal=True),
    Case((1, 130), 111, torch.float16, causal=True, heads=(2, 1)),
    Case((130, 1), 32, causal=True),
    Case((5, 2), 64, torch.float16, causal=True),
    Case((257, 97), 160, torch.float16),
    Case((97, 130), 192, causal=True, heads=(2, 1)),
    Case((70, 90), 256, torch.float16, causal=True),
    Case((70, 90), 224, window=(20, -1)),
    Case((200, 300), 64, torch.float16, causal=True, window=(64, 0)),
    Case((130, 97), 32, window=(10, 5), heads=(2, 1)),
    Case((97, 97), 64, window=(1, 0)),
    Case((40, 60), 16, window=(0, 9)),
    Case((96, 200), 32, torch.float16, window=(-1, 30)),
    Case((97, 130), 64, causal=True, softcap=5.0),
    Case((97, 130), 64, softcap=30.0, alibi=True, heads=(4, 4)),
    Case((130, 97), 32, torch.float16, causal=True, alibi=True, heads=(4, 1)),
    Case((64, 200), 32, padded=True, causal=True),
    Case((90, 120), 64, torch.float16, padded=True, heads=(4, 2)),
    Case(
        (33, 130),
        40,
        padded=True,
        window=(16, 16),
        alibi=True,
        softcap=10.0,
        heads=(2, 1),
    ),
    Case((70, 130), 16, padded=True, causal=True, window=(40, -1), heads=(6, 3)),
]


@pytest.mark.parametrize("case", MORE, ids=str)
def test_more_shapes_and_features(case: Case) -> None:
    hold(case)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("case", MORE, ids=str)
def test_the_rungs_below_the_kernel_in_float64(backend: str, case: Case) -> None:
    tensors, options = dataclasses.replace(case, dtype=torch.double).inputs()
    ours, exact = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
    output, lse = flash_attention(*ours, return_lse=True, backend=backend, **options)
    truth, true_lse = formula(*exact, **options)
    torch.testing.assert_close(lse, true_lse, atol=1e-13, rtol=1e-13)
    d_output = torch.randn_like(output)
    found = [output, *gradients(output, ours, d_output)]
    wanted = [truth, *gradients(truth, exact, d_output)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.skipif(MODE != "gpu", reason="bfloat16 is wrong in the interpreter")
@pytest.mark.parametrize("case", MORE, ids=str)
def test_bfloat16_on_a_gpu(case: Case) -> None:
    hold(dataclasses.replace(case, dtype=torch.bfloat16))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in kernel.CONFIGS:
        monkeypatch.setitem(kernel.CONFIGS, name, dict.fromkeys((64,), (16, 16, 4, 1)))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("window", [(-1, 0), (-1, -1), (7, 0), (20, 3)])
def test_every_alignment_of_the_band_with_the_tiles(window: tuple[int, int]) -> None:
    """Off-by-one errors at ragged ends show at one key length in 16."""
    for key_length in range(14, 34):
        hold(Case((21, key_length), window=window))


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
def test_rows_that_see_nothing_have_no_gradient(backend: str) -> None:
    tensors, options = Case((50, 20), causal=True, padded=True).inputs()
    tensors = [each.requires_grad_() for each in tensors]
    output, lse = flash_attention(*tensors, return_lse=True, backend=backend, **options)
    blind = lse == -torch.inf
    assert blind.sum().item() == (50 - 20) + (50 - 6)
    assert (output[blind] == 0).all()
    # A gradient that is not finite at such a row must not get through, either.
    d_lse = torch.ones_like(lse).masked_fill(blind, torch.nan)
    d_output = torch.ones_like(output)
    if backend == "reference":
        d_lse = torch.zeros_like(lse)
    d_query, d_key, d_value = torch.autograd.grad(
        (output, lse), tensors, (d_output, d_lse)
    )
    assert (d_query[blind] == 0).all()
    for each in (d_query, d_key, d_value):
        assert each.isfinite().all()
    assert (d_key[1, :, 6:] == 0).all() and (d_value[1, :, 6:] == 0).all()


@pytest.mark.parametrize("backend", ["tiled", "triton"])
def test_padding_is_never_read(backend: str) -> None:
    """An unused part of a cache may hold anything."""
    (query, key, value), options = Case((20, 40), padded=True).inputs()
    clean = flash_attention(query, key, value, backend=backend, **options)
    key[1, :, 13:], value[1, :, 13:] = torch.nan, torch.inf
    tensors = [each.requires_grad_() for each in (query, key, value)]
    dirty = flash_attention(*tensors, backend=backend, **options)
    assert torch.equal(clean, dirty)
    for each in gradients(dirty, tensors, torch.ones_like(dirty)):
        assert each.isfinite().all()


@pytest.mark.parametrize(("given", "counted"), [(40, 20), (-3, 0)])
@pytest.mark.parametrize("window", [NO_WINDOW, (5, -1), (-1, 0)])
def test_a_length_that_no_cache_has(
    given: int, counted: int, window: tuple[int, int]
) -> None:
    """The cache is a view: what lies behind it in the buffer belongs to others."""
    torch.manual_seed(0)
    query = torch.randn(1, 1, 20, 16, device=DEVICE)
    cache = torch.randn(2, 1, 1, 64, 16, device=DEVICE)[:, :, :, :20]

    def run(length: int) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() for each in (query, *cache)]
        lengths = torch.tensor([length], device=DEVICE)
        output, lse = kernel.triton_attention(
            *leaves, key_lengths=lengths, window=window
        )
        return [output, lse, *gradients(output, leaves, torch.ones_like(output))]

    for found, wanted in zip(run(given), run(counted), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("shapes", "scale", "message"),
    [
        (((1, 4, 9, 16), (1, 3, 9, 16), (1, 3, 9, 16)), None, "do not fit"),
        (((1, 4, 9, 16), (1, 4, 9, 16), (1, 4, 5, 16)), None, "do not fit"),
        (((1, 4, 9, 16), (1, 4, 9, 16), (1, 4, 9, 32)), None, "do not fit"),
        (((1, 4, 9, 32), (1, 4, 9, 16), (1, 4, 9, 16)), None, "do not fit"),
        (((3, 4, 9, 16), (1, 4, 9, 16), (1, 4, 9, 16)), None, "do not fit"),
        (((1, 1, 9, 8),) * 3, None, "head_dim 8,"),
        (((1, 1, 9, 512),) * 3, None, "head_dim 512,"),
        (((1, 1, 9, 16),) * 3, -1.0, "scale -1.0; allowed"),
    ],
)
def test_the_function_that_is_copied_checks_its_arguments(
    shapes: tuple[tuple[int, ...], ...], scale: float | None, message: str
) -> None:
    """No kernel starts that would read past the end of a tensor."""
    tensors = [torch.zeros(shape, device=DEVICE) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        kernel.triton_attention(*tensors, softmax_scale=scale)


@pytest.mark.parametrize("backend", ["reference", "tiled", "triton"])
def test_gradients_at_huge_logits(backend: str) -> None:
    key = torch.tensor([1e4, -1e4], device=DEVICE).repeat(20)[None, None, :, None]
    key = key.expand(1, 1, 40, 16).contiguous().requires_grad_()
    query = torch.full((1, 1, 40, 16), 1 / 16, device=DEVICE, requires_grad=True)
    value = torch.randn(1, 1, 40, 16, device=DEVICE, requires_grad=True)
    tensors = (query, key, value)
    output = flash_attention(*tensors, softmax_scale=1.0, causal=True, backend=backend)
    for each in (output, *gradients(output, list(tensors), torch.ones_like(output))):
        assert each.isfinite().all()


def test_two_runs_give_the_same_bits() -> None:
    tensors, options = Case((97, 130), 32, heads=(4, 2), causal=True).inputs()

    def run() -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in tensors]
        output = flash_attention(*leaves, backend="triton", **options)
        return [output, *gradients(output, leaves, torch.ones_like(output))]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_the_logsumexp_has_a_gradient() -> None:
    tensors, options = Case((30, 45), causal=True).inputs()
    ours = [each.clone().requires_grad_() for each in tensors]
    exact = [each.double().requires_grad_() for each in tensors]
    _, lse = flash_attention(*ours, return_lse=True, backend="triton", **options)
    _, wanted = formula(*exact, **options)
    weight = torch.randn_like(lse)
    found = torch.autograd.grad(lse, ours, weight)
    truth = torch.autograd.grad(wanted, exact[:2], weight.double())
    for a, b in zip(found[:2], truth, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-6, rtol=1e-5)
    assert (found[2] == 0).all()  # the values have no part in it


def operator_arguments(**changes: Any) -> tuple[Any, ...]:
    case = Case((20, 33), causal=True, heads=(2, 1), padded=True)
    (query, key, value), options = dataclasses.replace(case, **changes).inputs()
    tensors = [each.requires_grad_() for each in (query, key, value)]
    lengths = options["key_lengths"].int()
    slopes = torch.full((4,), 0.5, device=DEVICE)
    return (*tensors, lengths, slopes, 0.25, 8, 0, 10.0)


def test_the_operator_passes_opcheck() -> None:
    torch.library.opcheck(kernel.forward_op, operator_arguments())
    query, key, value, *rest = operator_arguments()
    strided = (query.detach().mT.contiguous().mT, key, value)
    strided = [each.detach().requires_grad_() for each in strided]
    strided[0] = query.detach().transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(kernel.forward_op, (*strided, *rest))


def test_the_operator_works_under_compile() -> None:
    tensors, options = Case((20, 33), causal=True).inputs()

    def loss(*tensors: Tensor) -> Tensor:
        return flash_attention(*tensors, backend="triton", **options).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for length in (33, 41):  # another shape: compiled again, or symbolic
        grown = [tensors[0], *(torch.randn(1, 1, length, 16, device=DEVICE),) * 2]
        leaves = [[t.clone().requires_grad_() for t in grown] for _ in range(2)]
        a, b = compiled(*leaves[0]), loss(*leaves[1])
        assert torch.equal(a, b)
        for x, y in zip(
            torch.autograd.grad(a, leaves[0]),
            torch.autograd.grad(b, leaves[1]),
            strict=True,
        ):
            torch.testing.assert_close(x, y)


def test_the_graph_can_be_used_twice() -> None:
    tensors, options = Case((20, 33), causal=True).inputs()
    leaves = [each.requires_grad_() for each in tensors]
    output = flash_attention(*leaves, backend="triton", **options).sum()
    first = torch.autograd.grad(output, leaves, retain_graph=True)
    second = torch.autograd.grad(output, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", ["tiled", "triton"])
def test_gradients_of_strided_inputs(backend: str) -> None:
    """Packed (batch, length, 3, heads, head_dim) memory, flipped and expanded."""
    torch.manual_seed(0)
    packed = torch.randn(2, 40, 3, 2, 24, device=DEVICE, dtype=torch.float32)
    leaves = [packed.clone().requires_grad_(), packed.double().requires_grad_()]

    def views(leaf: Tensor) -> list[Tensor]:
        query, key, value = leaf[..., 4:20].permute(2, 0, 3, 1, 4)
        value = value[:, :1].expand(-1, 2, -1, -1)
        return [query[:, :, ::2], key.flip(2).mT.contiguous().mT, value]

    output = flash_attention(*views(leaves[0]), causal=True, backend=backend)
    wanted, _ = formula(*views(leaves[1]), causal=True)
    weight = torch.randn(2, 20, 2, 16, device=DEVICE).transpose(1, 2)
    (found,) = torch.autograd.grad(output, leaves[0], weight)
    (truth,) = torch.autograd.grad(wanted, leaves[1], weight.double())
    torch.testing.assert_close(found.double(), truth, atol=5e-6, rtol=1e-5)


def test_the_output_keeps_the_memory_order_of_the_query() -> None:
    """(batch, length, heads, head_dim) in, the same out: no copy in a model."""
    query = torch.randn(2, 20, 3, 16, device=DEVICE).transpose(1, 2)
    output = flash_attention(query, query, query, backend="triton")
    assert output.stride() == query.stride()


ALONE = """
import torch
from kernel import triton_attention
device = "cuda" if torch.cuda.is_available() else "cpu"
shapes = [(1, heads, 40, 32) for heads in (4, 2, 2)]
q, k, v = (torch.randn(s, device=device, requires_grad=True) for s in shapes)
out, _ = triton_attention(q, k, v, causal=True)
out.square().sum().backward()
wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
wanted = torch.nn.functional.scaled_dot_product_attention(
    *wide, is_causal=True, enable_gqa=True)
wanted.square().sum().backward()
pairs = [(a.grad, b.grad) for a, b in zip((q, k, v), wide)]
print(max(float(((a - b).abs().max() / b.abs().max())) for a, b in pairs))
"""


def test_the_file_works_when_copied_alone(tmp_path: Path) -> None:
    """A reader copies kernel.py into an empty folder: forward and backward run."""
    source = Path(find_spec("underhood.flash_attention.kernel").origin)
    assert len(source.read_text().splitlines()) <= 350
    shutil.copy(source, tmp_path / "kernel.py")
    (tmp_path / "main.py").write_text(ALONE)
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={"TRITON_INTERPRET": str(int(DEVICE == "cpu")), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2e-6


VARIANTS: list[tuple[int, str, int, dict[str, Any]]] = [
    (90, "float16", 64, {"causal": True}),
    (90, "bfloat16", 128, {"causal": True, "window": (256, 0), "key_heads": 1}),
    (90, "float16", 200, {"key_lengths": True, "alibi_slopes": True, "softcap": 30.0}),
    (80, "float16", 128, {"causal": True}),
    (89, "float16", 128, {}),  # with less shared memory the tiles become smaller
    (90, "float32", 64, {}),
]


@pytest.mark.parametrize(("capability", "dtype", "head_dim", "options"), VARIANTS)
def test_the_kernels_compile_ahead_of_time(
    capability: int, dtype: str, head_dim: int, options: dict[str, Any]
) -> None:
    from underhood.flash_attention import compile_kernels

    found = compile_kernels(capability, dtype, head_dim, **options)
    assert len(found) == 3
    limit = {80: 163, 89: 99, 90: 227}[capability] * 1024
    tensor_cores = "wgmma" if capability == 90 else "mma.sync"
    other = "mma.sync" if capability == 90 else "wgmma"
    for name, each in found.items():
        assert 0 < each["shared_bytes"] <= limit, name
        assert (each[tensor_cores] > 0) == (dtype != "float32"), name
        assert each[other] == 0, name
        assert each["ex2"] > 0, name
        # Such a division of the output broke the rule in float32, on a GPU alone.
        assert (each["div.full"] > 0) <= ("softcap" in options), name
        assert each["atom"] == 0, name  # nothing is summed in an order of chance
        # The two sums of dK and dV leave little room beside a window's three legs.
        if dtype == "float32":  # its operands stand in registers, so tiles are small
            assert each["spilled"] == 0, name
        elif capability == 90 and head_dim <= 128:
            assert each["spilled"] <= (256 if name == "attention_dkdv" else 0), name
