"""What a sequence model does to gradients, and how many steps must wait.

Nothing here knows the models: it looks at the graph that autograd has recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Nodes of autograd that move numbers without computing any.
FREE = (
    *("AccumulateGrad", "View", "Transpose", "TBackward", "Select", "Slice", "Expand"),
    *("Unsqueeze", "Stack", "Cat", "Split", "Unflatten", "Alias", "Clone"),
)


def input_gradients(output: Tensor, inputs: Tensor, seed: int = 0) -> Tensor:
    """How much each input of a sequence still matters to one output.

    Args:
        output: (batch, features), usually the last output of a sequence.
        inputs: (batch, length, features), a leaf with `requires_grad`.
        seed: of the random direction in which `output` is probed.

    Returns:
        (length,): the norm of d(direction · output) / d(inputs[:, t]), averaged over
        the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    (gradient,) = torch.autograd.grad(
        output, inputs, direction.to(output), retain_graph=True
    )
    return gradient.norm(dim=-1).mean(dim=0)


def jacobian_norm(step: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """Largest singular value of d(state after `steps` steps) / d(start).

    Args:
        step: one step of a recurrence, (features,) -> (features,).
        start: (features,).
    """

    def run(state: Tensor) -> Tensor:
        for _ in range(steps):
            state = step(state)
        return state

    jacobian = torch.autograd.functional.jacobian(run, start)
    return torch.linalg.matrix_norm(jacobian, ord=2).item()


def longest_chain(output: Tensor) -> int:
    """Operations in the longest chain where each waits for the one before.

    A machine that does each operation of autograd, however large, in one round still
    needs this many rounds to compute `output`. Leaves and bookkeeping nodes count 0.
    """
    depth: dict[Any, int] = {None: 0}
    todo = [output.grad_fn]
    while todo:
        node = todo[-1]
        parents = [parent for parent, _ in node.next_functions] if node else []
        unknown = [parent for parent in parents if parent not in depth]
        if unknown:
            todo += unknown
            continue
        todo.pop()
        if node is not None:
            cost = 0 if any(word in node.name() for word in FREE) else 1
            depth[node] = cost + max((depth[p] for p in parents), default=0)
    return depth[output.grad_fn]
