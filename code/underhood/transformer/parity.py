"""How far each module is from its counterpart in `torch.nn`.

Weights go from one to the other and back with `strict=True`; outputs and gradients of
all parameters are compared, with causal masks and padding. Every mask below is in this
book's convention, True = may attend, and is inverted (`~`) on its way to `torch.nn`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from underhood.transformer.attention import MultiHeadAttention, causal_mask
from underhood.transformer.layers import (
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from underhood.transformer.model import Transformer
from underhood.transformer.recurrent import GRU, LSTM, RNN

LENGTHS = torch.tensor([6, 4])  # of two targets, padded to 6
SEEN = torch.arange(6) < LENGTHS[:, None]  # target
REAL = torch.arange(7) < torch.tensor([[7], [4]])  # memory
PAIRS = torch.arange(7) <= torch.arange(6)[:, None] + 1  # target on memory
CAUSAL = causal_mask(6)


@dataclass(frozen=True)
class Case:
    """Two modules, and how to run each on target (2, 6, 12) and memory (2, 7, 12)."""

    name: str
    against: str  # the class in torch.nn
    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    run_ours: Callable[[Any, Tensor, Tensor], Tensor]
    run_theirs: Callable[[Any, Tensor, Tensor], Tensor]


def _run_packed(module: nn.Module, x: Tensor, _: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)[0]


def _recurrent_case(ours: type[nn.Module], theirs: type[nn.Module]) -> Case:
    sizes, both_ways = (12, 8, 2), {"bidirectional": True}
    return Case(
        f"{ours.__name__}, 2 layers, both ways",
        theirs.__name__,
        lambda: ours(*sizes, **both_ways),
        lambda: theirs(*sizes, batch_first=True, **both_ways),
        lambda f, x, m: f(x, lengths=LENGTHS)[0],
        _run_packed,
    )


def _layer_cases(norm_first: bool) -> list[Case]:
    label = "pre-norm" if norm_first else "post-norm"
    here: dict[str, Any] = {"norm_first": norm_first}
    there: dict[str, Any] = {**here, "batch_first": True}
    return [
        Case(
            f"encoder layer, {label}",
            "TransformerEncoderLayer",
            lambda: TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", **here),
            lambda: nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", **there),
            lambda f, x, m: f(x, key_mask=SEEN, is_causal=True),
            lambda f, x, m: f(x, src_mask=~CAUSAL, src_key_padding_mask=~SEEN),
        ),
        Case(
            f"decoder layer, {label}",
            "TransformerDecoderLayer",
            lambda: TransformerDecoderLayer(12, 3, 20, 0.0, **here),
            lambda: nn.TransformerDecoderLayer(12, 3, 20, 0.0, **there),
            lambda f, x, m: f(x, m, None, PAIRS, SEEN, REAL),
            lambda f, x, m: f(x, m, ~CAUSAL, ~PAIRS, ~SEEN, ~REAL),
        ),
        Case(
            f"whole model, {label}",
            "Transformer",
            lambda: Transformer(12, 2, 2, 2, 20, 0.0, **here),
            lambda: nn.Transformer(12, 2, 2, 2, 20, 0.0, **there),
            lambda f, x, m: f(m, x, REAL, SEEN),
            lambda f, x, m: f(
                m, x, None, ~CAUSAL, None, ~REAL, ~SEEN, memory_key_padding_mask=~REAL
            ),
        ),
    ]


def cases() -> list[Case]:
    """Every module of the chapter that `torch.nn` has too."""
    attention = Case(
        "multi-head attention",
        "MultiheadAttention",
        lambda: MultiHeadAttention(12, 3),
        lambda: nn.MultiheadAttention(12, 3, batch_first=True),
        lambda f, x, m: f(x, m, attn_mask=PAIRS, key_mask=REAL)[0],
        lambda f, x, m: f(x, m, m, attn_mask=~PAIRS, key_padding_mask=~REAL)[0],
    )
    layers = [case for first in (False, True) for case in _layer_cases(first)]
    recurrent = [
        _recurrent_case(RNN, nn.RNN),
        _recurrent_case(LSTM, nn.LSTM),
        _recurrent_case(GRU, nn.GRU),
    ]
    return [*recurrent, attention, *layers]


def largest_error(case: Case, dtype: torch.dtype, seed: int = 0) -> float:
    """Largest difference over outputs and parameter gradients.

    Gradients are sums over batch and time; each is compared relative to 1 + its largest
    entry.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="enable_nested_tensor")
        ours, theirs = case.ours().to(dtype), case.theirs().to(dtype)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, memory = torch.randn(2, 6, 12, dtype=dtype), torch.randn(2, 7, 12, dtype=dtype)
    found, wanted = case.run_ours(ours, x, memory), case.run_theirs(theirs, x, memory)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    errors = [(found - wanted).abs().max().item()]
    for name, parameter in ours.named_parameters():
        gradient, reference = parameter.grad, theirs.get_parameter(name).grad
        assert gradient is not None and reference is not None
        size = 1 + reference.abs().max().item()
        errors.append((gradient - reference).abs().max().item() / size)
    return max(errors)
