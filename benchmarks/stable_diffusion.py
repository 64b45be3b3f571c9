"""Stable Diffusion: our UNet against diffusers', and what both agree on.

    python benchmarks/stable_diffusion.py [--device cuda] [--full] [--rounds 7]

Writes benchmarks/results/<cpu or cuda>/stable_diffusion.json. Both UNets have the same
random weights, and every round times each of them once on the same input, so that a
busy machine slows both; what is compared is the median of the ratios within a round.
`--full` takes the size of SD v1.5 (float16 on a GPU); without it, a small model.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "code"))

from stable_diffusion_parity import parity  # noqa: E402

from underhood.stable_diffusion import UNet2DConditionModel  # noqa: E402
from underhood.stable_diffusion.shapes import key_digest  # noqa: E402

SMALL = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": 128,
    "layers_per_block": 1,
}
FULL = {"sample_size": 64, "cross_attention_dim": 768}
Predict = Callable[[], Tensor]


def published() -> dict[str, nn.Module]:
    """The three networks of SD v1.5 as diffusers and transformers build them."""
    text = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12
    )
    with torch.device("meta"):
        return {
            "unet": diffusers.UNet2DConditionModel(**FULL),
            "vae": diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            "text_encoder": transformers.CLIPTextModel(text),
        }


def seconds_of(predict: Predict, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    predict()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(predict: Predict, device: str) -> int | None:
    """What one call adds at most to the memory of a GPU."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    predict()
    return torch.cuda.max_memory_allocated() - before


def measure(device: str, full: bool, rounds: int, compiled: bool) -> dict[str, Any]:
    """One row: median seconds of both, the ratio, the largest difference."""
    torch.manual_seed(0)
    dtype = torch.float16 if device == "cuda" else torch.float32
    theirs = diffusers.UNet2DConditionModel(**(FULL if full else SMALL))
    ours = UNet2DConditionModel.from_config(theirs.config)
    ours.load_state_dict(theirs.state_dict())
    theirs, ours = (each.eval().to(device, dtype) for each in (theirs, ours))
    size, width = theirs.config.sample_size, theirs.config.cross_attention_dim
    sample = torch.randn(2, 4, size, size).to(device, dtype)
    words = torch.randn(2, 77, width).to(device, dtype)
    if compiled:
        theirs, ours = torch.compile(theirs), torch.compile(ours)
    calls: dict[str, Predict] = {
        "diffusers": lambda: theirs(sample, 500, words, return_dict=False)[0],
        "ours": lambda: ours(sample, 500, words),
    }
    # Both have run once by then: a first call also compiles, and fills caches.
    gap = (calls["ours"]() - calls["diffusers"]()).abs().max().item()
    memory = {name: peak_bytes(call, device) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        order = list(calls) if turn % 2 else list(calls)[::-1]
        for name in order:
            times[name].append(seconds_of(calls[name], device))
    ratios = [t / o for t, o in zip(times["diffusers"], times["ours"], strict=True)]
    return {
        "model": "SD v1.5" if full else "small",
        "mode": "compiled" if compiled else "eager",
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {name: statistics.median(taken) for name, taken in times.items()},
        "speed_over_diffusers": statistics.median(ratios),
        "peak_bytes": memory,
        "gap": gap,
        "rounds": rounds,
    }


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}, {torch.get_num_threads()} thread(s)"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    modes = (False, True) if options.device == "cuda" else (False,)
    rows: list[dict[str, Any]] = []
    data: dict[str, Any] = {"rows": rows}
    if options.device == "cpu":  # neither depends on the device
        data |= {
            "keys": {name: key_digest(model) for name, model in published().items()},
            "parity": parity(),
        }
    for compiled in modes:
        rows.append(measure(options.device, options.full, options.rounds, compiled))
        save(options.device, data)
    print(json.dumps(rows, indent=2))


def save(device: str, data: dict[str, Any]) -> None:
    """Write the recording, with where it comes from."""
    result = {
        "device": device_name(device),
        "date": date.today().isoformat(),
        "command": "python "
        + " ".join(["benchmarks/stable_diffusion.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "data": data,
    }
    path = ROOT / "benchmarks" / "results" / device / "stable_diffusion.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
