"""Feature maps: what stands in place of the exponential.

A map turns each query and each key into a vector of features; the similarity of
the two is the dot product of their features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FeatureMap:
    """Features of queries and of keys: (..., length, head_dim) to (..., length, m).

    `tokenwise` says that the features of a token depend on that token alone. Only
    such a map can be causal or be computed piece by piece.
    """

    query: Map
    key: Map
    tokenwise: bool = True


def both(function: Map) -> FeatureMap:
    """The same function on both sides."""
    return FeatureMap(function, function)


def identity(x: Tensor) -> Tensor:
    """The scores themselves, of either sign."""
    return x


def elu_plus_one(x: Tensor) -> Tensor:
    """x + 1 above 0, exp(x) below (Katharopoulos et al. 2020, eq. 7)."""
    return F.elu(x) + 1


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021, as an activation)."""
    return F.relu(x).square()


def softmax_over_features(x: Tensor) -> Tensor:
    """Each token's features are positive and sum to 1."""
    return x.softmax(-1)


def softmax_over_length(x: Tensor) -> Tensor:
    """Each feature sums to 1 over the tokens: all tokens enter each of them."""
    return x.softmax(-2)


def one_and_direction(x: Tensor) -> Tensor:
    """(1, x / |x|): the dot product of two is 1 + cos, from 0 to 2."""
    return torch.cat([torch.ones_like(x[..., :1]), F.normalize(x, dim=-1)], -1)


FEATURE_MAPS: dict[str, FeatureMap] = {
    "identity": both(identity),
    "elu+1": both(elu_plus_one),
    "relu": both(F.relu),
    "relu2": both(relu_squared),
    "softmax": both(softmax_over_features),
    # Shen et al. (2018): softmax of Q over the features, of K over the tokens.
    "efficient": FeatureMap(softmax_over_features, softmax_over_length, False),
    "taylor": both(one_and_direction),
}


def favor_features(
    head_dim: int,
    num_features: int | None = None,
    *,
    orthogonal: bool = True,
    softmax_scale: float | None = None,
    seed: int = 0,
) -> FeatureMap:
    """Positive random features whose dot product is exp(scale q·k) on average.

    phi(x) = exp(w·x - |x|²/2) / sqrt(m) for m random directions w, with x scaled
    by the root of `softmax_scale`. Where |x|²/2 is beyond about 100, all features are 0
    in float32.

    Args:
        head_dim: of the queries and keys.
        num_features: m, 1 or more; 4 * head_dim if not given.
        orthogonal: directions at right angles within each group of `head_dim`.
        softmax_scale: 1 / sqrt(head_dim) if not given.
        seed: of the directions. Two calls that share a state must share it.

    Source: Choromanski et al. (2021), Performer, lemma 1 and section 2.4.
    """
    num_features = 4 * head_dim if num_features is None else num_features
    if num_features < 1:
        raise ValueError(f"num_features: got {num_features}, allowed is 1 or more")
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    generator = torch.Generator().manual_seed(seed)
    directions = gaussian_directions(
        num_features, head_dim, orthogonal=orthogonal, generator=generator
    )

    def features(x: Tensor) -> Tensor:
        if x.shape[-1] != head_dim:
            raise ValueError(
                f"x: got dim {x.shape[-1]}, the directions are for {head_dim}"
            )
        x = x * scale**0.5
        half_square = x.square().sum(-1, keepdim=True) / 2
        projected = x @ directions.to(x).mT  # (..., length, m)
        return (projected - half_square).exp() / num_features**0.5

    return both(features)


def gaussian_directions(
    num_features: int,
    head_dim: int,
    *,
    orthogonal: bool,
    generator: torch.Generator,
) -> Tensor:
    """Standard normal rows, (num_features, head_dim), float64.

    With `orthogonal` the rows of each block of `head_dim` are at right angles, and
    each row alone is still standard normal.
    """
    rows = torch.randn(num_features, head_dim, dtype=torch.float64, generator=generator)
    if not orthogonal:
        return rows
    lengths = rows.norm(dim=-1, keepdim=True)  # distributed as chi, as they must be
    blocks = []
    for _ in range(-(-num_features // head_dim)):
        square = torch.randn(
            head_dim, head_dim, dtype=torch.float64, generator=generator
        )
        q, r = torch.linalg.qr(square)
        # Only with positive diagonals of r is q uniform over the rotations.
        blocks.append(q * r.diagonal().sign())
    return torch.cat(blocks)[:num_features] * lengths


def resolve(feature_map: str | FeatureMap, head_dim: int) -> FeatureMap:
    """The map of that name.

    Raises:
        ValueError: there is none.
    """
    if isinstance(feature_map, FeatureMap):
        return feature_map
    if feature_map == "favor+":
        return favor_features(head_dim)
    if feature_map not in FEATURE_MAPS:
        allowed = ", ".join([*FEATURE_MAPS, "favor+"])
        raise ValueError(f"feature_map: got {feature_map!r}, allowed are {allowed}")
    return FEATURE_MAPS[feature_map]
