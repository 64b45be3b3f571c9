"""What a training must remember to go on: one safetensors file, written whole.

Nothing is pickled: tensors go into the file, numbers and the log into its header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file; whoever stops it leaves the old file as it was.

    Args:
        header: kept as JSON in the metadata of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    metadata = {"format": "pt", "header": json.dumps(header or {})}
    ready = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(ready, part, metadata)
    os.replace(part, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote.

    Raises:
        ValueError: the file is damaged, or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    return tensors, json.loads(metadata.get("header", "{}"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    text = json.dumps(content, indent=2, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def save_training(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    header: Mapping[str, Any],
) -> None:
    """Model, moving average, optimizer and `header` (step, log, …) in one file."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for key, value in average.state_dict().items():
        tensors[f"average.{key}"] = value
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = value
    write_tensors(path, tensors, header)


def load_training(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Fill model, average and optimizer from `path`; the header comes back.

    Raises:
        ValueError: the file is damaged, or belongs to another model.
    """
    tensors, header = read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    try:
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
    except RuntimeError as error:
        raise ValueError(f"{path}: belongs to another model: {error}") from error
    state: dict[int, dict[str, Tensor]] = {}
    owners = [each for group in optimizer.param_groups for each in group["params"]]
    for key, value in parts["optimizer"].items():
        index, _, name = key.partition(".")
        owner = owners[int(index)]
        if value.shape == owner.shape:
            # The file knows shapes, not strides. A fused step pairs a weight with its
            # moments by their place in memory: both must be laid out alike.
            value = torch.empty_like(owner).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return header
