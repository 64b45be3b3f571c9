"""`linear_attention`: features, a form, and the normalizer."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from underhood.linear_attention import forms
from underhood.linear_attention.checks import (
    check_choice,
    check_chunk_size,
    check_decay,
    check_sequences,
    initial,
    widened,
)
from underhood.linear_attention.feature_maps import FeatureMap, resolve

RUN: dict[str, forms.Form] = {
    "quadratic": forms.quadratic,
    "recurrent": forms.recurrent,
    "chunked": forms.chunked,
    "scan": forms.scan,
}


class State(NamedTuple):
    """All that linear attention remembers of the tokens so far.

    `memory` is the sum of phi(k) ⊗ v, (batch, heads, features, value_dim);
    `normalizer` the sum of phi(k), (batch, heads, features).
    """

    memory: Tensor
    normalizer: Tensor


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: str | FeatureMap = "elu+1",
    causal: bool = False,
    form: str = "auto",
    chunk_size: int = 64,
    normalize: bool = True,
    initial_state: State | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, State]:
    """Attention whose similarity is phi(q) · phi(k).

    Args:
        query: (batch, heads, query_length, head_dim).
        key: (batch, heads, key_length, head_dim).
        value: (batch, heads, key_length, value_dim).
        feature_map: "identity", "elu+1", "relu", "relu2", "softmax" (over the
            features), "efficient" (of the keys over the tokens), "taylor" (1 + cos),
            "favor+", or a `FeatureMap`.
        causal: query i sees the keys 0..i, and whatever `initial_state` holds.
        form: how, not what: "quadratic", "recurrent", "chunked", "scan", or "auto":
            "chunked", which never needs more multiplications than "quadratic".
        chunk_size: tokens per chunk, of "chunked".
        normalize: divide by the sum of the weights; where that is 0, give 0.
        initial_state: a `State` from an earlier piece of the sequence.
        return_state: give the state after the last key, too.

    Returns:
        (batch, heads, query_length, value_dim), in the dtype of `query`, and a `State`
        if asked for. Half precision is computed, and its state kept, in float32.

    Raises:
        ValueError: shapes that do not fit; an unknown name; a map that is not
            tokenwise ("efficient") with `causal` or a state.
        TypeError: not one floating-point dtype.

    Source: Katharopoulos et al. (2020), Transformers are RNNs, eqs. 4 to 12.
    """
    check_sequences(query, key, value, causal=causal)
    check_choice("form", form, ("auto", *RUN))
    check_chunk_size(chunk_size)
    form = "chunked" if form == "auto" else form
    phi = resolve(feature_map, query.shape[-1])
    if causal or initial_state is not None or return_state:
        _check_tokenwise(phi)
    dtype = query.dtype
    query, key, value = widened(query, key, value)
    query, key = phi.query(query), phi.key(key)

    # A column of ones beside the values: its output is the sum of the weights.
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    state = initial(_joined(initial_state), key, value)
    options = {"chunk_size": chunk_size} if form == "chunked" else {}
    out, state = RUN[form](query, key, value, state, causal=causal, **options)

    out, total = out[..., :-1], out[..., -1:]
    if normalize:
        out = out / total.masked_fill(total == 0, torch.inf)
    out, last = out.to(dtype), State(state[..., :-1], state[..., -1])
    return (out, last) if return_state else out


def _check_tokenwise(phi: FeatureMap) -> None:
    if not phi.tokenwise:
        raise ValueError(
            "feature_map: the features of a key depend on all keys, also later ones; "
            "allowed are tokenwise maps with causal, initial_state or return_state"
        )


def _joined(state: State | None) -> Tensor | None:
    if state is None:
        return None
    _check_normalizer(state)
    return torch.cat([state.memory, state.normalizer[..., None]], -1)


def _check_normalizer(state: State) -> None:
    if state.normalizer.shape != state.memory.shape[:-1]:
        raise ValueError(
            f"initial_state: got a normalizer of {tuple(state.normalizer.shape)}, "
            f"allowed is the shape of memory less its last, "
            f"{tuple(state.memory.shape[:-1])}"
        )


def kernel_mode() -> str:
    """How the Triton kernel runs here: "cuda", "interpreter", or "none"."""
    if importlib.util.find_spec("triton") is None:
        return "none"
    return "cuda" if torch.cuda.is_available() else "interpreter"


def triton_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: str | FeatureMap = "elu+1",
    decay: Tensor | None = None,
    normalize: bool = True,
    chunk_size: int = 64,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """Causal linear attention, chunked, by one Triton kernel; forward only.

    Args:
        query, key, value, feature_map, normalize, initial_state: as in
            `linear_attention`; float16, bfloat16 or float32; up to 256 features.
        decay: (heads,), in (0, 1]: one factor per head and token, as in retention.
        chunk_size: 16, 32, 64 or 128; halved where the GPU's shared memory is too
            small for it.

    Returns:
        The output in the dtype of `query`, and the last state in float32.

    Raises:
        RuntimeError: there is no Triton here, it was imported too early for the
            interpreter, or a gradient is asked for.
        ValueError, TypeError: arguments that do not fit.
    """
    check_sequences(query, key, value, causal=True)
    check_for_kernel(query, key, value, decay, chunk_size)
    if kernel_mode() == "none":
        raise RuntimeError("triton is not installed (it exists for Linux only)")
    phi = resolve(feature_map, query.shape[-1])
    if not phi.tokenwise:
        raise ValueError("feature_map: allowed are tokenwise maps")
    features = phi.query(query), phi.key(key)
    if features[0].shape[-1] > 256:
        raise ValueError(f"feature_map: got {features[0].shape[-1]} features, max 256")
    if initial_state is not None:
        initial(initial_state.memory, features[1], value)
        _check_normalizer(initial_state)

    from underhood.linear_attention.kernel import interpreted, launch

    if kernel_mode() == "interpreter" and not interpreted():
        raise RuntimeError(
            "triton was imported before underhood.linear_attention, so it compiles "
            "and finds no GPU: import this package first, or set TRITON_INTERPRET=1"
        )
    dtype = query.dtype
    if kernel_mode() == "interpreter" and dtype == torch.bfloat16:
        # The interpreter keeps bfloat16 as integers and adds those.
        features, value = (features[0].float(), features[1].float()), value.float()
    out, memory, normalizer = launch(
        *features, value, decay, initial_state, normalize, chunk_size
    )
    return out.to(dtype), State(memory, normalizer)


def check_for_kernel(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor | None, chunk_size: int
) -> None:
    """What the kernel asks for beside `check_sequences`."""
    check_choice("chunk_size", str(chunk_size), ("16", "32", "64", "128"))
    if query.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(
            f"query: got {query.dtype}, allowed are float16, bfloat16, float32"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise RuntimeError("the kernel has no backward: call it under torch.no_grad()")
    if decay is not None:
        check_decay(decay, query.shape[1])
