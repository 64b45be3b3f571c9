"""One random program, run on the model and on the running interpreter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from underhood.garbage_collection.collector import Hook
from underhood.garbage_collection.heap import Heap
from underhood.garbage_collection.interpreter import Interpreter

VARIABLES = ("x", "y", "z", "saved")
KINDS = ("new", "bind", "unbind", "link", "unlink", "weakref", "collect")
WEIGHTS = (5, 2, 3, 6, 2, 2, 2)
MOST_CALLS = 100  # in one operation: a model that finalizes twice would never end


@dataclass(frozen=True)
class Outcome:
    """What one operation did, in one world."""

    operation: str
    found: int | None  # what `collect` returned
    calls: tuple[str, ...]  # finalizers and callbacks, in order
    died: tuple[str, ...]  # sorted: within an operation the order is free
    weakrefs: tuple[str | None, ...]  # what each of them leads to now


def compare(
    rng: random.Random,
    length: int,
    *,
    model: Heap | None = None,
    generations: tuple[int, ...] = (0, 1, 2),
    silent_weakrefs: bool = True,
) -> tuple[list[Outcome], list[Outcome]]:
    """Run `length` random operations on a `Heap` and on the interpreter.

    Args:
        rng: what chooses; `random.Random(seed)` or a strategy of hypothesis.
        model: a heap to use instead of a new one; its collections must not start
            by themselves.
        generations: the arguments that `collect` is called with.
        silent_weakrefs: whether weak references without a callback occur.

    Returns:
        The outcomes in the model and in the interpreter: equal lists, or one is wrong.
    """
    heap = Heap(enabled=False) if model is None else model
    with Interpreter() as real:
        driver = _Driver(rng, heap, real, generations, silent_weakrefs)
        for _ in range(length):
            driver.step()
        return driver.outcomes[0], driver.outcomes[1]


class _Driver:
    """Chooses operations that are possible, and applies each to both worlds."""

    def __init__(
        self,
        rng: random.Random,
        heap: Heap,
        real: Interpreter,
        generations: tuple[int, ...],
        silent_weakrefs: bool,
    ) -> None:
        self.rng, self.real = rng, real
        self.worlds: tuple[Heap | Interpreter, ...] = (heap, real)
        self.generations = generations
        self.silent_weakrefs = silent_weakrefs
        self.outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
        self.objects = 0
        self.weakrefs: list[str] = []
        self.calls: dict[int, list[str]] = {id(heap): [], id(real): []}

    def step(self) -> None:
        """Choose one operation by what the interpreter can name, and run it twice."""
        method, *arguments = self._choose(self.real)
        for world, outcomes in zip(self.worlds, self.outcomes, strict=True):
            calls = self.calls[id(world)]
            calls.clear()
            before = world.alive
            result = getattr(world, method)(*arguments)
            shown = [a for a in arguments if isinstance(a, (str, int))]
            outcomes.append(
                Outcome(
                    operation=f"{method}{tuple(shown)}",
                    found=result if method == "collect" else None,
                    calls=tuple(calls),
                    died=tuple(sorted(before - world.alive)),
                    weakrefs=tuple(world.target(name) for name in self.weakrefs),
                )
            )

    def _choose(self, real: Interpreter) -> tuple[Any, ...]:
        kind = self.rng.choices(KINDS, WEIGHTS)[0]
        containers = real.reachable(containers=True)
        if kind == "collect":
            return kind, self.rng.choice(self.generations)
        if kind == "unbind" and real.variables:
            return kind, self.rng.choice(sorted(real.variables))
        if kind == "bind" and real.reachable():
            return kind, self._variable(), self.rng.choice(real.reachable())
        if kind in ("link", "unlink", "weakref") and containers:
            source = self.rng.choice(containers)
            if kind == "link":
                return kind, source, self.rng.choice(real.reachable())
            if kind == "unlink" and real.links(source):
                return kind, source, self.rng.choice(real.links(source))
            if kind == "weakref":
                self.weakrefs.append(f"w{len(self.weakrefs)}")
                return kind, self.weakrefs[-1], source, self._callback()
        self.objects += 1
        container = self.rng.random() < 0.85
        return "new", f"o{self.objects}", container, self._finalizer(container)

    def _variable(self) -> str:
        return self.rng.choice(VARIABLES)

    def _finalizer(self, container: bool) -> Hook | None:
        if not container or self.rng.random() < 0.5:
            return None
        return self._hook("finalizer", ("note", "save", "knot", "forget"))

    def _callback(self) -> Hook | None:
        if self.silent_weakrefs and self.rng.random() < 0.3:
            return None
        return self._hook("callback", ("note", "forget"))

    def _hook(self, what: str, deeds: tuple[str, ...]) -> Hook:
        """A finalizer or callback that writes itself down, and may do a deed."""
        deed, variable = self.rng.choice(deeds), self._variable()

        def hook(world: Heap | Interpreter, name: str) -> None:
            calls = self.calls[id(world)]
            calls.append(f"{what} {name}")
            if len(calls) > MOST_CALLS:
                return
            if deed == "save":
                world.bind(variable, name)  # resurrects
            elif deed == "knot":
                world.link(name, name)  # resurrects, as cyclic garbage
            elif deed == "forget" and variable in world.variables:
                world.unbind(variable)

        return hook
