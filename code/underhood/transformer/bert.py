"""A trained BERT in our code: the encoder of 2017, with learned positions and GELU.

Keys and shapes of the parameters are those of the published checkpoints
(`encoder.layer.0.attention.self.query.weight`, …), and the outputs are those of
`transformers.BertModel` in evaluation: there is no dropout here.

Source: Devlin et al., "BERT", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from underhood.transformer.attention import attention_weights
from underhood.transformer.bert_files import (
    BertConfig,
    is_uncased,
    published_weights,
    weights_file,
)
from underhood.transformer.layers import (
    ACTIVATIONS,
    LayerNorm,
    TransformerEncoderLayer,
)
from underhood.transformer.weights import check_weights, read_safetensors
from underhood.transformer.wordpiece import Encoded, WordPiece


class Embeddings(nn.Module):
    """Token + position + token type, then a LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """(batch, length) twice -> (batch, length, hidden_size)."""
        x = self.word_embeddings(input_ids)
        x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        return self.LayerNorm(x + self.token_type_embeddings(token_type_ids))


class SelfAttention(nn.Module):
    """Query, key and value as three layers of their own."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Heads side by side, (batch, length, hidden_size), and their weights."""
        layers = (self.query, self.key, self.value)
        # Three times (batch, num_heads, length, head_dim).
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in layers
        )
        weights = attention_weights(query, key, key_mask[:, None, None, :])
        return (weights @ value).transpose(1, 2).flatten(2), weights


