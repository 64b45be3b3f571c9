"""FlashAttention, forward and backward, in Triton, as an operator of PyTorch.

This file needs torch and triton (3.6, 3.7) alone: copy it, call `triton_attention`.
No atomics: equal bits in every run. After Dao 2023, arXiv:2307.08691, Algorithms 1, 2.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from collections import namedtuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
# What a kernel is told when it starts: the keys of each sequence, (batch * key heads,),
# and slopes of ALiBi, (batch * heads,), or None; `group` query heads share a key head.
Call = namedtuple("Call", "lengths slopes heads group query_length key_length scale")
# What it is compiled for. A query sees LEFT keys before its place and RIGHT after it,
# all if -1; a SOFTCAP of 0 is none; BLOCK_D is the power of two that holds HEAD_DIM.
Mode = namedtuple("Mode", "LEFT RIGHT SOFTCAP ALIBI HEAD_DIM BLOCK_D BLOCK_Q BLOCK_K")


@triton.jit
def head_of(tensor, batch, head):
    """Where a head begins, and its stride between rows."""
    pointer, stride = tensor
    return pointer + batch * stride[0] + head * stride[1], stride[2]


@triton.jit
def load_tile(head, row, length, MODE: tl.constexpr):
    """Load rows of a head, (rows, BLOCK_D); what lies outside is 0."""
    dim = tl.arange(0, MODE.BLOCK_D)[None, :]
    pointers = head[0] + (row.to(tl.int64) * head[1])[:, None] + dim  # may pass 2^31
    inside = (row[:, None] < length) & (dim < MODE.HEAD_DIM)
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def store_tile(head, row, length, tile, MODE: tl.constexpr):
    """Write rows of a head, in its dtype; what lies outside is dropped."""
    dim = tl.arange(0, MODE.BLOCK_D)[None, :]
    pointers = head[0] + (row.to(tl.int64) * head[1])[:, None] + dim
    inside = (row[:, None] < length) & (dim < MODE.HEAD_DIM)
    tl.store(pointers, tile.to(head[0].dtype.element_ty), mask=inside)


@triton.jit
def tiles_of(head, length, ROWS: tl.constexpr, MODE: tl.constexpr):
    """A head whose `.load([row, 0])` takes ROWS rows; what lies outside is 0."""
    return tl.make_tensor_descriptor(head[0], [length, MODE.HEAD_DIM], [head[1], 1],
                                     [ROWS, MODE.BLOCK_D])  # fmt: skip


@triton.jit
def walk_edges(first, length, ROWS: tl.constexpr, BEFORE: tl.constexpr,
               AFTER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Edges of three legs of a walk; in the middle one all is seen: no mask."""
    start, full_start, full_stop, stop = 0, 0, length, length
    if AFTER >= 0:
        full_stop = tl.minimum(full_stop, first + AFTER + 1)
        stop = tl.maximum(tl.minimum(stop, first + ROWS + AFTER), 0)
    if BEFORE >= 0:
        start = tl.maximum(first - BEFORE, 0) // BLOCK * BLOCK
        full_start = tl.maximum(first + ROWS - 1 - BEFORE, 0)
        full_start = tl.minimum(tl.cdiv(full_start, BLOCK) * BLOCK, stop)
    full_stop = tl.maximum(full_stop // BLOCK * BLOCK, full_start)
    return start, full_start, full_stop, stop


@triton.jit
def shape_scores(scores, place, column, facts, CHECK: tl.constexpr, MODE: tl.constexpr):
    """Soft-cap, ALiBi and mask; also what takes the scores to base 2, and the tanh."""
    key_length, slope, scale = facts
    unit, capped = scale * LOG2_E, scores
    if MODE.SOFTCAP > 0:
        x = scores * (scale / MODE.SOFTCAP)
        near = x + x * x * x * (-1 / 3 + x * x * (2 / 15 - x * x * 17 / 315))
        far = 1 - 2 / (tl.exp2(x * (2 * LOG2_E)) + 1)  # inexact near 0
        capped = tl.where(tl.abs(x) < 0.2, near, far)  # tanh(x)
        scores, unit = capped * (MODE.SOFTCAP * LOG2_E), 1.0
    if MODE.ALIBI:
        scores, unit = scores * unit - tl.abs(place - column) * (slope * LOG2_E), 1.0
    if CHECK:
        visible = column < key_length
        if MODE.RIGHT >= 0:
            visible &= column <= place + MODE.RIGHT
        if MODE.LEFT >= 0:
            visible &= column >= place - MODE.LEFT
        scores = tl.where(visible, scores, float("-inf"))
    return scores, unit, capped


@triton.jit
def gradients(scores, d_weights, lse, delta, place, column, facts,
              CHECK: tl.constexpr, MODE: tl.constexpr):  # fmt: skip
    """The weights of a tile once more, and the gradients of its scaled scores."""
    scores, unit, capped = shape_scores(scores, place, column, facts, CHECK, MODE)
    # A row that saw nothing has lse = -inf. Turned around, its weights become 0.
    lse = tl.where(lse == float("-inf"), float("inf"), lse * LOG2_E)
    weights = tl.exp2(scores * unit - lse)
    d_scores = weights * (d_weights - delta)
    if MODE.SOFTCAP > 0:
        d_scores *= 1 - capped * capped
    return weights, d_scores


@triton.jit
def find_head(batch_head, call):
    """Its batch, head and key head; its number of keys and its slope of ALiBi."""
    key_length = call.key_length
    if call.lengths is not None:
        own = tl.load(call.lengths + batch_head // call.group)
        key_length = tl.maximum(tl.minimum(own, key_length), 0)  # no key of others
    slope = 0.0 if call.slopes is None else tl.load(call.slopes + batch_head)
    batch, head = batch_head // call.heads, batch_head % call.heads
    return batch, head, head // call.group, (key_length, slope, call.scale)


@triton.jit
def my_queries(call, MODE: tl.constexpr):
    """The tile of queries that this program has; grid: (tiles * batch * heads,)."""
    num_tiles = tl.cdiv(call.query_length, MODE.BLOCK_Q)
    top = tl.program_id(0) % num_tiles * MODE.BLOCK_Q
    if MODE.RIGHT >= 0:  # the last tile has the most keys to see: start it first
        top = (num_tiles - 1) * MODE.BLOCK_Q - top
    batch_head = (tl.program_id(0) // num_tiles).to(tl.int64)
    batch, head, kv_head, facts = find_head(batch_head, call)
    row = top + tl.arange(0, MODE.BLOCK_Q)
    offset = facts[0] - call.query_length  # the last query stands at the last key
    edges = walk_edges(top + offset, facts[0], MODE.BLOCK_Q, MODE.LEFT, MODE.RIGHT,
                       MODE.BLOCK_K)  # fmt: skip
    stat = batch_head * call.query_length + row  # of its numbers in `lses` and `deltas`
    return batch, head, kv_head, facts, row, (row + offset)[:, None], stat, edges


@triton.jit
def attention_forward(query, key, value, out, lses, call, MODE: tl.constexpr):
    """Holds a tile of queries and walks over the keys; Algorithm 1."""
    batch, head, kv_head, facts, row, place, stat, edges = my_queries(call, MODE)
    length = call.query_length
    keys = tiles_of(head_of(key, batch, kv_head), facts[0], MODE.BLOCK_K, MODE)
    values = tiles_of(head_of(value, batch, kv_head), facts[0], MODE.BLOCK_K, MODE)
    q = load_tile(head_of(query, batch, head), row, length, MODE)
    acc = tl.full([MODE.BLOCK_Q, MODE.BLOCK_D], 0.0, tl.float32)
    row_max = tl.full([MODE.BLOCK_Q], float("-inf"), tl.float32)
    row_sum = tl.full([MODE.BLOCK_Q], 0.0, tl.float32)
    for leg in tl.static_range(3):
        for first in tl.range(edges[leg], edges[leg + 1], MODE.BLOCK_K):
            column = (first + tl.arange(0, MODE.BLOCK_K))[None, :]
            k, v = keys.load([first, 0]), values.load([first, 0])
            scores = tl.dot(q, k.T, input_precision="ieee")
            scores, unit, _ = shape_scores(scores, place, column, facts, leg != 1, MODE)
            # The maximum is scaled, not the scores: one FMA for each of them.
            new_max = tl.maximum(row_max, tl.max(scores, 1) * unit)
            shift = new_max
            if leg != 1:  # no key seen yet: -inf - -inf would be NaN
                shift = tl.where(new_max == float("-inf"), 0.0, new_max)
            weights = tl.exp2(scores * unit - shift[:, None])
            rescale = tl.exp2(row_max - shift)
            row_max, row_sum = new_max, row_sum * rescale + tl.sum(weights, 1)
            acc = acc * rescale[:, None]
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
    row_sum = tl.where(row_sum == 0.0, 1.0, row_sum)  # saw nothing: out 0, lse -inf
    tl.store(lses + stat, (row_max + tl.log2(row_sum)) * LN_2, mask=row < length)
    acc *= tl.div_rn(1.0, row_sum)[:, None]  # `/` is up to 2 ulp off on a GPU
    store_tile(head_of(out, batch, head), row, length, acc, MODE)


@triton.jit
def attention_dq(query, key, value, out, lses, d_out, d_lses, deltas, d_query,
                 call, MODE: tl.constexpr):  # fmt: skip
    """As the forward pass, with the weights computed again; also writes delta."""
    batch, head, kv_head, facts, row, place, stat, edges = my_queries(call, MODE)
    length, inside = call.query_length, row < call.query_length
    keys = tiles_of(head_of(key, batch, kv_head), facts[0], MODE.BLOCK_K, MODE)
    values = tiles_of(head_of(value, batch, kv_head), facts[0], MODE.BLOCK_K, MODE)
    q = load_tile(head_of(query, batch, head), row, length, MODE)
    o = load_tile(head_of(out, batch, head), row, length, MODE)
    do = load_tile(head_of(d_out, batch, head), row, length, MODE)
    lse = tl.load(lses + stat, mask=inside, other=float("-inf"))
    d_lse = tl.load(d_lses + stat, mask=inside, other=0.0)
    delta = tl.sum(o.to(tl.float32) * do, 1) - d_lse
    delta = tl.where(lse == float("-inf"), 0.0, delta)
    tl.store(deltas + stat, delta, mask=inside)  # for `attention_dkdv`
    dq = tl.full([MODE.BLOCK_Q, MODE.BLOCK_D], 0.0, tl.float32)
    for leg in tl.static_range(3):
        for first in tl.range(edges[leg], edges[leg + 1], MODE.BLOCK_K):
            column = (first + tl.arange(0, MODE.BLOCK_K))[None, :]
            k, v = keys.load([first, 0]), values.load([first, 0])
            scores = tl.dot(q, k.T, input_precision="ieee")
            d_weights = tl.dot(do, v.T, input_precision="ieee")
            _, d_scores = gradients(scores, d_weights, lse[:, None], delta[:, None],
                place, column, facts, leg != 1, MODE)  # fmt: skip
            dq = tl.dot(d_scores.to(k.dtype), k, dq, input_precision="ieee")
    store_tile(head_of(d_query, batch, head), row, length, dq * call.scale, MODE)


@triton.jit
def attention_dkdv(query, key, value, lses, d_out, deltas, d_key, d_value,
                   call, MODE: tl.constexpr):  # fmt: skip
    """A tile of one key head, scores as (keys, queries); grid: (all such tiles,)."""
    num_tiles = tl.cdiv(call.key_length, MODE.BLOCK_K)
    top = tl.program_id(0) % num_tiles * MODE.BLOCK_K
    first_head = (tl.program_id(0) // num_tiles).to(tl.int64) * call.group
    batch, _, kv_head, facts = find_head(first_head, call)
    length, size = call.query_length, call.key_length
    offset = facts[0] - length
    column = top + tl.arange(0, MODE.BLOCK_K)
    # A query sees keys from LEFT to RIGHT of it; a key is seen the other way.
    edges = walk_edges(top - offset, length, MODE.BLOCK_K,
                       MODE.RIGHT, MODE.LEFT, MODE.BLOCK_Q)  # fmt: skip
    k = load_tile(head_of(key, batch, kv_head), column, size, MODE)
    v = load_tile(head_of(value, batch, kv_head), column, size, MODE)
    dk = tl.full([MODE.BLOCK_K, MODE.BLOCK_D], 0.0, tl.float32)
    dv = tl.full([MODE.BLOCK_K, MODE.BLOCK_D], 0.0, tl.float32)
    for batch_head in tl.range(first_head, first_head + call.group, num_stages=1):
        _, head, _, facts = find_head(batch_head, call)
        queries = tiles_of(head_of(query, batch, head), length, MODE.BLOCK_Q, MODE)
        d_outs = tiles_of(head_of(d_out, batch, head), length, MODE.BLOCK_Q, MODE)
        for leg in tl.static_range(3):
            for first in tl.range(edges[leg], edges[leg + 1], MODE.BLOCK_Q):
                row = first + tl.arange(0, MODE.BLOCK_Q)
                q, do = queries.load([first, 0]), d_outs.load([first, 0])
                stat, inside = batch_head * length + row, row < length
                lse = tl.load(lses + stat, mask=inside, other=float("-inf"))[None, :]
                delta = tl.load(deltas + stat, mask=inside, other=0.0)[None, :]
                scores = tl.dot(k, q.T, input_precision="ieee")
                dp = tl.dot(v, do.T, input_precision="ieee")
                p, ds = gradients(scores, dp, lse, delta, (row + offset)[None, :],
                    column[:, None], facts, leg != 1, MODE)  # fmt: skip
                dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
                dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    seen = (column < facts[0])[:, None]  # keys of padding have no gradient
    dk, dv = tl.where(seen, dk * call.scale, 0.0), tl.where(seen, dv, 0.0)
    store_tile(head_of(d_key, batch, kv_head), column, size, dk, MODE)
    store_tile(head_of(d_value, batch, kv_head), column, size, dv, MODE)


# By head_dim, for half precision: BLOCK_Q, BLOCK_K, num_warps, num_stages.
CONFIGS = {
    attention_forward: {64: (64, 128, 4, 2), 128: (128, 128, 8, 3),
                        256: (128, 64, 8, 2)},
    attention_dq: {64: (64, 64, 4, 2), 128: (128, 64, 8, 3), 256: (64, 32, 4, 2)},
    attention_dkdv: {64: (32, 128, 4, 2), 128: (64, 64, 4, 2), 256: (32, 64, 8, 2)},
}  # fmt: skip


def launch(kernel, tensors, lengths, slopes, scale, *mask):
    """Run a kernel in tiles that suit dtype and GPU; mask: (left, right, softcap)."""
    (batch, heads, length, head_dim), dtype = tensors[0].shape, tensors[0].dtype
    kv_heads, key_length = tensors[1].shape[1:3]
    block_d = 1 << (head_dim - 1).bit_length()  # Triton's helpers are slow outside jit
    block_q, block_k, warps, stages = CONFIGS[kernel][max(64, block_d)]
    if dtype == torch.float32:  # no tensor core multiplies it at full precision
        side, warps, stages = max(16, min(32, 2048 // block_d)), 8, 1
        block_q, block_k = min(block_q, side), min(block_k, side)
    rows = min(block_q, max(16, 1 << (length - 1).bit_length()))
    tiles_q, tiles_k = -(-length // rows), -(-key_length // block_k)
    grid = batch * (kv_heads * tiles_k if kernel is attention_dkdv else heads * tiles_q)
    args = [(t, t.stride()) if t.dim() == 4 else t for t in tensors]
    call = Call(lengths, slopes, heads, heads // kv_heads, length, key_length, scale)
    mode = Mode(*mask, slopes is not None, head_dim, block_d, rows, block_k)
    # The hardware that copies tiles reads their description from global memory.
    triton.set_allocator(lambda n, *_: torch.empty(n, device="cuda", dtype=torch.int8))
    # A launch goes to the current GPU, which need not be that of the tensors.
    with torch.cuda.device(tensors[0].device if tensors[0].is_cuda else -1):
        try:
            kernel[(grid,)](*args, call, MODE=mode, num_warps=warps, num_stages=stages)
        except triton.OutOfResources:  # less shared memory than an H100: smaller tiles
            CONFIGS[kernel][max(64, block_d)] = block_q, block_k // 2, warps, 2
            launch(kernel, tensors, lengths, slopes, scale, *mask)


def aligned(tensor):
    """A copy if rows are not contiguous or do not start at a multiple of 16 bytes."""
    unit = 16 // tensor.element_size()
    starts = tensor.data_ptr() // tensor.element_size(), *tensor.stride()[:3]
    if tensor.stride(3) == 1 and not any(start % unit for start in starts):
        return tensor
    copy = tensor.new_empty(*tensor.shape[:3], triton.next_power_of_2(tensor.shape[3]))
    return copy[..., : tensor.shape[3]].copy_(tensor)


@torch.library.custom_op("flash::forward", mutates_args=())
def forward_op(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None,
               slopes: Tensor | None, scale: float, left: int, right: int,
               softcap: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    out, lse = _empty_outputs(query)
    tensors = *map(aligned, (query, key, value)), out, lse
    launch(attention_forward, tensors, lengths, slopes, scale, left, right, softcap)
    return out, lse


@forward_op.register_fake
def _empty_outputs(query, *others):
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float)


@torch.library.custom_op("flash::backward", mutates_args=())
def backward_op(d_out: Tensor, d_lse: Tensor, query: Tensor, key: Tensor,
                value: Tensor, out: Tensor, lse: Tensor, lengths: Tensor | None,
                slopes: Tensor | None, scale: float, left: int, right: int,
                softcap: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv, delta = map(torch.empty_like, (query, key, value, lse))
    query, key, value, d_out = map(aligned, (query, key, value, d_out))
    d_lse, rest = d_lse.contiguous(), (lengths, slopes, scale, left, right, softcap)
    launch(attention_dq, (query, key, value, out, lse, d_out, d_lse, delta, dq), *rest)
    launch(attention_dkdv, (query, key, value, lse, d_out, delta, dk, dv), *rest)
    return dq, dk, dv


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:5])
    ctx.numbers = inputs[5:]


def _backward(ctx, d_out, d_lse):
    return *backward_op(d_out, d_lse, *ctx.saved_tensors, *ctx.numbers), *[None] * 6


backward_op.register_fake(lambda *each: tuple(map(torch.empty_like, each[2:5])))
forward_op.register_autograd(_backward, setup_context=_keep)


def triton_attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False,
                     softmax_scale: float | None = None, window: tuple = (-1, -1),
                     key_lengths: Tensor | None = None, softcap: float = 0.0,
                     alibi_slopes: Tensor | None = None):  # fmt: skip
    """Attention and its logsumexp, both differentiable; options as `flash_attention`.

    query: (batch, heads, length, head_dim of 16 to 256); key, value: the same with any
    length, and a number of heads that divides that of `query`.
    """
    batch, heads, _, head_dim = query.shape
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    if not (16 <= head_dim <= 256 and scale > 0):
        raise ValueError(f"head_dim {head_dim}, scale {scale}; allowed: 16 to 256, > 0")
    shapes = [tuple(each.shape) for each in (query, key, value)]
    if shapes[1:] != [(batch, *key.shape[1:3], head_dim)] * 2 or heads % key.shape[1]:
        raise ValueError(f"query, key, value: got {shapes}, which do not fit together")
    if key_lengths is not None:
        key_lengths = key_lengths.int().reshape(batch, -1).expand(key.shape[:2])
        key_lengths = key_lengths.contiguous()
    if alibi_slopes is not None:
        alibi_slopes = alibi_slopes.float().expand(batch, heads).contiguous()
    tensors = [t if t.stride(3) == 1 else t.contiguous() for t in (query, key, value)]
    band = window[0], 0 if causal else window[1]
    return forward_op(*tensors, key_lengths, alibi_slopes, scale, *band, softcap)
