"""Names, the objects that they refer to, and what those refer to in turn."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from underhood.objects.drawing import draw
from underhood.objects.referents import follow, is_mutable, short_repr, type_name

IMMORTAL = 500_000_000  # no real count gets here; every marker of immortality is above


@dataclass(frozen=True)
class Slot:
    """One reference that an object holds.

    Attributes:
        label: which one: `[0]`, `['key']`, `.attribute`.
        target: the label of the node that it refers to; "" where the walk was cut.
        cycle: the reference leads back to an object on the way to this one.
    """

    label: str
    target: str
    cycle: bool


@dataclass(frozen=True)
class Node:
    """One object.

    Attributes:
        label: `#1`, `#2`, …, in the order of discovery.
        id: its real identity.
        type: the name of its type.
        value: its repr in a few characters, for objects that hold no references.
        refcount: references to it from everywhere, those of the walk not counted.
        mutable: whether its type offers operations that change it.
        slots: the references that were followed.
        hidden: how many more it holds, beyond `max_items` or below `depth`.
    """

    label: str
    id: int
    type: str
    value: str
    refcount: int
    mutable: bool
    slots: tuple[Slot, ...]
    hidden: int

    @property
    def immortal(self) -> bool:
        """The interpreter never frees it, so its count says nothing.

        Also true of small integers on 3.11, whose counts start at a billion.
        """
        return self.refcount >= IMMORTAL


@dataclass(frozen=True)
class Name:
    """A name, and the label of the node that it refers to ("" where cut)."""

    text: str
    target: str


@dataclass(frozen=True)
class ObjectGraph:
    """What `object_graph` found. It holds no reference to the objects themselves."""

    names: tuple[Name, ...]
    nodes: tuple[Node, ...]
    hidden_names: int

    @property
    def edges(self) -> tuple[tuple[str, str, str], ...]:
        """(name or label of the holder, which reference, label of the target)."""
        named = [(name.text, "", name.target) for name in self.names]
        held = [
            (node.label, slot.label, slot.target)
            for node in self.nodes
            for slot in node.slots
        ]
        return tuple(edge for edge in [*named, *held] if edge[2])

    def __getitem__(self, name: str) -> Node:
        """The node that a name, or a label such as `#2`, stands for."""
        label = {known.text: known.target for known in self.names}.get(name, name)
        for node in self.nodes:
            if node.label == label:
                return node
        raise KeyError(name)

    @cached_property
    def svg(self) -> str:
        """The drawing: names on the left, objects in columns to their right."""
        return draw(self)

    def _repr_svg_(self) -> str:
        return self.svg


def object_graph(
    namespace: Mapping[str, object],
    *,
    depth: int = 4,
    max_items: int = 8,
    max_nodes: int = 40,
    max_names: int = 24,
    snapshot: bool = False,
) -> ObjectGraph:
    """Walk and draw what the names of a namespace refer to.

    Containers, attributes, closures and whatever else the garbage collector would
    traverse (`gc.get_referents`) are followed; types and modules only where a name
    refers to them, and then no further than their own plain attributes. Every
    object is visited once, so the walk ends on any graph.

    Args:
        namespace: names and objects, such as `vars(module)` or `locals()`.
        depth: objects at most so many references away from a name are drawn.
        max_items: references of one object that are followed.
        max_nodes: objects that are drawn; the nearest ones.
        max_names: names that are drawn; the first ones.
        snapshot: the namespace is a copy made for the picture: do not count the
            references that it holds.

    Raises:
        TypeError: `namespace` is no mapping, or a key of it is no string.
        ValueError: a limit below 1.
    """
    if not isinstance(namespace, Mapping):
        kind = type(namespace).__name__
        raise TypeError(f"namespace: got {kind}; allowed is a mapping of names")
    for key, limit in {
        "depth": depth,
        "max_items": max_items,
        "max_nodes": max_nodes,
        "max_names": max_names,
    }.items():
        if limit < 1:
            raise ValueError(f"{key}: got {limit}; allowed is 1 or more")
    walk = _Walk(depth, max_items, max_nodes)
    walk.start(namespace, max_names)
    walk.expand_all()
    # Read before anything else takes a reference: see `_Walk.refcounts`.
    counts = walk.refcounts(namespace if snapshot else {})
    return walk.to_graph(counts, hidden_names=max(0, len(namespace) - max_names))


@dataclass
class _Walk:
    """Objects found so far, each kept alive by exactly one reference: `pool`."""

    depth: int
    max_items: int
    max_nodes: int
    pool: list[object] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)  # id -> place in `pool`
    names: list[tuple[str, int | None]] = field(default_factory=list)
    slots: list[list[tuple[str, int | None]]] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)

    def visit(self, obj: object) -> int | None:
        """The place of an object in `pool`; None when the drawing is full."""
        place = self.index.get(id(obj))
        if place is None and len(self.pool) < self.max_nodes:
            place = self.index[id(obj)] = len(self.pool)
            self.pool.append(obj)
            self.slots.append([])
            self.hidden.append(0)
        return place

    def start(self, namespace: Mapping[str, object], max_names: int) -> None:
        for name in namespace:
            if not isinstance(name, str):
                kind = type(name).__name__
                raise TypeError(f"namespace: got a key of type {kind}, not str")
            if len(self.names) < max_names:
                self.names.append((name, self.visit(namespace[name])))

    def expand_all(self) -> None:
        """Breadth first, so that the nearest objects come before the limit."""
        level = deque((place, 1) for place in range(len(self.pool)))
        while level:
            place, distance = level.popleft()
            before = len(self.pool)
            self._expand(place, distance)
            level.extend((new, distance + 1) for new in range(before, len(self.pool)))

    def _expand(self, place: int, distance: int) -> None:
        limit = self.max_items if distance < self.depth else 0
        found, self.hidden[place] = follow(self.pool[place], limit)
        for label, obj in found:
            self.slots[place].append((label, self.visit(obj)))

    def refcounts(self, copied: Mapping[str, object]) -> list[int]:
        """References to each object, less those of the walk and of `copied`.

        A new object, to which nobody but the walk refers, goes through the same
        reading: what is counted of it is what the reading itself adds.
        """
        self.pool.append(object())
        counts = list(map(sys.getrefcount, self.pool))
        own = counts.pop()
        self.pool.pop()
        counts = [n if n >= IMMORTAL else n - own for n in counts]
        for name in copied:
            place = self.index.get(id(copied[name]))
            if place is not None and counts[place] < IMMORTAL:
                counts[place] -= 1
        return counts

    def to_graph(self, counts: list[int], *, hidden_names: int) -> ObjectGraph:
        order, cycles = self._discovery()
        label = {place: f"#{k}" for k, place in enumerate(order, 1)}

        def slots(place: int) -> Iterator[Slot]:
            for k, (text, target) in enumerate(self.slots[place]):
                found = "" if target is None else label[target]
                yield Slot(text, found, cycle=(place, k) in cycles)

        nodes = [
            Node(
                label=label[place],
                id=id(self.pool[place]),
                type=type_name(self.pool[place]),
                value=short_repr(self.pool[place], bare=not self.slots[place]),
                refcount=counts[place],
                mutable=is_mutable(self.pool[place]),
                slots=tuple(slots(place)),
                hidden=self.hidden[place],
            )
            for place in order
        ]
        names = [
            Name(text, "" if place is None else label[place])
            for text, place in self.names
        ]
        return ObjectGraph(tuple(names), tuple(nodes), hidden_names)

    def _discovery(self) -> tuple[list[int], set[tuple[int, int]]]:
        """Depth-first order of the objects, and the references that close a cycle.

        This order gives an object the same label before and after a change that
        only adds objects later in the order.
        """
        order: list[int] = []
        cycles: set[tuple[int, int]] = set()
        seen: set[int] = set()
        for _, root in self.names:
            if root is None or root in seen:
                continue
            seen.add(root)
            order.append(root)
            path: list[tuple[int, Iterator[Any]]] = [(root, self._held(root))]
            on_path = {root}
            while path:
                place, rest = path[-1]
                k, target = next(rest, (None, None))
                if k is None:
                    path.pop()
                    on_path.discard(place)
                elif target in on_path:
                    cycles.add((place, k))
                elif target is not None and target not in seen:
                    seen.add(target)
                    order.append(target)
                    path.append((target, self._held(target)))
                    on_path.add(target)
        return order, cycles

    def _held(self, place: int) -> Iterator[tuple[int, int | None]]:
        return ((k, target) for k, (_, target) in enumerate(self.slots[place]))