class AddAndNorm(nn.Module):
    """Project, add the residual, normalize: post-norm, as in 2017."""

    def __init__(self, config: BertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(batch, length, input_size) and the residual stream -> the stream."""
        return self.LayerNorm(self.dense(x) + residual)


class BertLayer(nn.Module):
    """One encoder layer; `nn.ModuleDict`s only make the names of the checkpoint."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        attend: dict[str, nn.Module] = {
            "self": SelfAttention(config),
            "output": AddAndNorm(config, width),
        }
        self.attention = nn.ModuleDict(attend)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = AddAndNorm(config, hidden)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.config = config

    def forward(self, x: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The stream, (batch, length, hidden_size), and the attention weights."""
        heads, weights = self.attention["self"](x, key_mask)
        x = self.attention["output"](heads, x)
        hidden = self.activation(self.intermediate["dense"](x))
        return self.output(hidden, x), weights

    def as_encoder_layer(self) -> TransformerEncoderLayer:
        """The same weights in the encoder layer of this chapter."""
        config, mine = self.config, self.state_dict()
        layer = TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            activation=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
        theirs = {}
        for kind in ("weight", "bias"):
            parts = [
                mine[f"attention.self.{p}.{kind}"] for p in ("query", "key", "value")
            ]
            theirs[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
            for name, key in RENAMED.items():
                theirs[f"{name}.{kind}"] = mine[f"{key}.{kind}"]
        layer.load_state_dict(theirs, strict=True)
        return layer.to(next(self.parameters())).eval()


RENAMED = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class LayerStack(nn.Module):
    """The layers, under the name that the checkpoints give them."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        layers = [BertLayer(config) for _ in range(config.num_hidden_layers)]
        self.layer = nn.ModuleList(layers)


class BertOutput(NamedTuple):
    """What `BertEncoder` returns."""

    last_hidden_state: Tensor  # (batch, length, hidden_size)
    pooler_output: Tensor | None  # (batch, hidden_size); None without a pooler
    attentions: tuple[Tensor, ...]  # per layer (batch, num_heads, length, length)


class BertEncoder(nn.Module):
    """BERT without a task on top.

    Args:
        config: the sizes. tokenizer: its vocabulary, for `embed`.
        pooler: with the layer that reads [CLS]; some checkpoints have none.
    """

    def __init__(
        self,
        config: BertConfig,
        tokenizer: WordPiece | None = None,
        *,
        pooler: bool = True,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        width = config.hidden_size
        self.pooler = (
            nn.ModuleDict({"dense": nn.Linear(width, width)}) if pooler else None
        )

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> BertEncoder:
        """Read a Hugging Face folder: config.json, vocab.txt, model.safetensors.

        Nothing is downloaded and nothing is unpickled.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is corrupt, does not fit the others, or asks for what is
                not here; the message names the file and the key. `WeightsError`, a
                ValueError, where it is the weights.
        """
        directory = Path(directory)
        config = BertConfig.from_file(directory / "config.json")
        tokenizer = WordPiece.from_file(
            directory / "vocab.txt", lowercase=is_uncased(directory)
        )
        if len(tokenizer.vocabulary) > config.vocab_size:
            raise ValueError(
                f"{directory / 'vocab.txt'}: {len(tokenizer.vocabulary)} tokens; "
                f"vocab_size in config.json is {config.vocab_size}"
            )
        path = weights_file(directory)
        found = published_weights(path, read_safetensors(path), config)
        pooler = any(key.startswith("pooler.") for key in found)
        with torch.device("meta"):  # shapes only: the weights are in the file
            model = cls(config, tokenizer, pooler=pooler)
        check_weights(path, found, model.state_dict())
        floats = {key: tensor.float() for key, tensor in found.items()}
        model.load_state_dict(floats, strict=True, assign=True)
        return model.eval()

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        with_attentions: bool = False,
    ) -> BertOutput:
        """Read a batch of token sequences.

        Args:
            input_ids: (batch, length), numbers of tokens.
            token_type_ids: (batch, length), 0 or 1: first or second text; None: 0.
            key_mask: (batch, length), bool, True = a real token; None: all are.
            with_attentions: return the attention weights of all layers.
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if key_mask is None:
            key_mask = torch.ones_like(input_ids, dtype=torch.bool)
        _check_batch(self.config, Encoded(input_ids, token_type_ids, key_mask))
        x = self.embeddings(input_ids, token_type_ids)
        attentions: list[Tensor] = []
        for layer in self.encoder.layer:
            x, weights = layer(x, key_mask)
            if with_attentions:
                attentions.append(weights)
        pooled = None
        if self.pooler is not None:
            pooled = torch.tanh(self.pooler["dense"](x[:, 0]))
        return BertOutput(x, pooled, tuple(attentions))

    def embed(self, texts: Sequence[str], max_length: int = 256) -> Tensor:
        """A vector per text: the mean over its tokens, scaled to length 1.

        This is what the all-MiniLM models were trained for; the dot product of two
        vectors is their cosine.

        Args:
            texts: at least one. max_length: longer ones are cut, in tokens.

        Returns:
            (len(texts), hidden_size).
        """
        if self.tokenizer is None:
            raise ValueError("tokenizer: this model has none; see from_pretrained")
        max_length = min(max_length, self.config.max_position_embeddings)
        batch = self.tokenizer.batch(texts, max_length=max_length)
        device = self.embeddings.word_embeddings.weight.device
        batch = Encoded(*(tensor.to(device) for tensor in batch))
        with torch.no_grad():
            hidden = self(*batch).last_hidden_state
        return F.normalize(mean_pool(hidden, batch.key_mask), dim=-1)


def mean_pool(hidden: Tensor, key_mask: Tensor) -> Tensor:
    """Mean over the real tokens: (batch, length, d), (batch, length) -> (batch, d)."""
    real = key_mask[..., None].to(hidden.dtype)  # (batch, length, 1)
    return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def _check_batch(config: BertConfig, batch: Encoded) -> None:
    shape = tuple(batch.input_ids.shape)
    longest = config.max_position_embeddings
    if len(shape) != 2 or 0 in shape or shape[1] > longest:
        raise ValueError(
            f"input_ids: got shape {shape}; (batch, length) with a length of at most "
            f"{longest} is needed"
        )
    for name, numbers in batch._asdict().items():
        if tuple(numbers.shape) != shape:
            raise ValueError(
                f"{name}: got shape {tuple(numbers.shape)}; input_ids has {shape}"
            )
    if batch.key_mask.dtype != torch.bool:
        raise TypeError(
            f"key_mask: got {batch.key_mask.dtype}; torch.bool is needed, True = a "
            f"real token"
        )
    limits = {"input_ids": config.vocab_size, "token_type_ids": config.type_vocab_size}
    for name, limit in limits.items():
        numbers = getattr(batch, name)
        if numbers.min() < 0 or numbers.max() >= limit:
            raise ValueError(f"{name}: allowed are 0 to {limit - 1}")
