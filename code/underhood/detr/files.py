"""Folders of weights: ours, and the published ones. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from underhood.detr.config import DetrConfig, config_from_published
from underhood.detr.keys import published_names


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file, all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_file(contiguous, name, metadata=facts)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {n: file.get_tensor(n) for n in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: damaged, cut short, or a Git LFS pointer: {error}"
        ) from error


def save_model(model: nn.Module, config: DetrConfig, directory: Path) -> None:
    """Write `model.safetensors` and `config.json`; batch norm is frozen then."""
    tensors = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    config = dataclasses.replace(config, frozen_norm=True)
    save_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
    text = json.dumps(dataclasses.asdict(config), indent=1)
    path = directory / "config.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def read_config(directory: Path) -> DetrConfig:
    """The configuration in a folder: of a published DETR, or one that we saved."""
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"directory must have a config.json, got {directory}")
    values = json.loads(path.read_text(encoding="utf-8"))
    if "model_type" in values:
        return config_from_published(values)
    values["id2label"] = {int(k): v for k, v in values["id2label"].items()}
    for key in ("depths", "widths"):
        values[key] = tuple(values[key])
    return DetrConfig(**values)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Fill a model from `model.safetensors`, strictly.

    Raises:
        FileNotFoundError: without that file.
        ValueError: naming the tensors that are missing, too many, or of another shape;
            or the file, if it is damaged.
    """
    path = directory / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"directory must have a model.safetensors, got {directory}"
        )
    tensors = published_names(load_tensors(path)[0])
    wanted = model.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{name} {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in wanted.keys() & tensors.keys()
            if tensors[name].shape != wanted[name].shape
        ),
    }
    found = [
        f"{len(names)} {kind}: {', '.join(names[:3])}"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"{path.name} does not fit config.json; " + "; ".join(found))
    model.load_state_dict(tensors)
