"""The gated linear unit, the gated attention unit, and a stack of the latter.

Boolean masks: **True = may attend**, as everywhere in this book.

Source: Hua et al., "Transformer Quality in Linear Time", 2022, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.gated_attention.activations import KERNELS, attention_matrix
from underhood.transformer.attention import causal_mask


def apply_rope(x: Tensor, base: float = 10000.0) -> Tensor:
    """Turn each pair of features by an angle that grows with the position.

    A product of two rotated vectors depends on the distance of their positions alone.

    Args:
        x: (..., length, features), features even.

    Source: Su et al., "RoFormer", 2021, equation 34 (pairs of neighbors).
    """
    length, features = x.shape[-2:]
    if features % 2:
        raise ValueError(f"x: got {features} features; an even number is needed")
    pairs = torch.arange(0, features, 2, dtype=torch.float64, device=x.device)
    positions = torch.arange(length, dtype=torch.float64, device=x.device)
    angles = positions[:, None] * base ** (-pairs / features)  # (length, features/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2)


class PerDimAffine(nn.Module):
    """Several cheap views of one tensor: γ z + β, feature by feature.

    γ starts near 1, so that short trainings begin with attention at work; the paper's
    code starts it near 0.

    Args:
        views: how many. s: features of z.
    """

    def __init__(self, views: int, s: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(views, s) + 0.02 * torch.randn(views, s))
        self.beta = nn.Parameter(torch.zeros(views, s))

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """(batch, length, s) to `views` tensors of that shape."""
        return (z.unsqueeze(-2) * self.gamma + self.beta).unbind(dim=-2)


class GatedLinearUnit(nn.Module):
    """(U * V) W_o, with U = SiLU(x W_u) and V = SiLU(x W_v): both are activated.

    Args:
        d_model: features. expansion: hidden features per feature.
    """

    def __init__(self, d_model: int, expansion: float = 2) -> None:
        super().__init__()
        if d_model < 1 or int(d_model * expansion) < 1:
            raise ValueError(
                f"d_model, expansion: got {d_model}, {expansion}; their "
                f"product must be at least 1"
            )
        self.d_model, self.hidden = d_model, int(d_model * expansion)
        self.to_gate = nn.Linear(d_model, self.hidden, bias=False)
        self.to_value = nn.Linear(d_model, self.hidden, bias=False)
        self.to_out = nn.Linear(self.hidden, d_model, bias=False)

    def gate_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U and V, each (batch, length, hidden)."""
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}; "
                f"(batch, length, {self.d_model}) is needed"
            )
        return F.silu(self.to_gate(x)), F.silu(self.to_value(x))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) to the same shape."""
        gate, value = self.gate_and_value(x)
        return self.to_out(gate * value)


class GatedAttentionUnit(GatedLinearUnit):
    """(U * A V) W_o: a gated linear unit whose V has been through attention.

    One head. Queries and keys are two per-feature affine maps of one small projection.

    Args:
        d_model: features. expansion: e = expansion * d_model hidden features.
        s: features of query and key. kernel: "relu2", "laplace" or "softmax".
        causal: no position sees a later one. rope: rotate queries and keys.
    """

    views = 2

    def __init__(
        self,
        d_model: int,
        expansion: float = 2,
        s: int = 128,
        kernel: str = "relu2",
        *,
        causal: bool = False,
        rope: bool = True,
    ) -> None:
        super().__init__(d_model, expansion)
        if s < 1 or (rope and s % 2):
            raise ValueError(f"s: got {s}; allowed: 1 or more; even, with rope")
        if kernel not in (*KERNELS, "softmax"):
            raise ValueError(
                f"kernel: got {kernel!r}; allowed are 'relu2', 'laplace', 'softmax'"
            )
        self.kernel, self.causal, self.rope = kernel, causal, rope
        self.to_shared = nn.Linear(d_model, s, bias=False)
        self.affine = PerDimAffine(self.views, s)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries and keys: `views` tensors (batch, length, s)."""
        views = self.affine(F.silu(self.to_shared(x)))
        return tuple(map(apply_rope, views)) if self.rope else views

    def attend(self, x: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
        """A V: (batch, length, hidden)."""
        query, key = self.heads(x)
        allowed = None if key_mask is None else key_mask[:, None, :]
        if self.causal:
            causal = causal_mask(x.shape[1], device=x.device)
            allowed = causal if allowed is None else allowed & causal
        return attention_matrix(query, key, self.kernel, allowed) @ value

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """One layer, without norm and residual.

        Args:
            x: (batch, length, d_model).
            key_mask: (batch, length), bool, True = a real token.

        Returns:
            (batch, length, d_model).
        """
        gate, value = self.gate_and_value(x)
        check_key_mask(key_mask, x)
        return self.to_out(gate * self.attend(x, value, key_mask))


class FLASHQuad(nn.Module):
    """A stack of gated attention units, x + unit(norm(x)): two for each pair
    (attention, feed-forward) of a Transformer.

    Args:
        d_model: features. pairs: layers of the Transformer that it replaces.
        options: for `GatedAttentionUnit`.
    """

    def __init__(self, d_model: int, pairs: int, **options: float | str | bool) -> None:
        super().__init__()
        if pairs < 1:
            raise ValueError(f"pairs: got {pairs}; at least 1 is needed")
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2 * pairs))
        self.units = nn.ModuleList(
            GatedAttentionUnit(d_model, **options)  # type: ignore[arg-type]
            for _ in range(2 * pairs)
        )

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """(batch, length, d_model) to the same shape."""
        for norm, unit in zip(self.norms, self.units, strict=True):
            x = x + unit(norm(x), key_mask)
        return x


def check_key_mask(key_mask: Tensor | None, x: Tensor) -> None:
    """A mask must be bool, (batch, length) of `x`."""
    if key_mask is None:
        return
    if key_mask.dtype != torch.bool or key_mask.shape != x.shape[:2]:
        raise ValueError(
            f"key_mask: got {key_mask.dtype} of shape {tuple(key_mask.shape)}; "
            f"torch.bool {tuple(x.shape[:2])} is needed, True = a real token"
        )
