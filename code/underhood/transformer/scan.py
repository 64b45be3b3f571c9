"""A linear recurrence does not have to wait: the loop, and a parallel prefix scan.

`h[t] = a[t] * h[t-1] + b[t]` is what is left of an RNN without its tanh. Steps compose:
`(a1, b1)` then `(a2, b2)` is `(a2 a1, a2 b1 + b2)`, again such a step, and the order of
composing is free. So all prefixes are known after ceil(log2 length) rounds.

Sources: Hillis & Steele, 1986 (the scan); Martin & Cundy, 2018 (for RNNs).
"""

from __future__ import annotations

import torch
from torch import Tensor


def loop_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """`h[t] = a[t] * h[t-1] + b[t]` from h = 0, one step after the other.

    Args:
        a, b: (batch, length, features).

    Returns:
        (batch, length, features), h after each step.
    """
    _check(a, b)
    hidden = torch.zeros_like(b[:, 0])
    states = []
    for t in range(a.shape[1]):
        hidden = a[:, t] * hidden + b[:, t]
        states.append(hidden)
    return torch.stack(states, dim=1)


def scan_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """The same states in ceil(log2 length) rounds over all positions at once.

    After the round with `reach`, entry t composes the `2 * reach` steps up to t.
    Costs length * log2(length) work instead of length.
    """
    _check(a, b)
    length, reach = a.shape[1], 1
    while reach < length:
        # Compose every position with the one `reach` before it.
        later_a, later_b = a[:, reach:], b[:, reach:]
        earlier_a, earlier_b = a[:, :-reach], b[:, :-reach]
        b = torch.cat([b[:, :reach], later_a * earlier_b + later_b], dim=1)
        a = torch.cat([a[:, :reach], later_a * earlier_a], dim=1)
        reach *= 2
    return b


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() != 3 or a.shape[1] == 0:
        raise ValueError(
            f"a, b: got shapes {tuple(a.shape)}, {tuple(b.shape)}; both must be "
            f"the same (batch, length, features), not empty"
        )
