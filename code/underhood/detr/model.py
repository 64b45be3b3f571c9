"""DETR: backbone, transformer and two heads turn an image into a set of boxes.

Source: Carion et al., 2020; facebookresearch/detr, `models/detr.py`. The names of
the parameters are those of the folders published on Hugging Face.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from underhood.detr.backbone import ConvEncoder
from underhood.detr.config import DetrConfig
from underhood.detr.files import load_weights, read_config
from underhood.detr.transformer import Decoder, Encoder, sine_positions


@dataclass
class Attentions:
    """Weights of every layer, each (batch, heads, looking, looked at)."""

    encoder: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)


@dataclass
class DetrOutput:
    """
    Attributes:
        logits: (batch, queries, num_labels + 1); the last class is "no object".
        pred_boxes: (batch, queries, 4), center x, center y, width, height, in
            shares of the image's width and height.
        auxiliary: The same after each earlier decoder layer.
        memory: (batch, cells, d_model), what the encoder made of the image.
        hidden: (layers, batch, queries, d_model), normalized decoder states.
        feature_size: Height and width of the feature map.
        attentions: If they were asked for.
    """

    logits: Tensor
    pred_boxes: Tensor
    auxiliary: list[DetrOutput]
    memory: Tensor
    hidden: Tensor
    feature_size: tuple[int, int]
    attentions: Attentions | None = None

    def layers(self) -> list[DetrOutput]:
        """The outputs of all decoder layers, first to last."""
        return [*self.auxiliary, self]


class DetrModel(nn.Module):
    """All but the heads: pixels to one vector per query and decoder layer."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ConvEncoder(config)
        self.query_position_embeddings = nn.Embedding(
            config.num_queries, config.d_model
        )
        self.input_projection = nn.Conv2d(config.widths[-1], config.d_model, 1)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def positions(self, mask: Tensor) -> Tensor:
        """mask: (batch, height, width). Returns (batch, cells, d_model)."""
        config = self.config
        return sine_positions(
            mask, config.d_model, config.position_temperature, config.position_scale
        ).flatten(1, 2)

    def encode(
        self, features: Tensor, mask: Tensor, attentions: Attentions | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            features: (batch, channels, height, width), from the backbone.
            mask: (batch, height, width), True where the image is.

        Returns:
            memory and its positions, each (batch, height * width, d_model).
        """
        x = self.input_projection(features).flatten(2).mT  # (batch, cells, d_model)
        positions = self.positions(mask).to(x.dtype)
        may_look = mask.flatten(1)[:, None, None]  # (batch, 1, 1, cells)
        for layer in self.encoder.layers:
            record = None if attentions is None else attentions.encoder
            x = layer(x, positions, may_look, record)
        return x, positions

    def decode(
        self,
        memory: Tensor,
        positions: Tensor,
        mask: Tensor,
        attentions: Attentions | None = None,
    ) -> Tensor:
        """The states of the queries after each layer: (layers, batch, queries, d)."""
        places = self.query_position_embeddings.weight.expand(len(memory), -1, -1)
        x = torch.zeros_like(places)  # the content starts empty, the positions do not
        may_look = mask.flatten(1)[:, None, None]
        record = None if attentions is None else attentions.cross
        states = []
        for layer in self.decoder.layers:
            x = layer(x, places, memory, positions, may_look, record)
            states.append(self.decoder.layernorm(x))
        return torch.stack(states)


class BoxHead(nn.Module):
    """Three linear maps to four numbers (before the sigmoid)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        sizes = (d_model, d_model, d_model, 4)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Detr(nn.Module):
    """The detector.

    Args:
        config: Sizes; the default is DETR with a ResNet-50.
    """

    def __init__(self, config: DetrConfig | None = None) -> None:
        super().__init__()
        self.config = config or DetrConfig()
        self.model = DetrModel(self.config)
        self.class_labels_classifier = nn.Linear(
            self.config.d_model, self.config.num_labels + 1
        )
        self.bbox_predictor = BoxHead(self.config.d_model)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Detr:
        """A folder of `config.json` and `model.safetensors`, ready to detect.

        Published folders (`detr-resnet-50`, `-101`, `-dc5`) and those that
        `python -m underhood.detr.train` or transformers wrote.

        Raises:
            FileNotFoundError: if one of the two files is not there.
            ValueError: if they do not fit each other, naming the tensors.
        """
        model = cls(read_config(Path(directory)))
        load_weights(model, Path(directory))
        return model.eval()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        with_attentions: bool = False,
    ) -> DetrOutput:
        """
        Args:
            pixel_values: (batch, channels, height, width), normalized.
            pixel_mask: (batch, height, width), 1 or True where the image is, 0 on
                padding. None: no padding.
            with_attentions: Keep the weights of every layer.

        Raises:
            ValueError: for a wrong number of channels or a mask of another size.
        """
        features = self.features(pixel_values)[-1]
        mask = shrink_mask(pixel_mask, pixel_values, features)
        attentions = Attentions() if with_attentions else None
        memory, positions = self.model.encode(features, mask, attentions)
        hidden = self.model.decode(memory, positions, mask, attentions)
        output = self.heads(hidden, memory, (features.shape[2], features.shape[3]))
        output.attentions = attentions
        return output

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        """The feature maps of all stages of the backbone."""
        channels = self.config.in_channels
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must be (batch, {channels}, height, width), got "
                f"{tuple(pixel_values.shape)}"
            )
        return self.model.backbone(pixel_values)

    def heads(
        self, hidden: Tensor, memory: Tensor, feature_size: tuple[int, int]
    ) -> DetrOutput:
        """One class and one box per query, after every layer."""
        logits = self.class_labels_classifier(hidden)  # (layers, batch, queries, c)
        boxes = self.bbox_predictor(hidden).sigmoid()  # (layers, batch, queries, 4)
        outputs: list[DetrOutput] = []
        for index in range(len(hidden)):
            earlier = outputs if index == len(hidden) - 1 else []
            outputs.append(
                DetrOutput(
                    logits[index], boxes[index], list(earlier), memory, hidden,
                    feature_size,
                )
            )  # fmt: skip
        return outputs[-1]


def shrink_mask(
    pixel_mask: Tensor | None, pixel_values: Tensor, features: Tensor
) -> Tensor:
    """The mask of the pixels as a mask of the cells, by the nearest pixel.

    Returns:
        (batch, height / stride, width / stride), bool.
    """
    batch, _, height, width = pixel_values.shape
    if pixel_mask is None:
        return features.new_ones(batch, *features.shape[-2:], dtype=torch.bool)
    if pixel_mask.shape != (batch, height, width):
        raise ValueError(
            f"pixel_mask must be {(batch, height, width)} like pixel_values, got "
            f"{tuple(pixel_mask.shape)}"
        )
    cells = F.interpolate(pixel_mask[:, None].float(), size=features.shape[-2:])
    return cells[:, 0].bool()
