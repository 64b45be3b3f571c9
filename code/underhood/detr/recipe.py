"""A small DETR for digits, and what helps it to learn on a CPU.

The model is the published architecture with small numbers. What makes it learn
quickly stands around it:

- queries start as the positions of a grid of points, and cross-attention starts with
  equal projections of queries and keys and none of the values: at first each query
  averages what lies around its point;
- the heads also read the encoder's cells, where the cell of an object's center
  answers for it. For the first steps that is the only loss: it trains backbone and
  encoder without a decoder (a dense helper, as in Zong et al., Co-DETR, 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from underhood.detr.config import DetrConfig
from underhood.detr.criterion import SetCriterion, total_loss
from underhood.detr.matcher import Match, Target
from underhood.detr.model import Detr
from underhood.detr.transformer import DecoderLayer, sine_positions

DIGITS = DetrConfig(
    num_labels=10,
    num_queries=16,
    d_model=64,
    num_heads=4,
    encoder_layers=2,
    decoder_layers=3,
    ffn_dim=128,
    dropout=0.0,
    in_channels=1,
    stem_width=24,
    depths=(1, 1, 1),
    widths=(24, 48, 96),
    bottleneck=False,
    dilate_last=True,
    frozen_norm=False,
    position_temperature=20.0,
    position_scale=4 * math.pi,
    id2label={digit: str(digit) for digit in range(10)},
)


def fresh_model(config: DetrConfig = DIGITS, seed: int = 0) -> Detr:
    """The model before its first step; PyTorch's own generator stays as it was."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = Detr(config)
        parts = (model.model.encoder, model.model.decoder)
        for parameter in (p for part in parts for p in part.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    model.model.query_position_embeddings.weight.data = grid_queries(config)
    for layer in model.model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        attention = layer.encoder_attn
        attention.q_proj.weight.data *= 1.5  # it looks around less widely
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())
        for same in (attention.v_proj, attention.out_proj):
            nn.init.eye_(same.weight)
            nn.init.zeros_(same.bias)
    return model


def grid_queries(config: DetrConfig) -> Tensor:
    """The positions of a square grid of points: (num_queries, d_model)."""
    side = math.ceil(config.num_queries**0.5)
    mask = torch.ones(1, 4 * side, 4 * side, dtype=torch.bool)
    every = sine_positions(
        mask, config.d_model, config.position_temperature, config.position_scale
    )
    # Positions count from 1, so the middle of a square of 2 x 2 cells is 1.5.
    return every[0, 2::4, 2::4].flatten(0, 1)[: config.num_queries]


def cell_matches(targets: list[Target], size: tuple[int, int]) -> list[Match]:
    """The cell of each object's center answers for it; at most one object a cell."""
    height, width = size
    matches = []
    for target in targets:
        x, y = target["boxes"][:, :2].T
        cell = (y * height).long() * width + (x * width).long()
        owner = {int(c): index for index, c in enumerate(cell)}
        cells, objects = list(owner), list(owner.values())
        matches.append((torch.tensor(cells, dtype=torch.long),
                        torch.tensor(objects, dtype=torch.long)))  # fmt: skip
    return matches


def dense_loss(
    model: Detr,
    criterion: SetCriterion,
    memory: Tensor,
    feature_size: tuple[int, int],
    targets: list[Target],
) -> Tensor:
    """The loss of what the heads say of the encoder's cells."""
    cells = model.heads(memory[None], memory, feature_size)
    matches = cell_matches(targets, feature_size)
    return total_loss(criterion.one_layer(cells, targets, matches))
