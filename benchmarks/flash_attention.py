"""The kernels of FlashAttention on a GPU: right, then fast.

    python benchmarks/flash_attention.py

needs torch and triton, takes less than eight minutes on an H200, and writes
benchmarks/results/cuda/flash_attention.json. In order: every feature in float32,
float16 and bfloat16 is held to float64; candidates for the tile sizes are timed; each
step of the ladder is taken away again; then forward and forward + backward are timed
side by side with PyTorch's own kernels, 16k tokens at a time. Operations are counted as
4 B H N^2 D, half of it if causal, times 3.5 with the backward pass.

    python benchmarks/flash_attention.py --smoke FILE

goes through the same steps with tiny tensors and without a GPU. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib import util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(ROOT / "code"))

import triton  # noqa: E402
from flash_attention_checks import CASES, check  # noqa: E402

from underhood.flash_attention import flash_attention, kernel  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
TOKENS, HIDDEN = 16_384, 2048
LENGTHS = [512, 1024, 2048, 4096, 8192, 16_384]
WORKERS = 15
KERNELS = {each.__name__: each for each in kernel.CONFIGS}
# BLOCK_Q, BLOCK_K, num_warps, num_stages, to be timed beside those of kernel.py.
CANDIDATES = {
    ("attention_forward", 64): [(128, 64, 4, 3), (128, 64, 8, 3)],
    ("attention_forward", 128): [(128, 128, 8, 3), (128, 64, 8, 3)],
    ("attention_forward", 256): [(64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2)],
    ("attention_dq", 64): [(128, 64, 4, 2), (64, 64, 4, 2)],
    ("attention_dq", 128): [(64, 64, 4, 2), (64, 32, 4, 3)],
    ("attention_dq", 256): [(64, 32, 4, 2), (64, 64, 8, 1), (64, 64, 4, 1)],
    ("attention_dkdv", 64): [(64, 64, 4, 2), (32, 128, 4, 3)],
    ("attention_dkdv", 128): [(64, 128, 8, 2), (32, 64, 4, 2)],
    ("attention_dkdv", 256): [(32, 32, 4, 2), (64, 64, 8, 1), (32, 64, 8, 1)],
}
KEYS = "keys = tiles_of(head_of(key, batch, kv_head), facts[0], MODE.BLOCK_K, MODE)"
LOADS = "k, v = keys.load([first, 0]), values.load([first, 0])"
LOOP = "        for first in tl.range(edges[leg], edges[leg + 1], MODE.BLOCK_K):"
BY_POINTER = """@triton.jit
def by_pointer(head, first, length, CHECK: tl.constexpr, MODE: tl.constexpr):
    row = first + tl.arange(0, MODE.BLOCK_K)
    if CHECK:
        return load_tile(head, row, length, MODE)
    pointers = head[0] + (row.to(tl.int64) * head[1])[:, None]
    return tl.load(pointers + tl.arange(0, MODE.BLOCK_D)[None, :])


@triton.jit
def attention_forward("""
# What the kernel has, how to take it away, and how many times as long the forward pass
# was expected to take without it (causal, head_dim 128), before anything was measured.
LADDER: list[tuple[str, list[tuple[str, str]], float]] = [
    ("loads ahead of the arithmetic", [], 1.5),
    (
        "tiles copied by the hardware",
        [
            ("@triton.jit\ndef attention_forward(", BY_POINTER),
            (KEYS, "keys = head_of(key, batch, kv_head)"),
            (
                KEYS.replace("key", "value"),
                "values = head_of(value, batch, kv_head)",
            ),
            (
                LOADS,
                "k = by_pointer(keys, first, facts[0], leg != 1, MODE)\n            "
                "v = by_pointer(values, first, facts[0], leg != 1, MODE)",
            ),
        ],
        1.1,
    ),
    (
        "no mask on tiles that are seen in full",
        [("tl.maximum(full_stop // BLOCK * BLOCK, full_start)", "full_start")],
        1.15,
    ),
    (
        "exp2, with the scale folded in",
        [
            (
                "# The maximum is scaled, not the scores: one FMA for each of them.\n"
                "            new_max = tl.maximum(row_max, tl.max(scores, 1) * unit)",
                "scores *= unit * LN_2\n"
                "            new_max = tl.maximum(row_max, tl.max(scores, 1) * LOG2_E)",
            ),
            (
                "weights = tl.exp2(scores * unit - shift[:, None])\n"
                "            rescale",
                "weights = tl.exp(scores - (shift * LN_2)[:, None])\n"
                "            rescale",
            ),
        ],
        1.05,
    ),
    (
        "the longest walk first",
        [("top = (num_tiles - 1) * MODE.BLOCK_Q - top", "top += 0")],
        1.05,
    ),
]
# The scores of the next tile asked for before the softmax of this one, so that tensor
# cores and exponentials work at the same time. Expected to take 0.87 of the time.
AHEAD = (
    """@triton.jit
def online_softmax(scores, acc, row_max, row_sum, place, first, facts,
                   CHECK: tl.constexpr, MODE: tl.constexpr):
    column = (first + tl.arange(0, MODE.BLOCK_K))[None, :]
    scores, unit, _ = shape_scores(scores, place, column, facts, CHECK, MODE)
    new_max = tl.maximum(row_max, tl.max(scores, 1) * unit)
    shift = new_max
    if CHECK:
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores * unit - shift[:, None])
    rescale = tl.exp2(row_max - shift)
    row_sum = row_sum * rescale + tl.sum(weights, 1)
    return weights, acc * rescale[:, None], new_max, row_sum


