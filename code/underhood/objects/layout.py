"""Boxes in columns, and references between them that run through no box.

Every box stands right of all boxes that refer to it. A reference that passes a
column gets a lane there, kept free like a box, so it never crosses one. The order
in a column is the one with the fewest crossings that a few sweeps find (Sugiyama,
Tagawa and Toda 1981); positions then minimize the squared slopes of the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GAP = 16.0  # between two boxes of a column
SWEEPS = 8


@dataclass
class Item:
    """A box, a name or a lane in a column. Lengths in pixels; `top` is the result."""

    column: int
    height: float
    entry: float  # where references arrive, measured from the top
    top: float = 0.0


@dataclass(frozen=True)
class Link:
    """A line from one item to an item of the next column."""

    source: int
    port: float  # where it leaves, measured from the source's top
    target: int


@dataclass
class Layout:
    """Items and links; the links of one reference form a chain through its lanes."""

    items: list[Item] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    lanes: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, column: int, height: float, entry: float) -> int:
        self.items.append(Item(column, height, entry))
        return len(self.items) - 1

    def connect(self, source: int, port: float, target: int) -> None:
        """Lead a reference to its target, by one lane for each column between.

        References to one target share its lanes.
        """
        end = self.items[target].column
        for column in range(self.items[source].column + 1, end):
            lane = self.lanes.get((target, column))
            if lane is None:
                lane = self.lanes[target, column] = self.add(column, 2.0, 1.0)
            self._link(source, port, lane)
            source, port = lane, 1.0
        self._link(source, port, target)

    def _link(self, source: int, port: float, target: int) -> None:
        link = Link(source, port, target)
        if link not in self.links:
            self.links.append(link)

    def place(self) -> float:
        """Set `top` of every item; returns the height of the whole."""
        if not self.items:
            return 0.0
        columns = self._ordered(self._columns())
        for _ in range(3):
            for column in columns:
                self._settle(column, forward=True)
            for column in reversed(columns):
                self._settle(column, forward=False)
        top = min(item.top for item in self.items)
        for item in self.items:
            item.top -= top
        return max(item.top + item.height for item in self.items)

    def _columns(self) -> list[list[int]]:
        columns: list[list[int]] = [
            [] for _ in range(max(item.column for item in self.items) + 1)
        ]
        for k, item in enumerate(self.items):
            columns[item.column].append(k)
        return columns

    def _ordered(self, columns: list[list[int]]) -> list[list[int]]:
        """Sort each column but the first by the mean place of its neighbors."""
        best, fewest = columns, self._crossings(columns)
        for sweep in range(SWEEPS):
            columns = [list(column) for column in columns]
            forward = sweep % 2 == 0
            rest = columns[1:] if forward else columns[-2:0:-1]
            for column in rest:
                place = self._places(columns)
                means = {k: self._mean(k, place, forward) for k in column}
                column.sort(key=lambda k: (means[k], place[k]))
            crossings = self._crossings(columns)
            if crossings < fewest:
                best, fewest = columns, crossings
        return best

    def _places(self, columns: list[list[int]]) -> dict[int, float]:
        return {k: float(place) for column in columns for place, k in enumerate(column)}

    def _mean(self, k: int, place: dict[int, float], forward: bool) -> float:
        if forward:
            ends = [self._start(link, place) for link in self.links if link.target == k]
        else:
            ends = [place[link.target] for link in self.links if link.source == k]
        return sum(ends) / len(ends) if ends else place[k]

    def _start(self, link: Link, place: dict[int, float]) -> float:
        return place[link.source] + link.port / (self.items[link.source].height + 1)

    def _crossings(self, columns: list[list[int]]) -> int:
        place = self._places(columns)
        total = 0
        for column in range(len(columns) - 1):
            ends = sorted(
                (self._start(link, place), place[link.target])
                for link in self.links
                if self.items[link.source].column == column
            )
            total += sum(
                first[0] < second[0] and first[1] > second[1]
                for k, first in enumerate(ends)
                for second in ends[k + 1 :]
            )
        return total

    def _settle(self, column: list[int], *, forward: bool) -> None:
        """Move a column as near to its neighbors as its order allows."""
        wanted = []
        for k in column:
            item = self.items[k]
            if forward:
                ends = [
                    self.items[link.source].top + link.port - item.entry
                    for link in self.links
                    if link.target == k
                ]
            else:
                ends = [
                    self.items[link.target].top
                    + self.items[link.target].entry
                    - link.port
                    for link in self.links
                    if link.source == k
                ]
            wanted.append(sum(ends) / len(ends) if ends else item.top)
        heights = [self.items[k].height + GAP for k in column]
        for k, top in zip(column, spread(wanted, heights), strict=True):
            self.items[k].top = top


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Tops nearest to the wanted ones in squared distance, in order, none overlapping.

    Subtracting the heights above turns "none overlapping" into "never decreasing";
    what remains is isotonic regression, solved by pooling adjacent violators.
    """
    above = [sum(heights[:k]) for k in range(len(heights))]
    pools: list[tuple[float, int]] = []  # (mean, members)
    for goal in (top - offset for top, offset in zip(wanted, above, strict=True)):
        mean, members = goal, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean = (mean * members + other * others) / (members + others)
            members += others
        pools.append((mean, members))
    flat = [mean for mean, members in pools for _ in range(members)]
    return [top + offset for top, offset in zip(flat, above, strict=True)]
