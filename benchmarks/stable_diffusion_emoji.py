"""How well the text-to-emoji model paints what it was asked for.

    python benchmarks/stable_diffusion_emoji.py [--every 10] [--steps 20]

Writes benchmarks/results/cpu/stable_diffusion_emoji.json: PSNR of the autoencoder; for
several guidance scales how often the nearest of all emoji is the prompt's own, and how
often a picture copies one of the training; color and shape of combinations that the
training did not see; how far samplers end from a path of 1000 steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "code"))

from underhood.stable_diffusion import (  # noqa: E402
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    data,
    emoji,
    evaluate,
)
from underhood.stable_diffusion.noise_schedule import Scheduler  # noqa: E402
from underhood.stable_diffusion.pipeline import StableDiffusion  # noqa: E402

SCALES = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5)
SEEDS = 8  # pictures of each held-out combination
STEPS = (3, 5, 10, 20, 40)
RACERS: dict[str, tuple[type[Scheduler], dict[str, Any]]] = {  # all end at no noise
    "DDIM": (DDIMScheduler, {"set_alpha_to_one": True}),
    "Euler": (EulerDiscreteScheduler, {}),
    "DPM-Solver++": (DPMSolverMultistepScheduler, {}),
    "DPM-Solver++, Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


def guidance(
    pipeline: StableDiffusion, pictures: data.EmojiSet, every: int, steps: int
) -> list[dict[str, Any]]:
    """Nearest neighbors by guidance scale, for every `every`-th training caption."""
    own = pictures.training()[::every]
    prompts = [pictures.captions[row] for row in own.tolist()]
    rows = []
    for scale in tqdm(SCALES, desc="guidance"):
        painted = torch.cat(
            [
                emoji.paint(
                    pipeline,
                    prompts[i : i + 64],
                    steps=steps,
                    guidance_scale=scale,
                    seed=i,
                )
                for i in range(0, len(prompts), 64)
            ]
        )
        distance = evaluate.distances(painted, pictures.images)
        trained = distance[:, pictures.training()]
        rows.append(
            {
                "guidance_scale": scale,
                "prompts": len(prompts),
                "top_1": evaluate.top_k(distance, own, 1),
                "top_5": evaluate.top_k(distance, own, 5),
                "distance_to_nearest": trained.amin(1).median().item(),
                "memorized": evaluate.memorized(trained).double().mean().item(),
            }
        )
    return rows


def held_out(
    pipeline: StableDiffusion, pictures: data.EmojiSet, steps: int
) -> list[dict[str, Any]]:
    """Color and shape of pictures of combinations that the training did not see."""
    judge = evaluate.Judge(pictures)
    rows = []
    for caption in tqdm(data.HELD_OUT, desc="held out"):
        wanted = judge(pictures.images[pictures.captions.index(caption)])
        painted = emoji.paint(pipeline, [caption] * SEEDS, steps=steps)
        verdicts = [judge(picture) for picture in painted]
        rows.append(
            {
                "caption": caption,
                "pictures": SEEDS,
                "color": sum(v.color == wanted.color for v in verdicts),
                "shape": sum(v.shape == wanted.shape for v in verdicts),
                "both": sum(v == wanted for v in verdicts),
            }
        )
    return rows


def samplers(pipeline: StableDiffusion, pictures: data.EmojiSet) -> dict[str, Any]:
    """Root mean squared distance of latents to those of 1000 steps of DDIM, a median.

    All start from the same noise and end at none, for every 100th training caption,
    unguided: guidance of 1 keeps the path smooth, so that what differs is the sampler.
    """
    own = pictures.training()[::100]
    prompts = [pictures.captions[row] for row in own.tolist()]

    def ends(name: str, steps: int) -> torch.Tensor:
        kind, options = RACERS[name]
        pipeline.scheduler = kind(**emoji.SCHEDULER, **options)
        found = pipeline.text_to_image(
            prompts,
            num_inference_steps=steps,
            guidance_scale=1.0,
            seed=0,
            progress=False,
            output="latent",
        )
        assert isinstance(found, torch.Tensor)
        return found.flatten(1)

    before = pipeline.scheduler
    reference = ends("DDIM", 1000)
    errors = {
        name: [
            (ends(name, steps) - reference).square().mean(1).sqrt().median().item()
            for steps in STEPS
        ]
        for name in tqdm(RACERS, desc="samplers")
    }
    pipeline.scheduler = before
    return {"prompts": len(prompts), "steps": STEPS, "errors": errors}


def reconstruction(
    pipeline: StableDiffusion, pictures: data.EmojiSet
) -> dict[str, float]:
    """Mean PSNR in decibels, of pictures that the training saw and did not see."""
    decoded = torch.cat(
        [emoji.reconstruct(pipeline, part) for part in pictures.images.split(64)]
    )
    ratio = evaluate.psnr(decoded, pictures.images)
    return {
        "training": ratio[~pictures.held_out].mean().item(),
        "held_out": ratio[pictures.held_out].mean().item(),
        "worst": ratio.min().item(),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=10, help="of the captions")
    parser.add_argument("--steps", type=int, default=20, help="of DDIM")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    pipeline, pictures = emoji.load(), data.load()
    record = {
        "device": f"2 CPU cores (one thread), {platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/stable_diffusion_emoji.py"]),
        "data": {
            "steps": options.steps,
            "chance_top_1": 1 / len(pictures),
            "chance_top_5": 5 / len(pictures),
            "reconstruction": reconstruction(pipeline, pictures),
            "guidance": guidance(pipeline, pictures, options.every, options.steps),
            "held_out": held_out(pipeline, pictures, options.steps),
            "samplers": samplers(pipeline, pictures),
            "seconds": round(time.perf_counter() - begin),
        },
    }
    path = ROOT / "benchmarks" / "results" / "cpu" / "stable_diffusion_emoji.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
