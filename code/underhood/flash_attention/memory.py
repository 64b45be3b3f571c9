"""A model of a GPU's memory: slow and endless, fast and small, words counted.

The algorithms below compute real attention of one head and touch their inputs
only through a `FastMemory`. It counts the words that cross between the two
memories, and raises when more than `capacity` words are kept. On tensors of the
device "meta" they count without computing. No masks: this is about traffic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from underhood.flash_attention.tiled import blocks


class FastMemoryExceeded(MemoryError):
    """More words than fast memory has room for."""


class FastMemory:
    """`capacity` words of fast memory, and a count of the words moved."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: got {capacity}, at least 1 is needed")
        self.capacity = capacity
        self.kept = self.peak = 0
        self.reads = self.writes = 0
        self.rescaled = 0  # words of running outputs multiplied or divided

    @property
    def traffic(self) -> int:
        """Words read from and written to slow memory."""
        return self.reads + self.writes

    def keep(self, tensor: Tensor) -> Tensor:
        """Give a computed tensor room in fast memory."""
        self.kept += tensor.numel()
        self.peak = max(self.peak, self.kept)
        if self.kept > self.capacity:
            raise FastMemoryExceeded(
                f"{self.kept:,} words in a fast memory of {self.capacity:,}"
            )
        return tensor

    def load(self, part: Tensor) -> Tensor:
        """Copy a part of a tensor from slow to fast memory."""
        self.reads += part.numel()
        return self.keep(part.clone())

    def store(self, tensor: Tensor, into: Tensor) -> None:
        """Copy from fast memory to a part of a tensor in slow memory."""
        self.writes += tensor.numel()
        into.copy_(tensor)

    def free(self, *tensors: Tensor) -> None:
        """Forget tensors in fast memory."""
        self.kept -= sum(tensor.numel() for tensor in tensors)


def standard_attention(
    query: Tensor, key: Tensor, value: Tensor, memory: FastMemory
) -> Tensor:
    """Three steps from slow memory to slow memory: scores, softmax, output.

    query, key, value: (length, head_dim). Dao et al. 2022, Algorithm 0.
    """
    length, head_dim = query.shape
    scores = query.new_empty(length, length)
    output = query.new_zeros(length, head_dim)
    # Two tiles of rows and the square between them: 2 B d + B^2 <= capacity.
    size = math.isqrt(head_dim**2 + memory.capacity) - head_dim
    for rows in blocks(length, size):
        q = memory.load(query[rows])
        for columns in blocks(length, size):
            k = memory.load(key[columns])
            tile = memory.keep(q @ k.mT / math.sqrt(head_dim))
            memory.store(tile, scores[rows, columns])
            memory.free(k, tile)
        memory.free(q)
    for rows in blocks(length, max(1, memory.capacity // length)):
        tile = memory.load(scores[rows])
        memory.store(tile.softmax(dim=-1), scores[rows])
        memory.free(tile)
    for rows in blocks(length, size):
        out = memory.keep(torch.zeros_like(output[rows]))
        for columns in blocks(length, size):
            tile = memory.load(scores[rows, columns])
            v = memory.load(value[columns])
            out += tile @ v
            memory.free(tile, v)
        memory.store(out, output[rows])
        memory.free(out)
    return output


def paper_blocks(capacity: int, head_dim: int) -> tuple[int, int]:
    """(block_q, block_k) of Dao et al. 2022, Algorithm 1, line 1."""
    block_k = math.ceil(capacity / (4 * head_dim))
    return min(block_k, head_dim), block_k


def keys_outside(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: FastMemory,
    block_q: int,
    block_k: int,
) -> Tensor:
    """FlashAttention's loops: keys outside, so the output comes and goes.

    query, key, value: (length, head_dim). Dao et al. 2022, Algorithm 1.
    """
    length, head_dim = query.shape
    output = query.new_zeros(length, head_dim)
    row_max = query.new_full((length, 1), -torch.inf)
    row_sum = query.new_zeros(length, 1)
    for columns in blocks(length, block_k):
        k, v = memory.load(key[columns]), memory.load(value[columns])
        for rows in blocks(length, block_q):
            q, out = memory.load(query[rows]), memory.load(output[rows])
            m, total = memory.load(row_max[rows]), memory.load(row_sum[rows])
            scores = memory.keep(q @ k.mT / math.sqrt(head_dim))
            new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
            weights = (scores - new_m).exp()
            old_total = total * (m - new_m).exp()
            new_total = old_total + weights.sum(dim=-1, keepdim=True)
            # The output is kept divided: undo that division, do the new one.
            out = (out * old_total + weights @ v) / new_total
            memory.rescaled += 2 * out.numel()
            memory.store(out, output[rows])
            memory.store(new_m, row_max[rows])
            memory.store(new_total, row_sum[rows])
            memory.free(q, out, m, total, scores)
        memory.free(k, v)
    return output


def queries_outside(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: FastMemory,
    block_q: int,
    block_k: int,
) -> Tensor:
    """FlashAttention-2's loops: queries outside, so the output stays.

    query, key, value: (length, head_dim). Dao 2023, Algorithm 1.
    """
    length, head_dim = query.shape
    output = query.new_empty(length, head_dim)
    lse = query.new_empty(length, 1)
    for rows in blocks(length, block_q):
        q = memory.load(query[rows])
        out = memory.keep(torch.zeros_like(q))
        m = memory.keep(q.new_full((len(q), 1), -torch.inf))
        total = memory.keep(torch.zeros_like(m))
        for columns in blocks(length, block_k):
            k, v = memory.load(key[columns]), memory.load(value[columns])
            scores = memory.keep(q @ k.mT / math.sqrt(head_dim))
            new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
            weights = (scores - new_m).exp()
            rescale = (m - new_m).exp()
            total = total * rescale + weights.sum(dim=-1, keepdim=True)
            out = out * rescale + weights @ v
            memory.rescaled += out.numel()
            m = new_m
            memory.free(k, v, scores)
        memory.rescaled += out.numel()  # the one division
        memory.store(out / total, output[rows])
        memory.store(m + total.log(), lse[rows])
        memory.free(q, out, m, total)
    return output


def widest_blocks(
    capacity: int, head_dim: int, *, block_k: int = 32
) -> tuple[int, int]:
    """(block_q, block_k) for `queries_outside`: as many queries as have room.

    Raises:
        ValueError: not even one query fits.
    """
    room = capacity - 2 * block_k * head_dim  # beside keys and values
    block_q = room // (2 * head_dim + block_k + 2)
    if block_q < 1:
        raise ValueError(
            f"capacity: got {capacity} words; {block_k} keys and values of "
            f"{head_dim} leave no room for a query"
        )
    return block_q, block_k
