"""The assignment problem in O(n³), with its proof of optimality.

Source: Kuhn, 1955; Munkres, 1957; the form with shortest paths and potentials:
Jonker and Volgenant, 1987. `scipy.optimize.linear_sum_assignment` is the same
algorithm in C++, and what the matcher runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass
class Assignment:
    """
    Attributes:
        columns: For each row its column.
        row_price, column_price: The certificate. No pair costs less than the sum of
            its two prices, and each chosen pair costs exactly that. No column has a
            positive price, and a free one has 0. So no other choice is cheaper.
    """

    columns: NDArray[np.int64]
    row_price: Floats
    column_price: Floats


def assign(cost: Floats) -> Assignment:
    """Give each row a column of its own at the least total cost.

    Rows come one at a time. A new row takes a column; whoever loses it must move on,
    along the cheapest chain that ends at a free column. The prices keep what is
    left of every cost at zero or more, so that Dijkstra's search finds the chain.

    Args:
        cost: (rows, columns), rows <= columns, finite.

    Raises:
        ValueError: for another shape, or a cost that is not finite.
    """
    cost = _checked(cost)
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # the row of each column, -1 if it is free
    for row in range(rows):
        prices = row_price, column_price
        free, came_from = _cheapest_chain(cost, row, owner, *prices)
        while free >= 0:  # walk back; each row on the way moves on
            step = came_from[free]
            mover = row if step < 0 else owner[step]
            owner[free] = mover
            free = step
    taken = np.flatnonzero(owner >= 0)
    result = np.empty(rows, dtype=np.int64)
    result[owner[taken]] = taken
    return Assignment(result, row_price, column_price)


def _checked(cost: Floats) -> Floats:
    cost = np.asarray(cost, dtype=np.float64)
    if cost.ndim != 2 or cost.shape[0] > cost.shape[1]:
        wanted = "(rows, columns) with rows <= columns"
        raise ValueError(f"cost must be {wanted}, got {cost.shape}")
    if not np.isfinite(cost).all():
        raise ValueError("cost must be finite")
    return cost


def _cheapest_chain(
    cost: Floats,
    start: int,
    owner: NDArray[np.int64],
    row_price: Floats,
    column_price: Floats,
) -> tuple[int, NDArray[np.int64]]:
    """Dijkstra from a new row to the nearest free column; updates the prices.

    Returns:
        The free column, and for each column the one before it in its chain.
    """
    columns = cost.shape[1]
    distance = np.full(columns, np.inf)
    came_from = np.full(columns, -1)
    done = np.zeros(columns, dtype=bool)
    row, column, so_far = start, -1, 0.0
    while True:
        left = cost[row] - row_price[row] - column_price  # at least 0
        shorter = ~done & (so_far + left < distance)
        distance[shorter] = (so_far + left)[shorter]
        came_from[shorter] = column
        column = int(np.where(done, np.inf, distance).argmin())
        so_far = distance[column]
        done[column] = True
        if owner[column] < 0:
            break
        row = owner[column]
    row_price[start] += so_far
    visited = done.copy()
    visited[column] = False
    saved = so_far - distance[visited]
    column_price[visited] -= saved
    row_price[owner[visited]] += saved
    return column, came_from


def greedy(cost: Floats) -> NDArray[np.int64]:
    """Always the cheapest pair that is left: what one would try first.

    Args and errors: as of `assign`.

    Returns:
        For each row its column.
    """
    left = _checked(cost).copy()
    result = np.full(len(left), -1, dtype=np.int64)
    for _ in range(len(left)):
        row, column = np.unravel_index(left.argmin(), left.shape)
        result[row] = column
        left[row], left[:, column] = np.inf, np.inf
    return result
