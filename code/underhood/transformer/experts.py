"""A feed-forward layer of many experts, of which each token visits a few.

Sources: Shazeer et al., 2017 (sparsely gated experts); Jiang et al., "Mixtral of
Experts", 2024, section 2.1, whose routing this is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from underhood.transformer.modern import SwiGLU


class MixtureOfExperts(nn.Module):
    """`num_experts` SwiGLU layers; a router sends each token to `top_k` of them.

    Args:
        d_model: features of each token. hidden_size: of one expert.
        num_experts: how many. top_k: visited by each token.
    """

    def __init__(
        self, d_model: int, hidden_size: int, num_experts: int, top_k: int
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"top_k: got {top_k}; allowed is 1 to num_experts ({num_experts})"
            )
        self.top_k = top_k
        self.router = nn.Linear(d_model, num_experts, bias=False)
        experts = [SwiGLU(d_model, hidden_size) for _ in range(num_experts)]
        self.experts = nn.ModuleList(experts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> the same shape."""
        tokens = x.reshape(-1, x.shape[-1])  # (tokens, d_model)
        share, chosen = self.router(tokens).softmax(dim=-1).topk(self.top_k)
        share = share / share.sum(dim=-1, keepdim=True)  # (tokens, top_k)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            if len(rows):
                answer = expert(tokens[rows]) * share[rows, places, None]
                out = out.index_add(0, rows, answer.to(out.dtype))
        return out.view_as(x)
