"""The files of a BERT folder: what they may hold, and what is refused.

A folder of Hugging Face has `config.json`, `vocab.txt` and `model.safetensors`; older
checkpoints differ a little in the names of their tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from underhood.transformer.layers import ACTIVATIONS
from underhood.transformer.weights import WeightsError

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


@dataclass(frozen=True)
class BertConfig:
    """What a `config.json` says about the model; names as there."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_file(cls, path: Path | str) -> BertConfig:
        """Read a `config.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no JSON, lacks a size, or asks for what is not here; the
                message names the file and the key.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # of JSON, or of UTF-8
            raise ValueError(f"{path}: not JSON: {error}") from error
        if not isinstance(stored, dict):
            raise ValueError(f"{path}: a JSON object is needed")
        _check_config(path, stored)
        optional = [k for k in ("hidden_act", "layer_norm_eps") if k in stored]
        return cls(**{key: stored[key] for key in (*SIZES, *optional)})


def _check_config(path: Path | str, stored: dict[str, Any]) -> None:
    for key in SIZES:
        if key not in stored:
            raise ValueError(f"{path}: {key} is missing")
        if type(stored[key]) is not int or stored[key] < 1:
            raise ValueError(f"{path}: {key}: got {stored[key]!r}; 1 or more is needed")
    width, heads = stored["hidden_size"], stored["num_attention_heads"]
    if width % heads:
        raise ValueError(
            f"{path}: num_attention_heads: got {heads}; it must divide hidden_size "
            f"({width})"
        )
    eps = stored.get("layer_norm_eps", 1e-12)
    if type(eps) is not float or not 0 < eps < 1:
        raise ValueError(f"{path}: layer_norm_eps: got {eps!r}; between 0 and 1")
    allowed: dict[str, tuple[Any, ...]] = {
        "model_type": ("bert",),
        "hidden_act": tuple(ACTIVATIONS),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    }
    for key, values in allowed.items():
        if stored.get(key, values[0]) not in values:
            raise ValueError(
                f"{path}: {key}: got {stored[key]!r}; allowed here: "
                f"{', '.join(map(repr, values))}"
            )


def weights_file(directory: Path) -> Path:
    """The path of `model.safetensors`; if there is none, say what is there instead."""
    path = directory / "model.safetensors"
    if path.is_file():
        return path
    if (directory / "pytorch_model.bin").is_file():
        raise WeightsError(
            f"{directory / 'pytorch_model.bin'}: a pickle, which can run any code when "
            f"it is opened; only model.safetensors is read"
        )
    if (directory / "model.safetensors.index.json").is_file():
        raise WeightsError(
            f"{directory / 'model.safetensors.index.json'}: weights in several files; "
            f"only a single model.safetensors is read"
        )
    raise FileNotFoundError(f"{path}: no such file")


def is_uncased(directory: Path) -> bool:
    """`do_lower_case` of tokenizer_config.json; True where nothing is said."""
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return True
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    value = stored.get("do_lower_case", True) if isinstance(stored, dict) else None
    if not isinstance(value, bool):
        raise ValueError(f"{path}: do_lower_case: true or false is needed")
    return value


def published_weights(
    path: Path, found: Mapping[str, Tensor], config: BertConfig
) -> dict[str, Tensor]:
    """The tensors of the encoder, under the names of today.

    Checkpoints of a BERT with a task on top put `bert.` before the encoder's names, and
    the head is left out here. The first ones call the parameters of a LayerNorm gamma
    and beta. Older ones store `position_ids`, which must count from 0.
    """
    if any(key.startswith("bert.") for key in found):
        pairs = [(k.removeprefix("bert."), k) for k in found if k.startswith("bert.")]
        found = {short: found[key] for short, key in pairs}
    made: dict[str, Tensor] = {}
    for key, tensor in found.items():
        if key.endswith("LayerNorm.gamma"):
            key = key.removesuffix("gamma") + "weight"
        elif key.endswith("LayerNorm.beta"):
            key = key.removesuffix("beta") + "bias"
        if key in made:
            raise WeightsError(f"{path}: {key}: twice, by its old name and its new one")
        made[key] = tensor
    positions = made.pop("embeddings.position_ids", None)
    counted = torch.arange(config.max_position_embeddings)
    if positions is not None and not torch.equal(positions.flatten().long(), counted):
        raise WeightsError(
            f"{path}: embeddings.position_ids: must be 0, 1, 2, … up to "
            f"max_position_embeddings - 1"
        )
    return made
