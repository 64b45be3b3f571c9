"""CPython's memory management in plain Python: reference counts and the collector.

A model of the default (GIL, generational) build as it is in CPython 3.11 to 3.13,
3.14.5 and 3.15. Names follow `Python/gc.c`. Objects are known by their names.

What is left out: threads, the permanent generation of `gc.freeze`, uncollectable
objects with a `tp_del` of C, the untracking of tuples and dicts of atoms, the wait for
the interpreter's loop before a collection starts (3.12 and later), that on 3.11 the
object whose allocation starts a collection is not yet tracked and stays in generation
0, and that weak references without a callback are cut after the finalizers (3.15).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from underhood.garbage_collection.collector import (
    Hook,
    Object,
    ObjectList,
    Watch,
    WeakRef,
    deduce_unreachable,
    move,
    move_all,
)

NUM_GENERATIONS = 3


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
        if (
            not isinstance(threshold, (tuple, list))
            or len(threshold) != NUM_GENERATIONS
            or min(threshold) < 0
        ):
            raise ValueError(
                f"threshold: got {threshold!r}; allowed are three numbers >= 0"
            )
        self.threshold = threshold
        self.enabled = enabled
        self.unraisable: list[Exception] = []  # raised by finalizers and callbacks
        self.watch: Watch | None = None  # sees the steps of each collection
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
        self, name: str, container: bool = True, finalizer: Hook | None = None
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
            move(obj, self._generations[0])
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
        with self._held(found):
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
        container = self._living(source, "source")
        found = self._living(target, "target")
        if found not in container.links:
            raise ValueError(f"target: {source!r} has no link to {target!r}")
        with self._held(container):
            container.links.remove(found)
            self._decref(found)

    def weakref(self, name: str, target: str, callback: Hook | None = None) -> None:
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
    def variables(self) -> dict[str, str]:
        """The bound variables, and the name of the object that each holds."""
        return {variable: obj.name for variable, obj in self._variables.items()}

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

    def links(self, obj: str) -> list[str]:
        """The names of what the object refers to, in order."""
        return [target.name for target in self._living(obj, "obj").links]

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

    @contextmanager
    def _held(self, obj: Object) -> Iterator[None]:
        """The evaluation stack holds an operand while its operation runs."""
        obj.refcount += 1
        yield
        self._decref(obj)

    def _decref(self, obj: Object) -> None:
        """Drop a reference; at zero the object dies, and maybe others with it."""
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
            move(obj, self._generations[0])  # young again, if it survives
        obj.refcount = 1
        self._call(obj.finalizer, obj.name)
        obj.finalized = obj.container  # others have no flag to remember it by
        obj.refcount -= 1
        return obj.refcount > 0

    def _free(self, obj: Object) -> list[Object]:
        """End an object; return the references that it held."""
        move(obj, None)
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
        if type(generation) is not int or not 0 <= generation < NUM_GENERATIONS:
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
        unreachable = deduce_unreachable(young, self.watch)
        if generation == 1:
            self._long_lived_pending += len(young)
        if generation == 2:
            self._long_lived_pending = 0
            self._long_lived_total = len(young)
        if young is not old:
            move_all(young, old)  # survivors are promoted
        dead = [self._clear_weakrefs(obj) for obj in unreachable]
        self._tell([ref for refs in dead for ref in refs])  # once all are cleared
        self._finalize_garbage(unreachable)
        trash = deduce_unreachable(unreachable)  # who is still unreachable?
        move_all(unreachable, old)  # the resurrected
        found = len(trash)
        self._delete_garbage(trash, old)
        return found

    def _merge_younger(self, generation: int) -> tuple[ObjectList, ObjectList]:
        """Make one list of candidates; return it, and the list of its survivors."""
        older = min(generation + 1, NUM_GENERATIONS - 1)
        if generation < older:
            self._count[older] += 1
        self._count[: generation + 1] = [0] * (generation + 1)
        young = self._generations[generation]
        for younger in self._generations[:generation]:
            move_all(younger, young)
        return young, self._generations[older]

    def _finalize_garbage(self, unreachable: ObjectList) -> None:
        """Call the finalizers that have not run yet, while all is still intact."""
        seen = ObjectList()
        while unreachable:
            obj = next(iter(unreachable))
            move(obj, seen)
            if obj.finalizer is not None and not obj.finalized:
                obj.finalized = True
                obj.refcount += 1
                self._call(obj.finalizer, obj.name)
                self._decref(obj)
        move_all(seen, unreachable)

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
                move(obj, old)  # still alive; it may die later

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

    def _call(self, function: Hook, name: str) -> None:
        """Call what the program left behind; nobody is there to catch its errors."""
        try:
            function(self, name)
        except Exception as error:
            self.unraisable.append(error)

    def _living(self, name: str, argument: str) -> Object:
        _check_text(name, argument)
        if name not in self._objects:
            raise ValueError(f"{argument}: no living object is called {name!r}")
        return self._objects[name]


def _check_text(value: object, argument: str) -> None:
    if not isinstance(value, str):
        raise TypeError(
            f"{argument}: got {type(value).__name__}; a name is needed, as a string"
        )
