"""CLIP's text encoder: a vector per token, which knows what came before.

A Transformer with pre-norm and a causal mask. Constructor arguments are the entries of
a Hugging Face `config.json`; the keys of the `state_dict` are those of the published
checkpoints without their common prefix `text_model.`.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021; what is computed matches `CLIPTextModel` of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.stable_diffusion.checks import at_least, divides, one_of
from underhood.stable_diffusion.config import Configured


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x): the approximation that CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
}


class CLIPTextOutput(NamedTuple):
    """What the text encoder returns."""

    last_hidden_state: Tensor  # (batch, length, hidden_size)
    pooler_output: Tensor  # (batch, hidden_size), the state at the end of the text


class CLIPTextEmbeddings(nn.Module):
    """Token plus learned position."""

    def __init__(self, vocab_size: int, hidden_size: int, positions: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size)
        self.position_embedding = nn.Embedding(positions, hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, length) -> (batch, length, hidden_size)."""
        positions = self.position_embedding.weight[: input_ids.shape[1]]
        return self.token_embedding(input_ids) + positions


class CLIPAttention(nn.Module):
    """Multi-head attention of every token on itself and those before it."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, hidden_size) -> the same."""
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )  # three times (batch, num_heads, length, head_dim)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class CLIPMLP(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, hidden_size: int, intermediate_size: int, act: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[act]
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden_size) -> the same."""
        return self.fc2(self.activation(self.fc1(x)))


class CLIPEncoderLayer(nn.Module):
    """Attention and MLP, each normalized before it and added to the stream."""

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate: int, act: str, eps: float
    ) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(hidden_size, num_heads)
        self.layer_norm1 = nn.LayerNorm(hidden_size, eps)
        self.mlp = CLIPMLP(hidden_size, intermediate, act)
        self.layer_norm2 = nn.LayerNorm(hidden_size, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, hidden_size) -> the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nn.Module):
    """The layers, under the name that the checkpoints give them."""

    def __init__(self, layers: list[CLIPEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class CLIPTextModel(nn.Module, Configured):
    """The text encoder of Stable Diffusion. The defaults are those of SD v1.x.

    Args:
        vocab_size: number of tokens. hidden_size: width. intermediate_size: of the MLP.
        num_hidden_layers, num_attention_heads: layers and heads.
        max_position_embeddings: the longest text, in tokens.
        hidden_act: "quick_gelu" (OpenAI's CLIP) or "gelu" (OpenCLIP, in SD 2.x).
        layer_norm_eps: of every `LayerNorm`.
        eos_token_id: the token whose state stands for the whole text. Old files say 2,
            which is wrong; then the largest number in the text is taken, which is the
            end in CLIP's vocabulary.

    Raises:
        ValueError: an argument has no meaning, or does not fit another.
    """

    left_out = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    ignored = None  # the configurations of transformers list generation settings, too

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        max_position_embeddings: int = 77,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        eos_token_id: int = 49407,
    ) -> None:
        super().__init__()
        self.remember(locals())
        one_of("hidden_act", hidden_act, tuple(ACTIVATIONS))
        for name in ("vocab_size", "num_hidden_layers", "max_position_embeddings"):
            at_least(name, self.config[name], 1)
        divides(
            "num_attention_heads", num_attention_heads, "hidden_size", [hidden_size]
        )
        self.embeddings = CLIPTextEmbeddings(
            vocab_size, hidden_size, max_position_embeddings
        )
        sizes = (hidden_size, num_attention_heads, intermediate_size)
        layers = [
            CLIPEncoderLayer(*sizes, hidden_act, layer_norm_eps)
            for _ in range(num_hidden_layers)
        ]
        self.encoder = CLIPEncoder(layers)
        self.final_layer_norm = nn.LayerNorm(hidden_size, layer_norm_eps)

    def forward(self, input_ids: Tensor, *, clip_skip: int = 0) -> CLIPTextOutput:
        """Read a batch of texts.

        Args:
            input_ids: (batch, length), numbers of tokens, padded to one length. What
                stands behind the end of a text cannot change what stands before it.
            clip_skip: leave out that many of the last layers.

        Raises:
            ValueError: too long, no such token, or no such layer.
        """
        longest = self.config["max_position_embeddings"]
        if input_ids.ndim != 2 or not 1 <= input_ids.shape[1] <= longest:
            raise ValueError(
                f"input_ids: got shape {tuple(input_ids.shape)}; (batch, length) with "
                f"a length of 1 to {longest} is needed"
            )
        layers = list(self.encoder.layers)
        if not 0 <= clip_skip < len(layers):
            raise ValueError(
                f"clip_skip: got {clip_skip}; allowed: 0 to {len(layers) - 1}"
            )
        x = self.embeddings(input_ids)
        for layer in layers[: len(layers) - clip_skip]:
            x = layer(x)
        x = self.final_layer_norm(x)
        rows = torch.arange(len(x), device=x.device)
        return CLIPTextOutput(x, x[rows, self._ends(input_ids)])

    def _ends(self, input_ids: Tensor) -> Tensor:
        """Where each text ends: (batch,)."""
        if self.config["eos_token_id"] == 2:
            return input_ids.argmax(dim=-1)
        return (input_ids == self.config["eos_token_id"]).int().argmax(dim=-1)
