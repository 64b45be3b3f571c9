"""The interface of `Heap`, over real objects of the running interpreter.

A container is a subclass of list with slots, so that it is one object to the collector
(an instance with a `__dict__` may be two). A leaf is a code object: the one kind of
object that is no container to the collector and still can be weakly referenced. So each
container also holds a code object of its own, its mark, whose death tells of its own.
"""

from __future__ import annotations

import gc
import weakref
from types import CodeType, TracebackType
from typing import Any

from underhood.garbage_collection.collector import Hook
from underhood.garbage_collection.live import quiet_collector

_leaf = compile("", "leaf", "exec")


class RealObject(list[Any]):
    """A container: its items are what it refers to."""

    __slots__ = ("__weakref__", "mark", "world")
    mark: CodeType
    world: Interpreter


class FinalizedObject(RealObject):
    """A container with a finalizer."""

    __slots__ = ()

    def __del__(self) -> None:
        self.world._run_finalizer(self)


class Interpreter:
    """The running interpreter, with the methods of `Heap`.

    Use it in a `with` block: inside, the collector sees the objects of the block and
    no others, and never starts by itself. Only what a variable or a new object leads
    to can be named, as in a real program.
    """

    def __init__(self) -> None:
        self._alive: dict[str, Any] = {"": []}
        self._finalizers: dict[str, Hook] = {}
        # A dict is tracked from the first container in it. These must be tracked
        # now, to be frozen: else they would be candidates, and not the outside.
        self._variables: dict[str, Any] = {"": []}
        self._stack: dict[str, Any] = {"": []}
        self._weakrefs: dict[str, Any] = {"": []}
        self._quiet = quiet_collector()

    def __enter__(self) -> Interpreter:
        self._quiet.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finalizers.clear()  # what dies from here on, dies quietly
        self._weakrefs.clear()
        self._variables.clear()
        self._stack.clear()
        gc.collect()
        self._quiet.__exit__(kind, error, trace)

    def new(
        self, name: str, container: bool = True, finalizer: Hook | None = None
    ) -> str:
        """As `Heap.new`. A leaf cannot have a finalizer here."""
        mark = _leaf.replace(co_name=name)
        self._alive[name] = weakref.ref(mark, lambda _: self._alive.pop(name))
        if not container:
            self._stack[name] = mark
            return name
        made = RealObject() if finalizer is None else FinalizedObject()
        made.mark, made.world = mark, self
        if finalizer is not None:
            self._finalizers[name] = finalizer
        self._stack[name] = made
        return name

    def bind(self, variable: str, obj: str) -> None:
        """As `Heap.bind`."""
        self._variables[variable] = self._find(obj)
        self._stack.pop(obj, None)

    def unbind(self, variable: str) -> None:
        """As `Heap.unbind`."""
        del self._variables[variable]

    def link(self, source: str, target: str) -> None:
        """As `Heap.link`."""
        self._find(source).append(self._find(target))
        self._stack.pop(target, None)

    def unlink(self, source: str, target: str) -> None:
        """As `Heap.unlink`."""
        del self._find(source)[self.links(source).index(target)]

    def weakref(self, name: str, target: str, callback: Hook | None = None) -> None:
        """As `Heap.weakref`."""
        told = None if callback is None else lambda _: callback(self, name)
        self._weakrefs[name] = weakref.ref(self._find(target), told)

    def target(self, weakref: str) -> str | None:
        """As `Heap.target`."""
        found = self._weakrefs[weakref]()
        return None if found is None else _name_of(found)

    def collect(self, generation: int = 2) -> int:
        """`gc.collect(generation)`"""
        return gc.collect(generation)

    @property
    def alive(self) -> frozenset[str]:
        """As `Heap.alive`."""
        return frozenset(self._alive) - {""}

    @property
    def variables(self) -> dict[str, str]:
        """As `Heap.variables`."""
        return {v: _name_of(obj) for v, obj in self._variables.items() if v}

    def links(self, obj: str) -> list[str]:
        """As `Heap.links`."""
        return [_name_of(target) for target in self._find(obj)]

    def reachable(self, containers: bool = False) -> list[str]:
        """The names of all objects, or all containers, that a program can name."""
        return sorted(
            name
            for name, found in self._walk().items()
            if not containers or isinstance(found, RealObject)
        )

    def _find(self, name: str) -> Any:
        return self._walk()[name]

    def _walk(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        todo = [*self._variables.values(), *self._stack.values()]
        while todo:
            obj = todo.pop()
            name = _name_of(obj)
            if name not in found:
                found[name] = obj
                todo.extend(obj if isinstance(obj, list) else ())
        found.pop("", None)
        return found

    def _run_finalizer(self, obj: FinalizedObject) -> None:
        name = _name_of(obj)
        finalizer = self._finalizers.get(name)
        if finalizer is None:
            return
        self._stack[name] = obj  # a finalizer can name its object
        finalizer(self, name)
        self._stack.pop(name, None)


def _name_of(obj: Any) -> str:
    mark = obj.mark if isinstance(obj, RealObject) else obj
    return mark.co_name if isinstance(mark, CodeType) else ""
