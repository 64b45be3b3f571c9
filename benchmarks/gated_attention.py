"""GAU, FLASH and a Transformer layer: speed by length, and a longer training.

    PYTHONPATH=code python benchmarks/gated_attention.py [--steps N]
    PYTHONPATH=code python benchmarks/gated_attention.py --part speed

Methods take turns in each round; the fastest of the rounds counts. One thread. Speed by
length is time of the CPU: waiting for other work on the machine does not count. Writes
benchmarks/results/cpu/gated_attention.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path

import torch
from torch import nn

from underhood.gated_attention.text import TRAINING, VALIDATION, bytes_of_modules
from underhood.gated_attention.training import KINDS, sublayers, train

ROOT = Path(__file__).parents[1]
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
LONGEST = {"GAU × 2": 4096}  # it would write matrices of 8192 × 8192, for seconds
SEEDS = (0, 1, 2)


@torch.no_grad()
def speed(rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of a layer forward: d = 128, s = 64, chunks of 256, batch 1."""
    layers = {
        kind: nn.Sequential(*sublayers(kind, 128, 64, 256)).eval() for kind in KINDS
    }
    results = {}
    for length in LENGTHS:
        x = torch.randn(1, length, 128)
        kinds = [kind for kind in KINDS if length <= LONGEST.get(kind, length)]
        best = dict.fromkeys(kinds, float("inf"))
        for _ in range(rounds):
            for kind in kinds:
                begin = time.process_time()
                layers[kind](x)
                best[kind] = min(best[kind], time.process_time() - begin)
        results[str(length)] = {k: round(1000 * t, 2) for k, t in best.items()}
    return results


def longer(steps: int) -> dict[str, list[dict[str, object]]]:
    """Two layers of each kind, three seeds: bits per byte and steps per second."""
    training, validation = bytes_of_modules(TRAINING), bytes_of_modules(VALIDATION)
    found: dict[str, list[dict[str, object]]] = {kind: [] for kind in KINDS}
    for seed in SEEDS:
        for kind in KINDS:
            run = train(
                kind, training, validation, seed=seed, steps=steps, batch=8, layers=2
            )
            curve = [sum(run.losses[i : i + 20]) / 20 for i in range(0, steps, 20)]
            found[kind].append(
                {
                    "seed": seed,
                    "validation": round(run.validation, 4),
                    "steps per second": round(steps / run.seconds, 1),
                    "curve": [round(value, 3) for value in curve],
                }
            )
            print(kind, seed, run.validation, run.seconds, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", choices=("both", "speed", "training"), default="both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = ROOT / "benchmarks" / "results" / "cpu" / "gated_attention.json"
    parts = ("speed", "training") if options.part == "both" else (options.part,)
    stored = json.loads(path.read_text())["data"] if options.part != "both" else {}
    # Each part says when and how it was measured; the record, how the last was.
    origin = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/gated_attention.py", *sys.argv[1:]]),
    }
    data = stored | {f"{part} from": origin for part in parts}
    if "speed" in parts:
        data["speed"] = speed(options.rounds)
    if "training" in parts:
        data |= {"steps": options.steps, "training": longer(options.steps)}
    record = {
        "device": "2 CPU cores, Linux x86_64",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **origin,
        "data": data,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(data["speed"], indent=1))


if __name__ == "__main__":
    main()
