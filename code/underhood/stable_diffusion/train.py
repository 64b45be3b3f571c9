"""Train the text-to-emoji model: the autoencoder, then the UNet and the text encoder.

    python -m underhood.stable_diffusion.train

The same command uses a GPU if there is one; `torchrun --nproc-per-node 4 -m
underhood.stable_diffusion.train` uses four. Stopped, it goes on where it was. A part
whose number of steps is raised goes on, too, best before its learning rate falls.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from underhood.stable_diffusion import emoji as model
from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.data import EmojiSet, load, sheet, to_bytes
from underhood.stable_diffusion.objectives import (
    AutoencoderObjective,
    DiffusionObjective,
)
from underhood.stable_diffusion.pipeline import StableDiffusion
from underhood.stable_diffusion.state import read_tensors, write_json
from underhood.stable_diffusion.trainer import Place, Plan, find_place, fit

SHOWN = 32  # pictures of a sheet


def shown_rows(emoji: EmojiSet) -> Tensor:
    """The pictures of a sheet, spread over the set."""
    return torch.linspace(0, len(emoji) - 1, SHOWN).long()


def train_autoencoder(
    emoji: EmojiSet, plan: Plan, place: Place, folder: Path
) -> AutoencoderKL:
    """Train the autoencoder; `folder/autoencoder.png` shows pairs, original left."""
    torch.manual_seed(plan.seed)
    autoencoder = model.make_autoencoder()
    autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = AutoencoderObjective(autoencoder, emoji).to(place.device)

    @torch.no_grad()
    def report(average: nn.Module, step: int) -> None:
        assert isinstance(average, AutoencoderObjective)
        images = average.images[shown_rows(emoji)]
        decoded = average.autoencoder(images)
        pairs = torch.stack([images, decoded], dim=1).flatten(0, 1)
        sheet(to_bytes(pairs), columns=8, gap=2).save(folder / "autoencoder.png")

    average = fit(objective, plan, place, folder / "autoencoder.safetensors", report)
    assert isinstance(average, AutoencoderObjective)
    return average.autoencoder


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """The most likely latents, (pictures, channels, h, w)."""
    return torch.cat([autoencoder.encode(part).mode() for part in images.split(64)])


def train_diffusion(
    emoji: EmojiSet,
    autoencoder: AutoencoderKL,
    plan: Plan,
    place: Place,
    folder: Path,
) -> StableDiffusion:
    """Train UNet and text encoder on latents; `folder/diffusion.png` shows pictures."""
    autoencoder.to(place.device)
    latents = encode_all(autoencoder, emoji.scaled().to(place.device))
    autoencoder.config["scaling_factor"] = round(1 / latents.std().item(), 5)
    tokenizer = model.make_tokenizer(emoji.captions)
    torch.manual_seed(plan.seed)
    unet, text_encoder = model.make_unet(), model.make_text_encoder(tokenizer)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = DiffusionObjective(
        unet,
        text_encoder,
        model.make_scheduler(),
        latents * autoencoder.config["scaling_factor"],
        tokenizer(emoji.captions),
        tokenizer("")[0],
        emoji.training(),
    ).to(place.device)

    def pipeline(trained: nn.Module) -> StableDiffusion:
        assert isinstance(trained, DiffusionObjective)
        parts = (autoencoder, trained.text_encoder, tokenizer, trained.unet)
        return StableDiffusion(*parts, model.make_scheduler())

    def report(average: nn.Module, step: int) -> None:
        prompts = [emoji.captions[row] for row in shown_rows(emoji).tolist()]
        pictures = model.paint(pipeline(average), prompts)
        sheet(pictures, columns=8, gap=2).save(folder / "diffusion.png")

    return pipeline(
        fit(objective, plan, place, folder / "diffusion.safetensors", report)
    )


def training_record(options: argparse.Namespace, place: Place) -> dict[str, Any]:
    """Where the weights are from: command, versions, device, the log of each part."""
    name = torch.cuda.get_device_name() if place.device.type == "cuda" else "CPU"
    command = ["python", "-m", "underhood.stable_diffusion.train"]
    for key, value in vars(options).items():
        if key != "folder":
            command.append(f"--{key.replace('_', '-')}={value}")
    return {
        "command": " ".join(command),
        "date": date.today().isoformat(),
        "device": f"{place.world_size} × {name}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **{
            part: read_tensors(options.folder / f"{part}.safetensors")[1]
            for part in ("autoencoder", "diffusion")
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the text-to-emoji model.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("_build/emoji"),
        help="for all that it writes",
    )
    parser.add_argument("--autoencoder-steps", type=int, default=9_000)
    parser.add_argument("--diffusion-steps", type=int, default=20_000)
    parser.add_argument("--autoencoder-batch", type=int, default=8)
    parser.add_argument("--diffusion-batch", type=int, default=64)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    emoji, place = load(), find_place()
    first = Plan(
        options.autoencoder_steps,
        options.autoencoder_batch,
        learning_rate=2e-3,
        cooldown=0.5,
    )
    second = Plan(
        options.diffusion_steps,
        options.diffusion_batch,
        learning_rate=1e-3,
        save_every=500,
    )
    autoencoder = train_autoencoder(emoji, first, place, options.folder)
    pipeline = train_diffusion(emoji, autoencoder, second, place, options.folder)
    if place.first:
        model.save(pipeline, options.folder / "model")
        record = training_record(options, place)
        write_json(options.folder / "model" / "training.json", record)
    if place.world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
