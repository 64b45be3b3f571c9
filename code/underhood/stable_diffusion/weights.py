"""Folders of published weights: a config.json, and tensors in one safetensors file.

Nothing is unpickled. Every error names the file and, where there is one, the key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from underhood.stable_diffusion.autoencoder import AutoencoderKL
from underhood.stable_diffusion.clip_text import CLIPTextModel
from underhood.stable_diffusion.state import write_json
from underhood.stable_diffusion.tokenizer import read_json
from underhood.stable_diffusion.unet import UNet2DConditionModel
from underhood.transformer.weights import WeightsError, check_weights, is_pickle

Model = TypeVar("Model", AutoencoderKL, CLIPTextModel, UNet2DConditionModel)

STEMS = {
    AutoencoderKL: "diffusion_pytorch_model",
    CLIPTextModel: "model",
    UNet2DConditionModel: "diffusion_pytorch_model",
}
# Attention in the autoencoder, in files from before 2023.
OLD_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def load_model(
    model_class: type[Model], directory: Path | str, variant: str | None = None
) -> Model:
    """The model in a Hugging Face folder, in float32 and evaluation mode.

    Args:
        variant: read `….<variant>.safetensors`, such as "fp16".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: config.json asks for what is not here; `WeightsError`, a ValueError,
            where the tensors do not fit exactly. Both name the file and the key.
    """
    directory = Path(directory)
    config_path = directory / "config.json"
    try:
        with torch.device("meta"):  # shapes only: the weights are in the file
            model = model_class.from_published(read_json(config_path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config_path}: {error}") from error
    path = weights_file(directory, STEMS[model_class], variant)
    found = renamed(path, read_tensors(path))
    check_weights(path, found, model.state_dict())
    floats = {key: tensor.float() for key, tensor in found.items()}
    model.load_state_dict(floats, strict=True, assign=True)
    return model.eval()


def weights_file(directory: Path, stem: str, variant: str | None = None) -> Path:
    """The path of the weights; if there are none, say what is there instead."""
    middle = f".{variant}" if variant else ""
    path = directory / f"{stem}{middle}.safetensors"
    if path.is_file():
        return path
    for pickle in (f"{stem}{middle}.bin", "pytorch_model.bin"):
        if (directory / pickle).is_file():
            raise WeightsError(
                f"{directory / pickle}: a pickle, which can run any code when it is "
                f"opened; only {path.name} is read"
            )
    if (directory / f"{path.name}.index.json").is_file():
        raise WeightsError(
            f"{directory}: weights in several files; only a single {path.name} is read"
        )
    others = sorted(each.name for each in directory.glob("*.safetensors"))
    hint = f"; there is {', '.join(others)} (`variant`)" if others else ""
    raise FileNotFoundError(f"{path}: no such file{hint}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsError: the file is a pickle, cut short, or damaged.
    """
    with path.open("rb") as file:
        if is_pickle(file.read(9)):
            raise WeightsError(
                f"{path}: a pickle, not safetensors; it is not opened, because a "
                f"pickle can run any code"
            )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: damaged or cut short: {error}") from error


def renamed(path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of today.

    Text encoders put `text_model.` before every name until 2025, and once stored
    `position_ids`, which must count from 0.
    """
    made = {}
    for key, tensor in found.items():
        key = key.removeprefix("text_model.")
        parts = key.split(".")
        if "mid_block" in parts and parts[-2] in OLD_ATTENTION:
            key = ".".join([*parts[:-2], OLD_ATTENTION[parts[-2]], parts[-1]])
        made[key] = tensor
    positions = made.pop("embeddings.position_ids", None)
    if positions is not None:
        flat = positions.flatten().long()
        if not torch.equal(flat, torch.arange(len(flat))):
            raise WeightsError(
                f"{path}: embeddings.position_ids: must be 0, 1, 2 and so on"
            )
    return made


def save_model(model: Model, directory: Path | str) -> None:
    """Write config.json and the weights, each in one piece or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", class_name(model) | model.config)
    path = directory / f"{STEMS[type(model)]}.safetensors"
    temporary = path.with_suffix(".part")
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, path)


def class_name(model: nn.Module) -> dict[str, Any]:
    """How a config.json says which class it belongs to."""
    name = type(model).__name__
    if isinstance(model, CLIPTextModel):
        return {"architectures": [name], "model_type": "clip_text_model"}
    if isinstance(model, AutoencoderKL):
        levels = len(model.config["block_out_channels"])
        return {
            "_class_name": name,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    return {"_class_name": name}
