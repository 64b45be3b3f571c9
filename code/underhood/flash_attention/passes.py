"""Softmax and attention of one row, with the passes over the data counted.

Everything here is scalar code over one row, in the order in which it would run.
A `Stream` counts how often that row is read from start to end: three times for
the safe softmax, twice for the online softmax (Milakov and Gimelshein 2018), once
for attention (Ye 2023, Dao et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Stream:
    """A sequence too large to keep: it is read through, and counts that."""

    def __init__(self, items: Sequence[Any]) -> None:
        if len(items) == 0:
            raise ValueError("items: got none; a row has at least one entry")
        self.items = items
        self.passes = 0
        self.visits: list[int] = []  # the indices, in the order of reading

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for index, item in enumerate(self.items):
            self.visits.append(index)
            yield item


class Step(NamedTuple):
    """What the online softmax knows after an entry of the row."""

    max: Tensor
    sum: Tensor  # of exp(entry - max), for the entries so far
    rescale: Tensor  # by what this step multiplied the sum before it


def naive_softmax(row: Stream) -> Tensor:
    """exp(x_i) / sum_j exp(x_j): two passes, and exp overflows."""
    total = sum(x.exp() for x in row)
    return torch.stack([x.exp() / total for x in row])


def safe_softmax(row: Stream) -> Tensor:
    """The same with the maximum subtracted: three passes."""
    maximum = max(row)
    total = sum((x - maximum).exp() for x in row)
    return torch.stack([(x - maximum).exp() / total for x in row])


def online_steps(row: Iterable[Tensor]) -> Iterator[Step]:
    """Maximum and sum in one pass (Milakov and Gimelshein 2018)."""
    maximum, total = torch.tensor(-torch.inf), torch.tensor(0.0)
    for x in row:
        new_maximum = torch.maximum(maximum.to(x), x)
        rescale = (maximum - new_maximum).exp()
        total = total * rescale + (x - new_maximum).exp()
        maximum = new_maximum
        yield Step(maximum, total, rescale)


def online_softmax(row: Stream) -> Tensor:
    """Two passes: one for maximum and sum together, one to divide."""
    for step in online_steps(row):
        maximum, total = step.max, step.sum  # of the whole row, in the end
    return torch.stack([(x - maximum).exp() / total for x in row])


def safe_attention(query: Tensor, pairs: Stream) -> Tensor:
    """One row of attention, three passes over the (key, value) pairs.

    Args:
        query: (head_dim,), already scaled.
        pairs: of key (head_dim,) and value (head_dim,).
    """
    maximum = max(query @ key for key, _ in pairs)
    total = sum((query @ key - maximum).exp() for key, _ in pairs)
    output = torch.zeros_like(query)
    for key, value in pairs:
        output += (query @ key - maximum).exp() / total * value
    return output


def online_attention(query: Tensor, pairs: Stream) -> Tensor:
    """The same in two passes: maximum and sum come from the first."""
    for step in online_steps(query @ key for key, _ in pairs):
        maximum, total = step.max, step.sum
    output = torch.zeros_like(query)
    for key, value in pairs:
        output += (query @ key - maximum).exp() / total * value
    return output


def one_pass_attention(query: Tensor, pairs: Stream) -> Tensor:
    """The same in one pass: the output is rescaled with the sum (Ye 2023).

    After each pair, `output` is the attention over the pairs so far.
    """
    maximum = query.new_tensor(-torch.inf)
    total = query.new_zeros(())
    output = torch.zeros_like(query)
    for key, value in pairs:
        score = query @ key
        new_maximum = torch.maximum(maximum, score)
        kept = total * (maximum - new_maximum).exp()
        weight = (score - new_maximum).exp()
        total = kept + weight
        output = output * (kept / total) + weight / total * value
        maximum = new_maximum
    return output


def delayed_attention(query: Tensor, pairs: Stream) -> Tensor:
    """One pass and one division, at the end (Dao 2023, section 3.1)."""
    maximum = query.new_tensor(-torch.inf)
    total = query.new_zeros(())
    unnormalized = torch.zeros_like(query)
    for key, value in pairs:
        score = query @ key
        new_maximum = torch.maximum(maximum, score)
        rescale = (maximum - new_maximum).exp()
        weight = (score - new_maximum).exp()
        total = total * rescale + weight
        unnormalized = unnormalized * rescale + weight * value
        maximum = new_maximum
    return unnormalized / total
