"""The forward pass of FlashAttention as one Triton kernel.

This file needs torch and triton and nothing else: copy it into a project.
One program computes one tile of queries of one head. It walks over the keys
and values in tiles, keeps a running maximum, a running sum and an output not
yet divided per row, and divides once at the end (Dao 2023, Algorithm 1).
"""

# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x * LOG2_E)
LN_2 = tl.constexpr(0.6931471805599453)


def block_sizes(query_length: int, head_dim: int, dtype: torch.dtype) -> dict:
    """Tile sizes and launch options, from the shape alone: no autotuning.

    No tensor core multiplies float32 at full precision: its tiles are small.
    A short query (decoding) gets a short tile, of at least the 16 rows of a
    `tl.dot`.
    """
    block_q, block_k = (64, 32) if dtype == torch.float32 else (128, 64)
    block_q = min(block_q, max(16, triton.next_power_of_2(query_length)))
    return {
        "BLOCK_Q": block_q,
        "BLOCK_K": block_k,
        "num_warps": 8 if block_q == 128 and head_dim > 64 else 4,
        "num_stages": 3 if dtype.itemsize == 2 else 2,
    }


def constants(head_dim: int, dtype: torch.dtype, causal: bool) -> dict:
    """What the kernel is compiled for, beside the tile sizes."""
    block_d = max(16, triton.next_power_of_2(head_dim))
    return {
        "CAUSAL": causal,
        # TF32 would be fast, and wrong in the fourth digit. Halves ignore it.
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "EVEN_D": head_dim == block_d,
        "BLOCK_D": block_d,
    }


@triton.jit
def load_tile(
    pointers, row_inside, dim_inside,
    MASKED: tl.constexpr, EVEN_D: tl.constexpr,
):  # fmt: skip
    """Load (rows, BLOCK_D); what lies outside the tensor becomes 0."""
    if MASKED:
        return tl.load(pointers, mask=row_inside & dim_inside, other=0.0)
    if EVEN_D:
        return tl.load(pointers)
    return tl.load(pointers, mask=dim_inside, other=0.0)


