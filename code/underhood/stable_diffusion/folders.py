"""A whole pipeline in a folder: model_index.json, and one folder for each part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from underhood.stable_diffusion import schedulers
from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.checks import one_of
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.noise_schedule import Scheduler
from underhood.stable_diffusion.state import write_json
from underhood.stable_diffusion.tokenizer import CLIPTokenizer, read_json
from underhood.stable_diffusion.unet import UNet2DConditionModel
from underhood.stable_diffusion.weights import load_model, save_model

MODELS = {
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "unet": UNet2DConditionModel,
}


def load_parts(directory: Path | str, variant: str | None = None) -> dict[str, Any]:
    """The five parts of a pipeline, by name; see `StableDiffusion.from_pretrained`."""
    directory = Path(directory)
    index = read_json(directory / "model_index.json")
    for name, model_class in MODELS.items():
        found = index.get(name, [None, None])[1]
        if found != model_class.__name__:
            raise ValueError(
                f"{directory / 'model_index.json'}: {name}: got {found!r}; allowed "
                f"here: {model_class.__name__!r}"
            )
    parts: dict[str, Any] = {
        name: load_model(model_class, directory / name, variant)
        for name, model_class in MODELS.items()
    }
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(directory / "tokenizer")
    parts["scheduler"] = load_scheduler(directory / "scheduler")
    return parts


def load_scheduler(directory: Path) -> Scheduler:
    """The sampler that scheduler_config.json describes.

    Raises:
        ValueError: it is not among ours, or has a setting that ours has not.
    """
    path = directory / "scheduler_config.json"
    config = read_json(path)
    name = config.get("_class_name")
    if name not in schedulers.__all__:
        raise ValueError(
            f"{path}: _class_name: got {name!r}; allowed here: "
            f"{', '.join(schedulers.__all__)}"
        )
    try:
        return getattr(schedulers, name).from_published(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_parts(parts: Mapping[str, Any]) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        ValueError: channels, widths, or the vocabulary differ; the message says which.
    """
    unet, text = parts["unet"].config, parts["text_encoder"].config
    latent = parts["vae"].config["latent_channels"]
    # 9 for inpainting: latent, masked latent, mask.
    one_of("unet: in_channels", unet["in_channels"], (latent, 2 * latent + 1))
    one_of("unet: out_channels", unet["out_channels"], (latent,))
    one_of(
        "unet: cross_attention_dim", unet["cross_attention_dim"], (text["hidden_size"],)
    )
    largest = max(parts["tokenizer"].vocab.values())
    if largest >= text["vocab_size"]:
        raise ValueError(
            f"tokenizer: has a token {largest}; vocab_size of the text encoder is "
            f"{text['vocab_size']}"
        )


def save_parts(directory: Path | str, parts: Mapping[str, Any]) -> None:
    """Write the five parts, and last of all the index."""
    directory = Path(directory)
    for name in MODELS:
        save_model(parts[name], directory / name)
    parts["tokenizer"].save_pretrained(directory / "tokenizer")
    scheduler = parts["scheduler"]
    (directory / "scheduler").mkdir(exist_ok=True)
    settings = {"_class_name": type(scheduler).__name__} | scheduler.config
    settings["timestep_spacing"] = scheduler.spacing
    write_json(directory / "scheduler" / "scheduler_config.json", settings)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for name, part in parts.items():
        library = (
            "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        )
        index[name] = [library, type(part).__name__]
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    write_json(directory / "model_index.json", index)
