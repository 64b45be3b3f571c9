"""Time of recurrence against attention, and of decoding with and without a cache.

    python benchmarks/transformer.py [--device cuda] [--rounds 7]

Writes benchmarks/results/<cpu or cuda>/transformer.json. Each round times every method
at the same size; what is kept is the fastest round of each, in milliseconds, because
other programs can only slow one down. On a CPU, one thread. The recurrent layers are
those of `torch.nn`, whose loop is compiled: ours, in Python, would lose to itself.
Attention is timed twice: ours, which keeps and returns its weights, and that of
`torch.nn`, which is asked for none and runs one fused kernel.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from underhood.transformer import MultiHeadAttention, Seq2Seq

WIDTH, BATCH = 128, 4
LENGTHS = (16, 64, 256, 512)
ROOT = Path(__file__).resolve().parents[1]


def milliseconds(run: Callable[[], object], device: str) -> float:
    """Time one call; work that a GPU has queued is waited for.

    On a CPU this is processor time: with one thread, it is what the call takes on a
    machine that does nothing else.
    """
    if device == "cpu":
        start = time.process_time()
        run()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def fastest(
    methods: dict[str, Callable[[], object]], device: str, rounds: int
) -> dict[str, float]:
    """Fastest time of each method, after one round to warm up."""
    times = [
        {name: milliseconds(run, device) for name, run in methods.items()}
        for _ in range(rounds + 1)
    ][1:]
    return {name: round(min(t[name] for t in times), 3) for name in methods}


def read(layer: nn.Module, x: torch.Tensor) -> None:
    """Forward and backward once."""
    if isinstance(layer, nn.MultiheadAttention):
        output = layer(x, x, x, need_weights=False)[0]
    else:
        output = layer(x)[0]
    output.sum().backward()


def reading(device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Forward and backward over a batch of sequences, by length."""
    layers: dict[str, nn.Module] = {
        "RNN": nn.RNN(WIDTH, WIDTH, batch_first=True),
        "LSTM": nn.LSTM(WIDTH, WIDTH, batch_first=True),
        "attention": MultiHeadAttention(WIDTH, 4),
        "attention, fused": nn.MultiheadAttention(WIDTH, 4, batch_first=True),
    }
    results = {}
    for length in LENGTHS:
        x = torch.randn(BATCH, length, WIDTH, device=device)

        methods = {
            name: partial(read, layer.to(device), x) for name, layer in layers.items()
        }
        results[str(length)] = fastest(methods, device, rounds)
    return results


@torch.no_grad()
def writing(device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Decoding n tokens, with a KV cache and reading the prefix again each time.

    Both read the source once.
    """
    model = Seq2Seq(100, WIDTH, 4, 2, 4 * WIDTH, max_length=512).to(device).eval()
    source = torch.randint(3, 100, (1, 32), device=device)
    results = {}
    for length in (16, 64, 256):
        target = torch.randint(3, 100, (1, length), device=device)

        def cached(target: torch.Tensor = target) -> None:
            state = model.start(source)
            for token in target.split(1, dim=1):
                model.step(token, state)

        def again(target: torch.Tensor = target) -> None:
            memory = model.transformer.encoder(model.embed(source))
            for end in range(1, target.shape[1] + 1):
                prefix = model.embed(target[:, :end])
                model.logits(model.transformer.decoder(prefix, memory))

        methods = {"with a cache": cached, "without": again}
        results[str(length)] = fastest(methods, device, rounds)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = options.device
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {platform.machine()}, 1 thread"
    )
    record = {
        "device": name,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/transformer.py", *sys.argv[1:]]),
        "data": {
            "reading": reading(device, options.rounds),
            "writing": writing(device, options.rounds),
        },
    }
    folder = ROOT / "benchmarks" / "results" / device
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transformer.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["data"], indent=1))


if __name__ == "__main__":
    main()
