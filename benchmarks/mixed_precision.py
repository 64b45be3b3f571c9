"""Speed and memory by precision: one matrix product, and a step of a Transformer.

    python benchmarks/mixed_precision.py [--device cuda]

Writes benchmarks/results/<cpu or cuda>/mixed_precision.json: medians of repeated
runs. On a GPU it takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "code"))

SIDE = {"cpu": 1024, "cuda": 8192}
ROUNDS = {"cpu": 7, "cuda": 15}
# width, layers, batch, length
MODEL = {"cpu": (256, 2, 8, 128), "cuda": (1024, 12, 16, 1024)}
PRECISIONS = ("FP32", "TF32", "autocast BF16", "autocast FP16", "BF16 throughout")


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def set_tf32(on: bool) -> None:
    torch.set_float32_matmul_precision("high" if on else "highest")


def products(device: str) -> dict[str, Callable[[], Any]]:
    """The same square product in each dtype that the device has."""
    side = SIDE[device]
    a, b = torch.randn(2, side, side, device=device).unbind()

    def in_float32(tf32: bool) -> Callable[[], Any]:
        def work() -> Any:
            set_tf32(tf32)
            return a @ b

        return work

    found = {"FP32": in_float32(False)}
    if device == "cuda":
        found["TF32"] = in_float32(True)
    for name, dtype in (("FP16", torch.float16), ("BF16", torch.bfloat16)):
        low = a.to(dtype), b.to(dtype)
        found[name] = lambda low=low: low[0] @ low[1]
    if device == "cuda" and torch.cuda.get_device_capability() >= (8, 9):
        left, right = (
            a.to(torch.float8_e4m3fn),
            b.T.contiguous().to(torch.float8_e4m3fn),
        )
        one = torch.ones((), device=device)
        found["FP8 E4M3"] = lambda: torch._scaled_mm(
            left, right.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    return found


def measure_products(device: str) -> list[dict[str, Any]]:
    found = products(device)
    times: dict[str, list[float]] = {name: [] for name in found}
    for work in found.values():
        for _ in range(3):
            work()
    for _ in range(ROUNDS[device]):
        for name, work in found.items():
            times[name].append(seconds_of(work, device))
    rows = []
    for name, taken in times.items():
        seconds = statistics.median(taken)
        rate = 2 * SIDE[device] ** 3 / seconds / 1e12
        rows.append({"format": name, "seconds": seconds, "tflops": rate})
    return rows


def training_step(device: str, precision: str) -> Callable[[], Any]:
    """Forward, backward and Adam, of a Transformer encoder; the loss is its mean."""
    width, layers, batch, length = MODEL[device]
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).to(device)
    inputs = torch.randn(batch, length, width, device=device)
    if precision == "BF16 throughout":
        model, inputs = model.bfloat16(), inputs.bfloat16()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    half = precision == "autocast FP16"
    scaler = torch.amp.GradScaler(device, enabled=half)
    dtype = torch.float16 if half else torch.bfloat16
    casting = precision.startswith("autocast")

    def work() -> None:
        set_tf32(precision == "TF32")
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=casting):
            loss = model(inputs).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return work


def measure_training(device: str) -> list[dict[str, Any]]:
    """One precision after the other, so that each has the memory for itself."""
    rows = []
    for precision in PRECISIONS:
        if device == "cpu" and precision in ("TF32", "autocast FP16"):
            continue  # a CPU has neither; FP16 products are slower than FP32 there
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        work = training_step(device, precision)
        for _ in range(3):
            work()
        taken = [seconds_of(work, device) for _ in range(ROUNDS[device])]
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        seconds = statistics.median(taken)
        rows.append({"precision": precision, "seconds": seconds, "peak_bytes": peak})
        print(precision, f"{seconds * 1e3:.1f} ms", peak, flush=True)
        del work
    return rows


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread(s), {platform.system()} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    data = {
        "side": SIDE[device],
        "model": dict(
            zip(("width", "layers", "batch", "length"), MODEL[device], strict=True)
        ),
        "products": measure_products(device),
        "training": measure_training(device),
    }
    recording = {
        "device": device_name(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **({"cuda": str(torch.version.cuda)} if device == "cuda" else {}),
        },
        "date": date.today().isoformat(),
        "command": "python benchmarks/mixed_precision.py"
        + ("" if device == "cpu" else f" --device {device}"),
        "data": data,
    }
    path = ROOT / "benchmarks" / "results" / device / "mixed_precision.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    print(path)


if __name__ == "__main__":
    main()
