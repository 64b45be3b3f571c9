"""CPython's memory management in plain Python: reference counts and the collector.

A model of the default (GIL, generational) build as it is in CPython 3.11 to 3.13,
3.14.5 and 3.15. Names follow `Python/gc.c`. Objects are known by their names.

What is left out: threads, the permanent generation of `gc.freeze`, uncollectable
objects with a `tp_del` of C, and the untracking of tuples and dicts of atoms.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

NUM_GENERATIONS = 3


@dataclass(eq=False, slots=True)
class Object:
    """What the heap knows about one object."""

    name: str
    container: bool
    finalizer: Finalizer | None
    refcount: int = 1  # the evaluation stack holds a new object
    finalized: bool = False
    gc_refs: int | None = None  # None: not a candidate of the running collection
    links: list[Object] = field(default_factory=list)
    weakrefs: list[WeakRef] = field(default_factory=list)
    home: ObjectList | None = None  # the list of the collector that it is in


@dataclass(eq=False, slots=True)
class WeakRef:
    """A reference that does not count."""

    name: str
    target: Object | None
    callback: Callback | None


@dataclass(frozen=True)
class Snapshot:
    """One moment of a collection, for `Heap.watch`.

    `rows` has one `(name, refcount, gc_refs, unreachable)` for each living container,
    in order of creation; `gc_refs` is None for what is no candidate (any more).
    """

    step: str  # "copy" | "subtract" | "tentative" | "rescue" | "deduced" | "freed"
    subject: str  # the object that the step is about, or ""
    rows: tuple[tuple[str, int, int | None, bool], ...]


# A dict that is a doubly linked list: append, unlink and pop from the front in O(1).
ObjectList = OrderedDict[Object, None]
Finalizer = Callable[["Heap", str], None]
Callback = Callable[["Heap", str], None]


class Heap:
    """A heap whose objects die when CPython's would.

    Objects, variables and weak references are named by strings. A new object is held
    by the evaluation stack, as the value of an expression is; the first variable or
    object that takes it takes that reference over.

    Args:
        threshold: three numbers, as of `gc.get_threshold()`. A collection starts
            when more containers than `threshold[0]` were allocated, net of those
            freed, since the last one; 0 means never.
        enabled: whether collections start by themselves, as of `gc.isenabled()`.

    Every method that takes a name raises ValueError when nothing of that name is
    alive or bound, and TypeError when it is not a string.
    """

    def __init__(
        self, threshold: tuple[int, int, int] = (700, 10, 10), enabled: bool = True
    ) -> None:
        if len(threshold) != NUM_GENERATIONS or min(threshold) < 0:
            raise ValueError(
                f"threshold: got {threshold!r}; allowed are three numbers >= 0"
            )
        self.threshold = threshold
        self.enabled = enabled
        self.unraisable: list[Exception] = []  # raised by finalizers and callbacks
        self.watch: Callable[[Snapshot], None] | None = None
        self._objects: dict[str, Object] = {}
        self._stack: set[Object] = set()
        self._variables: dict[str, Object] = {}
        self._weakrefs: dict[str, WeakRef] = {}
        self._generations = [ObjectList() for _ in range(NUM_GENERATIONS)]
        self._count = [0] * NUM_GENERATIONS
        self._stats = [
            {"collections": 0, "collected": 0, "uncollectable": 0}
            for _ in range(NUM_GENERATIONS)
        ]
        self._long_lived_total = 0
        self._long_lived_pending = 0
        self._collecting = False

    # ---- what a program does ----------------------------------------------------

    def new(
        self, name: str, container: bool = True, finalizer: Finalizer | None = None
    ) -> str:
        """Create an object and return its name; it may start a collection.

        Args:
            name: of no other living object.
            container: whether it can refer to others, as a list can and an int
                cannot. Only containers are tracked by the collector.
            finalizer: its `__del__`; called with the heap and the name.
        """
        _check_text(name, "name")
        if name in self._objects:
            raise ValueError(f"name: {name!r} is the name of a living object")
        obj = self._objects[name] = Object(name, bool(container), finalizer)
        self._stack.add(obj)
        if obj.container:
            self._move(obj, self._generations[0])
            self._count[0] += 1
            self._collect_if_due()
        return name

    def drop(self, obj: str) -> None:
        """Let the evaluation stack forget a new object that nothing has taken."""
        found = self._living(obj, "obj")
        if found not in self._stack:
            raise ValueError(f"obj: {obj!r} is not held by the evaluation stack")
        self._stack.remove(found)
        self._decref(found)

    def bind(self, variable: str, obj: str) -> None:
        """`variable = obj`: count the new reference, then drop the old one."""
        _check_text(variable, "variable")
        found = self._living(obj, "obj")
        old = self._variables.get(variable)
        self._incref(found)
        self._variables[variable] = found
        if old is not None:
            self._decref(old)

    def unbind(self, variable: str) -> None:
        """`del variable`"""
        _check_text(variable, "variable")
        if variable not in self._variables:
            raise ValueError(f"variable: {variable!r} is not bound")
        self._decref(self._variables.pop(variable))

    def link(self, source: str, target: str) -> None:
        """`source.append(target)`: each link counts, also the second of a pair."""
        container = self._living(source, "source")
        if not container.container:
            raise ValueError(f"source: {source!r} is no container and refers to none")
        found = self._living(target, "target")
        self._incref(found)
        container.links.append(found)

    def unlink(self, source: str, target: str) -> None:
        """Remove the first link from `source` to `target`."""
        links = self._living(source, "source").links
        found = self._living(target, "target")
        if found not in links:
            raise ValueError(f"target: {source!r} has no link to {target!r}")
        links.remove(found)
        self._decref(found)

    def weakref(
        self, name: str, target: str, callback: Callback | None = None
    ) -> None:
        """`name = weakref.ref(target, callback)`

        `callback` is called with the heap and the name when the target dies.
        """
        _check_text(name, "name")
        if name in self._weakrefs:
            raise ValueError(f"name: there is a weak reference {name!r} already")
        found = self._living(target, "target")
        ref = self._weakrefs[name] = WeakRef(name, found, callback)
        found.weakrefs.insert(0, ref)  # the newest is told first

    def target(self, weakref: str) -> str | None:
        """What calling the weak reference gives: its target, or None if it is gone."""
        _check_text(weakref, "weakref")
        if weakref not in self._weakrefs:
            raise ValueError(f"weakref: there is no weak reference {weakref!r}")
        found = self._weakrefs[weakref].target
        return found.name if found else None

    # ---- what can be seen -------------------------------------------------------

    @property
    def alive(self) -> frozenset[str]:
        """The names of all objects that are not freed."""
        return frozenset(self._objects)

    @property
    def variables(self) -> frozenset[str]:
        """The names of all bound variables."""
        return frozenset(self._variables)

    @property
    def count(self) -> tuple[int, ...]:
        """As `gc.get_count()`: net new containers, then collections since."""
        return tuple(self._count)

    @property
    def stats(self) -> list[dict[str, int]]:
        """As `gc.get_stats()`: one dict for each generation."""
        return [dict(of_generation) for of_generation in self._stats]

    def refcount(self, obj: str) -> int:
        """As `sys.getrefcount`, without the reference of the call itself."""
        return self._living(obj, "obj").refcount

    def generation(self, obj: str) -> int | None:
        """0 (young), 1 or 2 (old); None for what the collector does not track."""
        home = self._living(obj, "obj").home
        return next((i for i, g in enumerate(self._generations) if g is home), None)

    # ---- reference counts -------------------------------------------------------

    def _incref(self, obj: Object) -> None:
        if obj in self._stack:
            self._stack.remove(obj)  # takes the reference of the stack over
        else:
            obj.refcount += 1

    def _decref(self, obj: Object) -> None:
        """Drop a reference; at zero the object dies, and maybe what it refers to."""
        pending = [obj]
        while pending:
            obj = pending.pop()
            obj.refcount -= 1
            if obj.refcount == 0 and not self._resurrected(obj):
                pending.extend(self._free(obj))  # the last link goes first

    def _resurrected(self, obj: Object) -> bool:
        """Run the finalizer of a dying object; did it make a new reference?"""
        if obj.finalizer is None or obj.finalized:
            return False
        if obj.container:
            self._move(obj, self._generations[0])  # young again, if it survives
        obj.refcount = 1
        self._call(obj.finalizer, obj.name)
        obj.finalized = obj.container  # others have no flag to remember it by
        obj.refcount -= 1
        return obj.refcount > 0

    def _free(self, obj: Object) -> list[Object]:
        """End an object; return the references that it held."""
        self._move(obj, None)
        del self._objects[obj.name]
        if obj.container:
            self._count[0] = max(0, self._count[0] - 1)
        self._tell(self._clear_weakrefs(obj))
        links, obj.links = obj.links, []
        return links

    # ---- the collector ----------------------------------------------------------

    def collect(self, generation: int = 2) -> int:
        """Free the cycles among the objects of a generation and all younger ones.

        Returns:
            The number of unreachable objects found, as `gc.collect()` does.

        Raises:
            ValueError: `generation` is not 0, 1 or 2.
        """
        if generation not in range(NUM_GENERATIONS):
            raise ValueError(f"generation: got {generation!r}; allowed are 0, 1, 2")
        if self._collecting:
            return 0
        self._collecting = True
        try:
            found = self._collect_main(generation)
        finally:
            self._collecting = False
        self._stats[generation]["collections"] += 1
        self._stats[generation]["collected"] += found
        return found

    def _collect_if_due(self) -> None:
        """Collect the oldest generation whose count has passed its threshold."""
        if not self.enabled or self._collecting or not self.threshold[0]:
            return
        if self._count[0] <= self.threshold[0]:
            return
        for generation in reversed(range(NUM_GENERATIONS)):
            if self._count[generation] > self.threshold[generation]:
                few_new = self._long_lived_pending < self._long_lived_total // 4
                if generation == 2 and few_new:
                    continue  # the long-lived rule: not worth a full collection
                self.collect(generation)
                return

    def _collect_main(self, generation: int) -> int:
        young, old = self._merge_younger(generation)
        unreachable = self._deduce_unreachable(young)
        if generation == 1:
            self._long_lived_pending += len(young)
        if generation == 2:
            self._long_lived_pending = 0
            self._long_lived_total = len(young)
        if young is not old:
            self._move_all(young, old)  # survivors are promoted
        for obj in list(unreachable):  # all are cleared before any callback runs
            self._tell(self._clear_weakrefs(obj))
        self._finalize_garbage(unreachable)
        trash = self._deduce_unreachable(unreachable)  # who is still unreachable?
        self._move_all(unreachable, old)  # the resurrected
        found = len(trash)
        self._delete_garbage(trash, old)
        self._show("freed")
        return found

    def _merge_younger(self, generation: int) -> tuple[ObjectList, ObjectList]:
        """Make one list of candidates; return it, and the list of its survivors."""
        older = min(generation + 1, NUM_GENERATIONS - 1)
        if generation < older:
            self._count[older] += 1
        self._count[: generation + 1] = [0] * (generation + 1)
        young = self._generations[generation]
        for younger in self._generations[:generation]:
            self._move_all(younger, young)
        return young, self._generations[older]

    def _deduce_unreachable(self, young: ObjectList) -> ObjectList:
        """Split the candidates: who stays in `young` is reachable from outside."""
        self._subtract_refs(young)
        unreachable, reachable = ObjectList(), ObjectList()
        while young:
            obj = next(iter(young))
            if obj.gc_refs == 0:
                self._move(obj, unreachable)  # tentatively
                self._show("tentative", obj)
                continue
            self._move(obj, reachable)
            for target in obj.links:
                if target.home is unreachable:
                    self._move(target, young)  # to be visited again
                    target.gc_refs = 1
                    self._show("rescue", target)
                elif target.gc_refs == 0:
                    target.gc_refs = 1
            obj.gc_refs = None
        self._show("deduced")
        for obj in unreachable:
            obj.gc_refs = None
        self._move_all(reachable, young)
        return unreachable

    def _subtract_refs(self, young: ObjectList) -> None:
        """Leave in `gc_refs` the references that come from outside of `young`."""
        for obj in young:
            obj.gc_refs = obj.refcount
        self._show("copy")
        for obj in young:
            for target in obj.links:
                if target.gc_refs is not None:
                    target.gc_refs -= 1
        self._show("subtract")

    def _finalize_garbage(self, unreachable: ObjectList) -> None:
        """Call the finalizers that have not run yet, while all is still intact."""
        seen = ObjectList()
        while unreachable:
            obj = next(iter(unreachable))
            self._move(obj, seen)
            if obj.finalizer is not None and not obj.finalized:
                obj.finalized = True
                obj.refcount += 1
                self._call(obj.finalizer, obj.name)
                self._decref(obj)
        self._move_all(seen, unreachable)

    def _delete_garbage(self, trash: ObjectList, old: ObjectList) -> None:
        """Empty each container; reference counting then frees the pieces."""
        while trash:
            obj = next(iter(trash))
            obj.refcount += 1
            links, obj.links = obj.links, []
            for target in reversed(links):
                self._decref(target)
            self._decref(obj)
            if obj.home is trash:
                self._move(obj, old)  # still alive; it may die later

    # ---- helpers ----------------------------------------------------------------

    def _clear_weakrefs(self, obj: Object) -> list[WeakRef]:
        """Kill the weak references to `obj`; return those with a callback."""
        dead, obj.weakrefs = obj.weakrefs, []
        for ref in dead:
            ref.target = None
        return [ref for ref in dead if ref.callback is not None]

    def _tell(self, refs: list[WeakRef]) -> None:
        for ref in refs:
            if ref.callback is not None:
                self._call(ref.callback, ref.name)

    def _call(self, function: Finalizer, name: str) -> None:
        """Call what the program left behind; nobody is there to catch its errors."""
        try:
            function(self, name)
        except Exception as error:
            self.unraisable.append(error)

    def _move(self, obj: Object, to: ObjectList | None) -> None:
        if obj.home is not None:
            del obj.home[obj]
        if to is not None:
            to[obj] = None
        obj.home = to

    def _move_all(self, source: ObjectList, to: ObjectList) -> None:
        while source:
            self._move(next(iter(source)), to)

    def _living(self, name: str, argument: str) -> Object:
        _check_text(name, argument)
        if name not in self._objects:
            raise ValueError(f"{argument}: no living object is called {name!r}")
        return self._objects[name]

    def _show(self, step: str, subject: Object | None = None) -> None:
        if self.watch is None:
            return
        rows = tuple(
            (obj.name, obj.refcount, obj.gc_refs, self._is_lost(obj))
            for obj in self._objects.values()
            if obj.container
        )
        self.watch(Snapshot(step, subject.name if subject else "", rows))

    def _is_lost(self, obj: Object) -> bool:
        return obj.gc_refs == 0
