"""Time and memory of attention against length: softmax, each linear form, fla.

    python benchmarks/linear_attention.py [--device cuda] [--longest 16] [--seconds 100]

Writes benchmarks/results/<cpu or cuda>/linear_attention.json. Before anything is timed,
every method is held to the quadratic form in float64, at length 1024. Every round times
every method once at the same length, so that a busy machine slows all of them; what is
compared are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "code"))

from underhood.linear_attention import (  # noqa: E402
    kernel_mode,
    linear_attention,
    peak_bytes,
    triton_linear_attention,
)

HEADS = {"cpu": 1, "cuda": 16}
HEAD_DIM = 64
ROUNDS = 11
# Longer than this a method takes too long, or too much memory.
LONGEST = {
    "cpu": {
        "recurrent": 14,
        "quadratic": 13,
        "scan": 13,
        "sdpa, not causal": 14,
        "chunked, not causal": 14,
    },
    "cuda": {"recurrent": 12, "scan": 13, "quadratic": 15},
}
Method = Callable[[], Any]


def inputs(device: str, length: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    shape = (3, 1, HEADS[device], length, HEAD_DIM)
    return torch.randn(shape).to(device, dtype).unbind()


def methods(device: str, length: int) -> dict[str, Method]:
    query, key, value = inputs(device, length)
    found: dict[str, Method] = {
        "sdpa": lambda: F.scaled_dot_product_attention(
            query, key, value, is_causal=True
        ),
        "sdpa, not causal": lambda: F.scaled_dot_product_attention(query, key, value),
        "chunked, not causal": lambda: linear_attention(
            query, key, value, form="chunked", chunk_size=256
        ),
    }
    for form in ("quadratic", "recurrent", "chunked", "scan"):
        found[form] = lambda form=form: linear_attention(
            query, key, value, causal=True, form=form, chunk_size=64
        )
    if device == "cuda" and kernel_mode() == "cuda":
        found["kernel"] = lambda: triton_linear_attention(query, key, value)[0]
    found.update(fla_methods(query, key, value) if device == "cuda" else {})
    longest = LONGEST[device]
    return {
        name: each
        for name, each in found.items()
        if length <= 2 ** longest.get(name, 30)
    }


def fla_methods(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> dict[str, Method]:
    """flash-linear-attention, if it is installed; its layout is (b, length, h, d)."""
    try:
        from fla.ops.linear_attn import chunk_linear_attn
    except ImportError:
        return {}

    # Its layout is its choice: the copies into it are not timed.
    q, k, v = (each.transpose(1, 2).contiguous() for each in (query, key, value))

    def run() -> Any:
        out, _ = chunk_linear_attn(F.elu(q) + 1, F.elu(k) + 1, v, scale=1.0)
        return out.transpose(1, 2)

    return {"fla chunk": run}


def errors(device: str, length: int = 1024) -> dict[str, float]:
    """The largest error of each method, in units of its largest exact output.

    Raises:
        RuntimeError: it is more than the dtype explains; nothing is timed then.
    """
    query, key, value = (each.double() for each in inputs(device, length))
    allowed = 1e-4 if device == "cpu" else 3e-2
    found = {}
    for name, run in methods(device, length).items():
        causal = "not causal" not in name
        if "sdpa" in name:
            exact = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        else:
            exact = linear_attention(query, key, value, causal=causal, form="quadratic")
        gap = (run().double() - exact).abs().max() / exact.abs().max()
        found[name] = gap.item()
        if not found[name] < allowed:
            raise RuntimeError(f"{name}: off by {found[name]:.1e}, not timed")
    return found


def seconds_of(method: Method, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    method()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(device: str, length: int, deadline: float) -> list[dict[str, Any]]:
    """One row per method: median seconds, ratio to softmax, peak bytes."""
    found = methods(device, length)
    memory = {name: peak_bytes(each) for name, each in found.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(ROUNDS):
        if turn >= 3 and time.monotonic() > deadline:
            break
        for name, each in found.items():
            times[name].append(seconds_of(each, device))
    rows = []
    for name, taken in times.items():
        base = times["sdpa, not causal" if "not causal" in name else "sdpa"]
        ratios = [t / b for t, b in zip(taken, base, strict=True)]
        rows.append(
            {
                "method": name,
                "length": length,
                "seconds": statistics.median(taken),
                "over_sdpa": statistics.median(ratios),
                "rounds": len(taken),
                "peak_bytes": memory[name],
            }
        )
    return rows


def crossover(rows: list[dict[str, Any]], method: str) -> int | None:
    """The first measured length from which on the method stays below softmax."""
    faster = {r["length"]: r["over_sdpa"] < 1 for r in rows if r["method"] == method}
    first = None
    for length in sorted(faster, reverse=True):
        if not faster[length]:
            break
        first = length
    return first


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"2 CPU cores (one thread), {platform.system()} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--longest", type=int, help="exponent of 2: 16")
    parser.add_argument("--seconds", type=float, default=100.0)
    given = parser.parse_args()
    longest = given.longest or 16
    # Two threads wait for each other whenever anything else runs on the machine.
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        found = errors(given.device)
        print({name: f"{error:.0e}" for name, error in found.items()}, flush=True)
        deadline = time.monotonic() + given.seconds
        for exponent in range(8, longest + 1):
            rows += measure(given.device, 2**exponent, deadline)
            print(2**exponent, f"{deadline - time.monotonic():.0f} s left", flush=True)
    names = dict.fromkeys(row["method"] for row in rows)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if given.device == "cuda":
        for package in ("triton", "flash-linear-attention"):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
    command = "python benchmarks/linear_attention.py"
    if given.device != "cpu":
        command += f" --device {given.device}"
    recording = {
        "device": device_name(given.device),
        "versions": versions,
        "date": date.today().isoformat(),
        "command": command,
        "data": {
            "heads": HEADS[given.device],
            "head_dim": HEAD_DIM,
            "chunk_size": 64,
            "errors": found,
            "rows": rows,
            "crossover": {name: crossover(rows, name) for name in names},
        },
    }
    path = ROOT / "benchmarks" / "results" / given.device / "linear_attention.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