@triton.jit
def walk_keys(
    acc, row_max, row_sum, query,
    key_ptrs, value_ptrs, stride_kn, stride_vn,
    start, stop, last_visible, key_length, head_dim, qk_scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, EVEN_D: tl.constexpr,
):  # fmt: skip
    """Fold the keys and values start..stop into (acc, row_max, row_sum)."""
    dim_inside = tl.arange(0, BLOCK_D)[None, :] < head_dim
    for first in tl.range(start, stop, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        inside = columns[:, None] < key_length
        key = load_tile(key_ptrs, inside, dim_inside, MASKED, EVEN_D)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if MASKED:
            visible = columns[None, :] < key_length
            if CAUSAL:
                visible &= columns[None, :] <= last_visible[:, None]
            scores = tl.where(visible, scores, float("-inf"))

        # Scaling the maximum, not the scores, makes s * scale - m one FMA.
        new_max = tl.maximum(row_max, tl.max(scores, 1) * qk_scale)
        shift = new_max
        if MASKED:  # a row may have seen no key yet, and -inf - -inf is NaN
            shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(scores * qk_scale - shift[:, None])
        rescale = tl.exp2(row_max - shift)
        row_max = new_max
        row_sum = row_sum * rescale + tl.sum(weights, 1)

        value = load_tile(value_ptrs, inside, dim_inside, MASKED, EVEN_D)
        weights = weights.to(value.dtype)
        acc = acc * rescale[:, None]
        acc = tl.dot(weights, value, acc, input_precision=PRECISION)
        key_ptrs += BLOCK_K * stride_kn
        value_ptrs += BLOCK_K * stride_vn
    return acc, row_max, row_sum, key_ptrs, value_ptrs


@triton.jit
def attention_forward(
    query_ptr, key_ptr, value_ptr, out_ptr, lse_ptr,
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    num_heads, query_length, key_length, head_dim, qk_scale,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, EVEN_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head; grid: (tiles * batch * heads,)."""
    num_tiles = tl.cdiv(query_length, BLOCK_Q)
    tile = tl.program_id(0) % num_tiles
    batch_head = tl.program_id(0) // num_tiles
    if CAUSAL:  # the last tile has the most keys to see: start it first
        tile = num_tiles - 1 - tile
    # 64 bits: an offset into a large tensor does not fit into 32.
    batch = (batch_head // num_heads).to(tl.int64)
    head = (batch_head % num_heads).to(tl.int64)
    first_row = tile * BLOCK_Q
    rows = first_row + tl.arange(0, BLOCK_Q)
    wide_rows = rows.to(tl.int64)[:, None]
    columns = tl.arange(0, BLOCK_K)[:, None]
    dims = tl.arange(0, BLOCK_D)[None, :]

    query_ptr += batch * stride_qb + head * stride_qh
    key_ptr += batch * stride_kb + head * stride_kh
    value_ptr += batch * stride_vb + head * stride_vh
    out_ptr += batch * stride_ob + head * stride_oh
    lse_ptr += batch_head.to(tl.int64) * query_length
    key_ptrs = key_ptr + columns * stride_kn + dims * stride_kd
    value_ptrs = value_ptr + columns * stride_vn + dims * stride_vd
    inside = (rows[:, None] < query_length) & (dims < head_dim)
    query_ptrs = query_ptr + wide_rows * stride_qn + dims * stride_qd
    query = tl.load(query_ptrs, mask=inside, other=0.0)

    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)

    # Keys 0..full are seen by every row, full..stop by some, others by none.
    full, stop = key_length, key_length
    offset = key_length - query_length  # bottom-right: the last row sees all
    if CAUSAL:
        full = tl.maximum(tl.minimum(first_row + offset + 1, full), 0)
        stop = tl.minimum(first_row + BLOCK_Q + offset, stop)
    full = full // BLOCK_K * BLOCK_K
    acc, row_max, row_sum, key_ptrs, value_ptrs = walk_keys(
        acc, row_max, row_sum, query,
        key_ptrs, value_ptrs, stride_kn, stride_vn,
        0, full, rows + offset, key_length, head_dim, qk_scale,
        False, CAUSAL, PRECISION, BLOCK_K, BLOCK_D, EVEN_D,
    )  # fmt: skip
    acc, row_max, row_sum, key_ptrs, value_ptrs = walk_keys(
        acc, row_max, row_sum, query,
        key_ptrs, value_ptrs, stride_kn, stride_vn,
        full, stop, rows + offset, key_length, head_dim, qk_scale,
        True, CAUSAL, PRECISION, BLOCK_K, BLOCK_D, EVEN_D,
    )  # fmt: skip

    # A row that sees nothing has the sum 0: its output is 0, its lse -inf.
    row_sum = tl.where(row_sum == 0.0, 1.0, row_sum)
    lse = (row_max + tl.log2(row_sum)) * LN_2
    tl.store(lse_ptr + rows, lse, mask=rows < query_length)
    out = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)
    out_ptrs = out_ptr + wide_rows * stride_on + dims * stride_od
    tl.store(out_ptrs, out, mask=inside)


def triton_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    softmax_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel, with the arguments of `flash_attention`, checked.

    Returns the output, (batch, heads, query_length, head_dim) in the dtype of
    `query`, and the logsumexp of the scaled scores in natural log,
    (batch, heads, query_length) in float32.
    """
    batch, num_heads, query_length, head_dim = query.shape
    device = query.device
    out = torch.empty(query.shape, dtype=query.dtype, device=device)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=device)
    sizes = block_sizes(query_length, head_dim, query.dtype)
    num_tiles = triton.cdiv(query_length, sizes["BLOCK_Q"])
    # A launch goes to the current GPU, which need not be that of the tensors.
    with torch.cuda.device(device if query.is_cuda else -1):
        attention_forward[(num_tiles * batch * num_heads,)](
            query, key, value, out, lse,
            *query.stride(), *key.stride(), *value.stride(), *out.stride(),
            num_heads, query_length, key.shape[2], head_dim,
            softmax_scale * LOG2_E.value,
            **constants(head_dim, query.dtype, causal),
            **sizes,
        )  # fmt: skip
    return out, lse