@triton.jit
def attention_forward(""",
    """        start, stop = edges[leg], edges[leg + 1]
        if start < stop:
            last = start + (stop - start - 1) // MODE.BLOCK_K * MODE.BLOCK_K
            scores = tl.dot(q, keys.load([start, 0]).T)
            weights, acc, row_max, row_sum = online_softmax(
                scores, acc, row_max, row_sum, place, start, facts, leg != 1, MODE)
            scores = tl.dot(q, keys.load([start + MODE.BLOCK_K, 0]).T)
            for first in tl.range(start, last, MODE.BLOCK_K):
                after = first + MODE.BLOCK_K
                acc = tl.dot(weights.to(q.dtype), values.load([first, 0]), acc)
                ahead = tl.dot(q, keys.load([after + MODE.BLOCK_K, 0]).T)
                weights, acc, row_max, row_sum = online_softmax(
                    scores, acc, row_max, row_sum, place, after, facts, leg != 1, MODE)
                scores = ahead
            acc = tl.dot(weights.to(q.dtype), values.load([last, 0]), acc)
""",
)


def checks(part: int = 0, parts: int = 1) -> list[dict[str, Any]]:
    dtypes = [torch.float16, torch.float32] + [torch.bfloat16] * CUDA
    both = [(case, dtype) for case in CASES for dtype in dtypes]
    return [check(*each) for each in both[part::parts]]


def prepare() -> list[dict[str, Any]]:
    """Check in many processes, and compile; Triton keeps what it compiles on disk."""
    command = [sys.executable, __file__, "--worker"]
    workers = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(WORKERS)
    ]
    answers = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit("a worker failed")
    return [row for each in answers for row in json.loads(each.splitlines()[-1])]


def tensors_for(
    name: str, length: int, head_dim: int, dtype: torch.dtype = torch.float16
) -> tuple[torch.Tensor, ...]:
    """What a kernel is launched with; the values do not matter for its speed."""
    shape = (TOKENS // length, HIDDEN // head_dim, length, head_dim)
    q = torch.randn(shape, device=DEVICE, dtype=dtype)
    stat = torch.ones(shape[:3], device=DEVICE)
    return {
        "attention_forward": (q, q, q, torch.empty_like(q), stat),
        "attention_dq": (q, q, q, q, stat, q, stat, stat.clone(), torch.empty_like(q)),
        "attention_dkdv": (q, q, q, stat, q, stat, *torch.empty_like(q[None]).repeat(
            2, 1, 1, 1, 1)),
    }[name]  # fmt: skip


def milliseconds(run: Callable[[], Any]) -> float:
    if not CUDA:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    return float(triton.testing.do_bench(run, warmup=5, rep=25, return_mode="median"))


def trials() -> Iterator[tuple[str, int, bool, tuple[int, ...]]]:
    for (name, head_dim), candidates in CANDIDATES.items():
        default = kernel.CONFIGS[KERNELS[name]][head_dim]
        for causal in (False, True):
            for config in dict.fromkeys([default, *candidates]):
                yield name, head_dim, causal, config


def try_config(
    name: str,
    head_dim: int,
    causal: bool,
    config: tuple[int, ...],
    length: int,
    dtype: torch.dtype = torch.float16,
) -> float:
    """Milliseconds of one kernel; infinite where it asks for too much memory."""
    table = kernel.CONFIGS[KERNELS[name]]
    tensors = tensors_for(name, length, head_dim, dtype)
    kept, table[head_dim] = table[head_dim], config
    band = (-1, 0 if causal else -1)
    try:
        return milliseconds(
            lambda: kernel.launch(KERNELS[name], tensors, None, None, 0.1, *band, 0.0)
        )
    except Exception as error:  # the compiler's own classes differ by version
        print(name, head_dim, config, type(error).__name__, file=sys.stderr)
        return float("inf")
    finally:
        table[head_dim] = kept


def compile_all(part: int, parts: int) -> None:
    """Launch all that will be timed once; the times are thrown away."""
    dtypes = (torch.float16, torch.bfloat16)
    for trial, dtype in list(itertools.product(trials(), dtypes))[part::parts]:
        try_config(*trial, LENGTHS[-1], dtype)
    for changes in [*(step[1] for step in LADDER if step[1]), ahead()][part::parts]:
        time_changed(changes, LENGTHS[-1])


def tune(length: int) -> list[dict[str, Any]]:
    """Time all candidates, and take the best that serves causal and not."""
    rows: list[dict[str, Any]] = []
    for name, head_dim, causal, config in trials():
        ms = try_config(name, head_dim, causal, config, length)
        rows.append({"kernel": name, "head_dim": head_dim, "causal": causal,
                     "config": config,
                     "ms": None if ms == float("inf") else ms})  # fmt: skip
    for name, head_dim in CANDIDATES:
        total: dict[tuple[int, ...], float] = {}
        for row in rows:
            if (row["kernel"], row["head_dim"]) == (name, head_dim):
                weight = 2 if row["causal"] else 1  # half the work, equal say
                cost = weight * (row["ms"] or float("inf"))
                total[row["config"]] = total.get(row["config"], 0.0) + cost
        kernel.CONFIGS[KERNELS[name]][head_dim] = min(total, key=total.__getitem__)
    return rows


def ahead() -> list[tuple[str, str]]:
    """What changes kernel.py so that scores are computed one tile ahead."""
    source = Path(kernel.__file__).read_text(encoding="utf-8")
    start = source.index(LOOP)
    loop = source[start : source.index("    row_sum = tl.where(", start)]
    return [("@triton.jit\ndef attention_forward(", AHEAD[0]), (loop, AHEAD[1])]


def time_changed(changes: list[tuple[str, str]], length: int) -> float | None:
    """Milliseconds of a changed kernel.py: forward, causal, head_dim 128."""
    text = Path(kernel.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    # The compiler's cache, and the operators, need a name that only this text has.
    name = "changed_" + hashlib.sha256(text.encode()).hexdigest()[:12]
    file = Path(kernel.__file__).with_name(f"_{os.getpid()}_{name}.py")
    try:
        file.write_text(text.replace("flash::", f"{name}::"))
        spec = util.spec_from_file_location(name, file)
        assert spec and spec.loader
        other = util.module_from_spec(spec)
        spec.loader.exec_module(other)
        config = kernel.CONFIGS[kernel.attention_forward][128]
        other.CONFIGS[other.attention_forward][128] = config
        tensors = tensors_for("attention_forward", length, 128)
        args = (tensors, None, None, 0.1, -1, 0, 0.0)
        return milliseconds(lambda: other.launch(other.attention_forward, *args))
    except Exception as error:  # the compiler's own classes differ by version
        print(file.stem, type(error).__name__, error, file=sys.stderr)
        return None
    finally:
        file.unlink()


def ladder(length: int) -> list[dict[str, Any]]:
    """The forward pass with one step at a time taken away, and what was not kept."""
    config = kernel.CONFIGS[kernel.attention_forward][128]
    whole = try_config("attention_forward", 128, True, config, length)
    rows = []
    for step, changes, predicted in LADDER:
        if changes:
            slower = time_changed(changes, length)
        else:
            slower = try_config(
                "attention_forward", 128, True, (*config[:3], 1), length
            )
        rows.append({"step": step, "predicted": predicted,
                     "found": slower and slower / whole})  # fmt: skip
    changed = time_changed(ahead(), length)  # it may not fit into shared memory
    rows.append({"step": "scores one tile ahead", "predicted": 0.87, "kept": False,
                 "found": changed and changed / whole})  # fmt: skip
    return rows


def methods(length: int) -> dict[str, Callable[..., torch.Tensor]]:
    # Or the plain backend would compute in float32 and cast the result back.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)

    def sdpa(backend: SDPBackend) -> Callable[..., torch.Tensor]:
        def run(q: torch.Tensor, k: Any, v: Any, causal: bool) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return run

    found: dict[str, Callable[..., Any]] = {
        "ours": lambda q, k, v, causal: flash_attention(
            q, k, v, causal=causal, backend="triton"
        )
    }
    if CUDA:
        found["sdpa flash"] = sdpa(SDPBackend.FLASH_ATTENTION)
        found["sdpa cudnn"] = sdpa(SDPBackend.CUDNN_ATTENTION)
    if length <= 4096:
        found["plain"] = sdpa(SDPBackend.MATH)
    return found


def measure(length: int, head_dim: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Every method, causal and not, forward and both: milliseconds, TFLOP/s, bytes."""
    heads, batch = HIDDEN // head_dim, TOKENS // length
    shape = (batch, heads, length, head_dim)
    leaves = [
        torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_()
        for _ in range(3)
    ]
    d_out = torch.randn(shape, device=DEVICE, dtype=dtype)
    rows = []
    for causal in (False, True):
        for name, attend in methods(length).items():
            with torch.no_grad():
                forward = milliseconds(lambda a=attend, c=causal: a(*leaves, c))
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            both = milliseconds(
                lambda a=attend, c=causal: torch.autograd.grad(
                    a(*leaves, c), leaves, d_out
                )
            )
            peak = torch.cuda.max_memory_allocated() - held if CUDA else 0
            work = 4 * batch * heads * length**2 * head_dim * (0.5 if causal else 1)
            for what, ms, factor in (("forward", forward, 1), ("both", both, 3.5)):
                rows.append({
                    "method": name, "pass": what, "length": length,
                    "head_dim": head_dim, "causal": causal, "dtype": str(dtype)[6:],
                    "ms": ms, "tflops": factor * work / ms / 1e9, "peak_bytes": peak,
                })  # fmt: skip
    return rows


def commit() -> str:
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def record(
    seconds: float,
    lengths: list[int],
    in_workers: bool,
    given_commit: str = "",
    go_on: bool = False,
) -> dict[str, Any]:
    deadline = time.monotonic() + seconds

    def say(what: str) -> None:
        print(f"{deadline - time.monotonic():5.0f} s left: {what}", flush=True)

    held = prepare() if in_workers else [check(CASES[1], torch.float16)]
    worst = max(max(row["shares"]) for row in held)
    say(f"{len(held)} checks; errors take up at most {worst:.0%} of what is allowed")
    if (worst > 1 and not go_on) or not all(row["same_bits"] for row in held):
        raise SystemExit("the kernels are wrong: " + json.dumps(held, indent=1))
    defaults = {name: dict(kernel.CONFIGS[each]) for name, each in KERNELS.items()}
    tuned = tune(lengths[-1])
    chosen = {name: dict(kernel.CONFIGS[each]) for name, each in KERNELS.items()}
    say(f"tile sizes: {'as in kernel.py' if chosen == defaults else chosen}")
    steps = ladder(lengths[-1])
    say("ladder: " + ", ".join(f"{row['found'] or math.nan:.2f}" for row in steps))
    rows: list[dict[str, Any]] = []
    for dtype in (torch.float16, torch.bfloat16) if CUDA else (torch.float32,):
        for head_dim in (64, 128):
            for length in reversed(lengths):
                if time.monotonic() < deadline:
                    rows += measure(length, head_dim, dtype)
            say(f"{dtype}, head_dim {head_dim}")
    name = torch.cuda.get_device_name() if CUDA else platform.machine()
    return {
        "device": name,
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "triton": triton.__version__, "cuda": torch.version.cuda or "",
            "cudnn": str(torch.backends.cudnn.version() if CUDA else ""),
        },
        "date": date.today().isoformat(),
        "command": " ".join(["python benchmarks/flash_attention.py", *sys.argv[1:]]),
        "commit": given_commit or commit(),
        "data": {"checks": held, "tuned": tuned, "defaults": defaults, "chosen": chosen,
                 "ladder": steps, "rows": rows},
    }  # fmt: skip


def main() -> None:
    global TOKENS, HIDDEN
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--smoke", metavar="FILE", type=Path)
    parser.add_argument("--commit", default="", help="where there is no repository")
    parser.add_argument(
        "--go-on", action="store_true", help="with errors above the rule, recorded"
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "cuda" / "flash_attention.json"
    if given.worker is not None:
        held = checks(given.worker, WORKERS)
        compile_all(given.worker, WORKERS)
        print(json.dumps(held))
        return
    if given.smoke:
        TOKENS, HIDDEN, path = 32, 128, given.smoke
        CANDIDATES.clear()
        CANDIDATES["attention_forward", 64] = [(16, 16, 4, 1)]
        result = record(given.seconds, [16, 32], in_workers=False)
    elif CUDA:
        result = record(given.seconds, LENGTHS, True, given.commit, given.go_on)
    else:
        raise SystemExit("no GPU here: nothing to time (--smoke FILE goes through)")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    print(path)


if __name__ == "__main__":
    main()
