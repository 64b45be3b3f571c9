"""The rungs below the kernel: passes, the monoid, the memory model, the compiler."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from underhood.flash_attention import (
    FastMemory,
    FastMemoryExceeded,
    Partial,
    Stream,
    compile_kernels,
    delayed_attention,
    empty_partial,
    finish,
    keys_outside,
    merge,
    naive_softmax,
    one_pass_attention,
    online_attention,
    online_softmax,
    online_steps,
    paper_blocks,
    partial_attention,
    queries_outside,
    safe_attention,
    safe_softmax,
    standard_attention,
    tile_kind,
    triton_mode,
    visible_keys,
    widest_blocks,
)
from underhood.flash_attention.speeds import speeds


@pytest.mark.parametrize(
    ("softmax", "passes"), [(naive_softmax, 2), (safe_softmax, 3), (online_softmax, 2)]
)
@pytest.mark.parametrize("length", [1, 2, 100])
def test_softmax(softmax: object, passes: int, length: int) -> None:
    torch.manual_seed(length)
    values = torch.randn(length, dtype=torch.float64) * 10
    row = Stream(list(values))
    torch.testing.assert_close(
        softmax(row), torch.softmax(values, 0), atol=1e-14, rtol=1e-12
    )
    assert row.passes == passes
    assert row.visits == list(range(length)) * passes


def test_online_steps_know_every_prefix() -> None:
    values = torch.randn(200, dtype=torch.float64) * 10
    for end, step in enumerate(online_steps(Stream(list(values))), start=1):
        assert step.max == values[:end].max()
        wanted = torch.exp(values[:end] - values[:end].max()).sum()
        torch.testing.assert_close(step.sum, wanted, atol=0, rtol=1e-13)


@pytest.mark.parametrize(
    ("attention", "passes"),
    [
        (safe_attention, 3),
        (online_attention, 2),
        (one_pass_attention, 1),
        (delayed_attention, 1),
    ],
)
def test_attention_of_a_row(attention: object, passes: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(8, dtype=torch.float64) * 5
    key, value = torch.randn(2, 60, 8, dtype=torch.float64)
    pairs = Stream(list(zip(key, value, strict=True)))
    wanted = torch.softmax(key @ query, dim=0) @ value
    torch.testing.assert_close(attention(query, pairs), wanted, atol=1e-13, rtol=0)
    assert pairs.passes == passes


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="items: got none"):
        Stream([])


def part(scores: list[float]) -> Partial:
    row = torch.tensor([scores], dtype=torch.float64)  # (rows = 1, keys)
    value = torch.arange(2.0 * len(scores), dtype=torch.float64).reshape(-1, 2).sin()
    return partial_attention(row, value)


def assert_same(first: Partial, second: Partial) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


scores = st.lists(
    st.one_of(st.floats(-1e4, 1e4), st.just(-math.inf)), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None)
@given(scores, scores, scores)
def test_merge_is_a_commutative_monoid(
    first: list[float], second: list[float], third: list[float]
) -> None:
    a, b, c = part(first), part(second), part(third)
    nothing = empty_partial(torch.zeros(1, 1).double(), torch.zeros(1, 2).double())
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert_same(merge(a, b), merge(b, a))
    assert_same(merge(a, nothing), a)
    assert_same(merge(nothing, a), a)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_any_split_gives_the_whole(length: int, data: st.DataObject) -> None:
    torch.manual_seed(length)
    row = torch.randn(3, length, dtype=torch.float64) * 20
    value = torch.randn(length, 4, dtype=torch.float64)
    cut = data.draw(st.integers(0, length))
    halves = [
        partial_attention(row[:, span], value[span])
        for span in (slice(0, cut), slice(cut, length))
        if span.stop > span.start
    ]
    whole = empty_partial(row, value)
    for half in halves:
        whole = merge(whole, half)
    output, lse = finish(whole)
    wanted = torch.softmax(row, dim=-1) @ value
    torch.testing.assert_close(output, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, torch.logsumexp(row, dim=-1), atol=1e-12, rtol=0)


def test_a_row_that_saw_nothing() -> None:
    output, lse = finish(part([-math.inf, -math.inf]))
    assert output.tolist() == [[0.0, 0.0]]
    assert lse.tolist() == [-math.inf]


@settings(max_examples=200, deadline=None)
@given(
    *[st.integers(0, 12)] * 2,
    *[st.integers(1, 6)] * 2,
    st.integers(-8, 8),
    st.one_of(st.just((-1, 0)), st.tuples(*[st.integers(-1, 6)] * 2)),
)
def test_tile_kind(
    row: int,
    column: int,
    height: int,
    width: int,
    offset: int,
    window: tuple[int, int],
) -> None:
    """Held to the mask itself, counted cell by cell."""
    rows, columns = slice(row, row + height), slice(column, column + width)
    left, right = (side if side >= 0 else math.inf for side in window)
    side = range(12 + 6)
    seen = [i + offset - left <= j <= i + offset + right for i in side for j in side]
    seen = torch.tensor(seen).reshape(18, 18)[rows, columns]
    wanted = "full" if seen.all() else "masked" if seen.any() else "skipped"
    assert tile_kind(rows, columns, offset, window) == wanted
    assert torch.equal(visible_keys(rows, columns, offset, window=window), seen)
    if window == (-1, 0):
        assert tile_kind(rows, columns, offset) == wanted
        assert torch.equal(visible_keys(rows, columns, offset), seen)


def head(length: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(3, length, head_dim, dtype=torch.float64))


@pytest.mark.parametrize(("length", "head_dim"), [(64, 16), (100, 24), (257, 32)])
def test_the_memory_model_computes_attention(length: int, head_dim: int) -> None:
    query, key, value = head(length, head_dim)
    wanted = torch.softmax(query @ key.T / math.sqrt(head_dim), dim=-1) @ value
    capacity = 10_000
    for attention, sizes in (
        (standard_attention, ()),
        (keys_outside, paper_blocks(capacity, head_dim)),
        (queries_outside, widest_blocks(capacity, head_dim)),
    ):
        memory = FastMemory(capacity)
        output = attention(query, key, value, memory, *sizes)
        torch.testing.assert_close(output, wanted, atol=1e-13, rtol=0)
        assert memory.peak <= capacity
        assert memory.kept == 0


@pytest.mark.parametrize(("length", "head_dim", "capacity"), [(512, 16, 6400)])
def test_traffic_by_hand(length: int, head_dim: int, capacity: int) -> None:
    query, key, value = (each.to("meta") for each in head(length, head_dim))
    matrix, square = length * head_dim, length**2

    memory = FastMemory(capacity)
    standard_attention(query, key, value, memory)
    size = int(math.sqrt(head_dim**2 + capacity)) - head_dim
    tiles = math.ceil(length / size)
    assert memory.reads == 2 * square + matrix * (1 + 2 * tiles)
    assert memory.writes == 2 * square + matrix

    memory = FastMemory(capacity)
    block_q, block_k = 16, 100  # ceil(6400 / (4 * 16)) = 100, min(100, 16) = 16
    assert paper_blocks(capacity, head_dim) == (block_q, block_k)
    keys_outside(query, key, value, memory, block_q, block_k)
    outer = math.ceil(length / block_k)
    assert memory.reads == 2 * matrix + outer * (2 * matrix + 2 * length)
    assert memory.writes == outer * (matrix + 2 * length)

    memory = FastMemory(capacity)
    queries_outside(query, key, value, memory, 64, 16)
    assert memory.reads == matrix + length // 64 * 2 * matrix
    assert memory.writes == matrix + length


@pytest.mark.parametrize(("capacity", "head_dim"), [(10_000, 24), (6400, 16)])
def test_no_wider_block_has_room(capacity: int, head_dim: int) -> None:
    tensors = [each.to("meta") for each in head(128, head_dim)]
    block_q, block_k = widest_blocks(capacity, head_dim)
    queries_outside(*tensors, FastMemory(capacity), block_q, block_k)
    with pytest.raises(FastMemoryExceeded):
        queries_outside(*tensors, FastMemory(capacity), block_q + 1, block_k)


def test_too_small_a_memory_raises() -> None:
    query, key, value = head(256, 16)
    with pytest.raises(FastMemoryExceeded, match="words in a fast memory of 900"):
        # M < 4 d^2 = 1024: with the sizes of the paper the scores have no room.
        keys_outside(query, key, value, FastMemory(900), *paper_blocks(900, 16))
    with pytest.raises(FastMemoryExceeded):
        standard_attention(query, key, value, FastMemory(255))  # a row has 256
    with pytest.raises(ValueError, match="leave no room for a query"):
        widest_blocks(500, 16)
    with pytest.raises(ValueError, match="capacity: got 0"):
        FastMemory(0)


def test_compile_kernels_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="capability: got 70"):
        compile_kernels(70)


ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not triton_mode(), reason="triton is not installed")
def test_the_benchmark_records_what_the_page_shows(tmp_path: Path) -> None:
    """It runs through, tiny, and its recording has the form of that of the page."""
    file = tmp_path / "flash_attention.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "flash_attention.py")]
    done = subprocess.run(
        [*command, "--smoke", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = ROOT / "benchmarks" / "results" / "cuda" / "flash_attention.json"
    tiny, real = (json.loads(each.read_text())["data"] for each in (file, shown))
    assert tiny.keys() == real.keys()
    for table in ("checks", "tuned", "ladder", "rows"):
        assert tiny[table][0].keys() == real[table][0].keys(), table
    assert [step["step"] for step in tiny["ladder"]] == [
        step["step"] for step in real["ladder"]
    ]
    case = {"what": "forward", "head_dim": 64, "causal": True, "dtype": "float32"}
    assert speeds(tiny["rows"], **case)["ours"].keys() == {16, 32}
    assert all(row["tflops"] > 0 and row["ms"] > 0 for row in tiny["rows"])


class Products(TorchDispatchMode):
    """The dtypes in which a call has matrices multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "mm" in str(function):
            self.dtypes.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(not triton_mode(), reason="triton is not installed")
def test_the_plain_baseline_computes_in_the_dtype_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's plain backend casts half precision to float32 unless told not to."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    file = ROOT / "benchmarks" / "flash_attention.py"
    spec = spec_from_file_location("flash_attention_benchmark", file)
    benchmark = module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    query = torch.zeros(1, 1, 64, 64, dtype=torch.float16)
    with torch.no_grad(), Products() as seen:
        benchmark.methods(64)["plain"](query, query, query, causal=False)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    assert seen.dtypes == {torch.float16}
