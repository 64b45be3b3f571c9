"""The sizes of a DETR, and the `config.json` of a published folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

RESNET_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


@dataclass(frozen=True)
class DetrConfig:
    """The defaults are `facebook/detr-resnet-50`.

    Attributes:
        num_labels: Classes without "no object", which gets the index `num_labels`.
        depths: Blocks per stage of the ResNet.
        widths: Output channels per stage.
        stem_width: Channels of the first convolution.
        bottleneck: Blocks of three convolutions (ResNet-50 and up) or of two.
        dilate_last: The "DC5" variant: the last stage keeps the resolution and
            spreads its 3 x 3 convolutions instead.
        frozen_norm: Batch norm with fixed statistics. False to train a backbone
            from scratch.
        position_scale: What the last row and column are numbered as: one turn.
        id2label: The name per class, for pictures.
    """

    num_labels: int = 91
    num_queries: int = 100
    d_model: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn_dim: int = 2048
    dropout: float = 0.1
    in_channels: int = 3
    stem_width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    bottleneck: bool = True
    dilate_last: bool = False
    frozen_norm: bool = True
    position_temperature: float = 10000.0
    position_scale: float = 2 * math.pi
    id2label: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of num_heads, got {self.d_model} and "
                f"{self.num_heads}"
            )
        if self.d_model % 4:
            raise ValueError(
                "d_model must be a multiple of 4, sine and cosine for two axes, got "
                f"{self.d_model}"
            )
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths and widths must be equally long, got {self.depths} and "
                f"{self.widths}"
            )

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the last feature map."""
        return 2 ** (len(self.depths) + 1 - self.dilate_last)


def _backbone(published: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ResNet, from either way of naming it."""
    inner = published.get("backbone_config")
    if inner and "depths" in inner:  # transformers' own ResNet
        return {
            "depths": tuple(inner["depths"]),
            "widths": tuple(inner["hidden_sizes"]),
            "stem_width": inner.get("embedding_size", 64),
            "bottleneck": inner.get("layer_type", "bottleneck") == "bottleneck",
        }
    name = (inner or {}).get("backbone") or published.get("backbone") or "resnet50"
    if name not in RESNET_DEPTHS:
        raise ValueError(
            f"config.json: backbone must be one of {sorted(RESNET_DEPTHS)}, "
            f"got {name!r}"
        )
    stride = (inner or {}).get("output_stride")
    bottleneck = name != "resnet18"
    widths = (256, 512, 1024, 2048) if bottleneck else (64, 128, 256, 512)
    return {
        "depths": RESNET_DEPTHS[name],
        "widths": widths,
        "bottleneck": bottleneck,
        "dilate_last": bool(published.get("dilation")) or stride == 16,
    }


def config_from_published(published: dict[str, Any]) -> DetrConfig:
    """The configuration that a Hugging Face `config.json` of a DETR describes.

    Raises:
        ValueError: for another `model_type`, backbone, activation or positions.
    """
    required = {
        "model_type": ("detr",),
        "activation_function": ("relu",),
        "position_embedding_type": ("sine",),
    }
    for key, allowed in required.items():
        value = published.get(key, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"config.json: {key} must be {allowed[0]!r}, got {value!r}"
            )
    labels = {int(k): v for k, v in (published.get("id2label") or {}).items()}
    heads = published.get("encoder_attention_heads", 8)
    if published.get("decoder_attention_heads", heads) != heads:
        raise ValueError("config.json: encoder and decoder must have as many heads")
    ffn = published.get("encoder_ffn_dim", 2048)
    if published.get("decoder_ffn_dim", ffn) != ffn:
        raise ValueError("config.json: encoder and decoder must have one ffn_dim")
    return DetrConfig(
        num_labels=len(labels) or published.get("num_labels", 2),
        num_queries=published.get("num_queries", 100),
        d_model=published.get("d_model", 256),
        num_heads=heads,
        encoder_layers=published.get("encoder_layers", 6),
        decoder_layers=published.get("decoder_layers", 6),
        ffn_dim=ffn,
        dropout=published.get("dropout", 0.1),
        in_channels=published.get("num_channels", 3),
        id2label=labels,
        **_backbone(published),
    )
