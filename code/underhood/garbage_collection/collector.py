"""How CPython finds cyclic garbage: counts minus internal references.

The functions work on the objects of `underhood.garbage_collection.heap.Heap`. Names
and order of steps are those of `Python/gc.c` (`Modules/gcmodule.c` before 3.13).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Hook = Callable[[Any, str], None]  # a finalizer or a callback: gets the heap, a name


@dataclass(eq=False, slots=True)
class Object:
    """What the heap knows about one object."""

    name: str
    container: bool
    finalizer: Hook | None
    refcount: int = 1  # the evaluation stack holds a new object
    finalized: bool = False
    gc_refs: int | None = None  # None: not a candidate of the running collection
    links: list[Object] = field(default_factory=list)
    weakrefs: list[WeakRef] = field(default_factory=list)
    home: ObjectList | None = None  # the collector's list that it is in


@dataclass(eq=False, slots=True)
class WeakRef:
    """A reference that does not count."""

    name: str
    target: Object | None
    callback: Hook | None


@dataclass(frozen=True)
class Snapshot:
    """One moment of a collection, by the names of the candidates."""

    step: str  # "copy" | "subtract" | "tentative" | "rescue" | "done"
    subject: str  # the object that the step moved, or ""
    refcount: dict[str, int]
    gc_refs: dict[str, int | None]  # None: visited, known to be reachable
    unreachable: frozenset[str]


# A dict that is a doubly linked list: append, unlink and take the first, all in O(1).
ObjectList = OrderedDict[Object, None]
Watch = Callable[[Snapshot], None]


def subtract_refs(young: ObjectList) -> None:
    """Leave in `gc_refs` how many references come from outside of `young`.

    Whoever refers to a candidate and is no candidate itself, be it a variable or
    C code, shows up as a count that nothing was subtracted from.
    """
    for obj in young:
        for target in obj.links:
            if target.gc_refs is not None:  # a candidate too
                target.gc_refs -= 1


def deduce_unreachable(
    young: ObjectList,
    watch: Watch | None = None,
) -> ObjectList:
    """Take out of `young`, and return, what cannot be reached from outside.

    Args:
        young: the candidates; what is left in it at the end is reachable.
        watch: called with a `Snapshot` at each step.
    """
    candidates = tuple(young)
    unreachable, reachable = ObjectList(), ObjectList()

    def show(step: str, subject: str = "") -> None:
        if watch is not None:
            watch(_snapshot(step, subject, candidates, unreachable))

    for obj in young:
        obj.gc_refs = obj.refcount
    show("copy")
    subtract_refs(young)
    show("subtract")
    while young:
        obj = next(iter(young))
        if obj.gc_refs == 0:
            move(obj, unreachable)  # tentatively
            show("tentative", obj.name)
            continue
        move(obj, reachable)
        obj.gc_refs = None
        for target in reversed(obj.links):  # as lists are traversed
            if target.home is unreachable:
                move(target, young)  # rescued, and to be visited again
                target.gc_refs = 1
                show("rescue", target.name)
            elif target.gc_refs == 0:
                target.gc_refs = 1
    show("done")
    for obj in unreachable:
        obj.gc_refs = None
    move_all(reachable, young)
    return unreachable


def move(obj: Object, to: ObjectList | None) -> None:
    """Unlink an object from its list and append it to another, or to none."""
    if obj.home is not None:
        del obj.home[obj]
    if to is not None:
        to[obj] = None
    obj.home = to


def move_all(source: ObjectList, to: ObjectList) -> None:
    """Append a whole list to another."""
    while source:
        move(next(iter(source)), to)


def _snapshot(
    step: str, subject: str, candidates: tuple[Object, ...], lost: ObjectList
) -> Snapshot:
    return Snapshot(
        step,
        subject,
        {obj.name: obj.refcount for obj in candidates},
        {obj.name: obj.gc_refs for obj in candidates},
        frozenset(obj.name for obj in lost),
    )
