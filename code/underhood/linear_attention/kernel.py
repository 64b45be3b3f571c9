"""Causal linear attention in chunks, with or without decay, as one Triton kernel.

One program computes one block of value columns of one head. It walks over the
sequence chunk by chunk and holds the state in registers: inside the chunk the scores
of all pairs, for everything older one product with the state.
"""

# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def tile_pointers(pointer, row, column, length, width):
    """Pointers to a matrix of (length, width), and which of them are inside."""
    inside = (row[:, None] < length) & (column[None, :] < width)
    return pointer + row[:, None] * width + column[None, :], inside


@triton.jit
def load_tile(pointer, row, column, length, width):
    """A tile, (rows, columns); what lies outside is 0."""
    pointers, inside = tile_pointers(pointer, row, column, length, width)
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def store_tile(pointer, row, column, length, width, tile):
    """Write a tile where it is inside."""
    pointers, inside = tile_pointers(pointer, row, column, length, width)
    tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def chunked_forward(
    query_ptr, key_ptr, value_ptr, out_ptr,
    memory_ptr, normalizer_ptr, last_memory_ptr, last_normalizer_ptr,
    log2_decay_ptr,
    num_heads, length, num_features, value_dim,
    DECAY: tl.constexpr, NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of value_dim, batch * heads). All tensors are contiguous."""
    columns = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    batch_head = tl.program_id(1).to(tl.int64)  # a large offset needs 64 bits
    rows = tl.arange(0, CHUNK)
    features = tl.arange(0, BLOCK_M)
    query_ptr += batch_head * length * num_features
    key_ptr += batch_head * length * num_features
    value_ptr += batch_head * length * value_dim
    out_ptr += batch_head * length * value_dim
    memory_ptr += batch_head * num_features * value_dim
    last_memory_ptr += batch_head * num_features * value_dim

    memory = load_tile(memory_ptr, features, columns, num_features, value_dim)
    normalizer_offsets = batch_head * num_features + features
    normalizer = tl.load(
        normalizer_ptr + normalizer_offsets, mask=features < num_features, other=0.0
    )

    age = rows[:, None] - rows[None, :]  # of a key, seen from a query
    log2_decay = 0.0
    if DECAY:
        log2_decay = tl.load(log2_decay_ptr + batch_head % num_heads)
    # Above the diagonal the age is negative, and 2 ** -age may overflow: 0 first.
    visible = tl.where(age >= 0, 1.0, 0.0)
    between = visible * tl.exp2(tl.maximum(age, 0) * log2_decay)
    since_start = tl.exp2((rows + 1) * log2_decay)

    for start in range(0, length, CHUNK):
        count = tl.minimum(length - start, CHUNK)  # the last chunk may be shorter
        tokens = start + rows
        query = load_tile(query_ptr, tokens, features, length, num_features)
        key = load_tile(key_ptr, tokens, features, length, num_features)
        value = load_tile(value_ptr, tokens, columns, length, value_dim)

        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * between
        older = query.to(tl.float32) * since_start[:, None]
        acc = tl.dot(older, memory, input_precision=PRECISION)
        acc += tl.dot(scores.to(value.dtype), value, input_precision=PRECISION)
        if NORMALIZE:
            total = tl.sum(scores, 1) + tl.sum(older * normalizer[None, :], 1)
            acc = acc / tl.where(total == 0.0, float("inf"), total)[:, None]
        store_tile(out_ptr, tokens, columns, length, value_dim, acc)

        until_end = tl.exp2(tl.maximum(count - 1 - rows, 0) * log2_decay)
        kept = key.to(tl.float32) * until_end[:, None]
        shrink = tl.exp2(count * log2_decay)
        update = tl.dot(
            tl.trans(kept.to(value.dtype)), value, input_precision=PRECISION
        )
        memory = memory * shrink + update
        normalizer = normalizer * shrink + tl.sum(kept, 0)

    store_tile(last_memory_ptr, features, columns, num_features, value_dim, memory)
    # Each block of columns has the same normalizer: the first one writes it.
    first = (features < num_features) & (tl.program_id(0) == 0)
    tl.store(last_normalizer_ptr + normalizer_offsets, normalizer, mask=first)


def interpreted() -> bool:
    """Whether Triton, when it was imported, was told to interpret."""
    # tl.cdiv is itself a jitted function, made when triton.language was imported.
    return not isinstance(tl.cdiv, triton.JITFunction)


def constants(
    num_features: int,
    value_dim: int,
    dtype: torch.dtype,
    *,
    decay: bool,
    normalize: bool,
    chunk_size: int,
) -> dict:
    """What the kernel is compiled for. No `tl.dot` is smaller than 16 × 16."""
    block_m = max(16, triton.next_power_of_2(num_features))
    return {
        "DECAY": decay,
        "NORMALIZE": normalize,
        # TF32 would be fast, and wrong in the fourth digit.
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "CHUNK": chunk_size,
        "BLOCK_M": block_m,
        "BLOCK_V": min(64, max(16, triton.next_power_of_2(value_dim))),
        "num_warps": 8 if block_m > 64 else 4,
    }


def launch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor | None,
    initial_state: tuple[torch.Tensor, torch.Tensor] | None,
    normalize: bool,
    chunk_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launch the kernel on features, checked by `triton_linear_attention`.

    Returns the output, and the last memory and normalizer in float32.
    """
    query, key, value = (x.contiguous() for x in (query, key, value))
    batch, heads, length, num_features = query.shape
    value_dim, device = value.shape[3], value.device
    memory = torch.zeros(batch, heads, num_features, value_dim, device=device)
    normalizer = torch.zeros(batch, heads, num_features, device=device)
    if initial_state is not None:
        memory.copy_(initial_state[0])
        normalizer.copy_(initial_state[1])
    out, last_memory, last_normalizer = map(
        torch.empty_like, (value, memory, normalizer)
    )
    log2_decay = torch.zeros(heads, device=device)
    if decay is not None:
        log2_decay = decay.to(device, torch.float32).log2().contiguous()
    fixed = constants(
        num_features,
        value_dim,
        value.dtype,
        decay=decay is not None,
        normalize=normalize,
        chunk_size=chunk_size,
    )
    grid = (triton.cdiv(value_dim, fixed["BLOCK_V"]), batch * heads)
    # A launch goes to the current GPU, which need not be that of the tensors.
    with torch.cuda.device(device if query.is_cuda else -1):
        try:
            chunked_forward[grid](
                query, key, value, out,
                memory, normalizer, last_memory, last_normalizer, log2_decay,
                heads, length, num_features, value_dim, **fixed,
            )  # fmt: skip
        except triton.OutOfResources:  # many features and long chunks
            if chunk_size == 16:
                raise
            return launch(
                query, key, value, decay, initial_state, normalize, chunk_size // 2
            )
    return out, last_memory, last_normalizer
