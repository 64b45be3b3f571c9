"""Facts of inheritance on the interpreter that runs this: one JSON object on stdout.

benchmarks/python_versions.py runs it under each CPython and records the answers.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from timeit import repeat
from typing import Any


def make(name: str, *bases: type, **namespace: Any) -> type:
    return type(name, bases, namespace)


def error_of(action: Any) -> str:
    """What it raises, with its words."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def order_of(cls: type) -> list[str]:
    return [each.__name__ for each in cls.__mro__]


def orders() -> dict[str, Any]:
    a, g = make("A"), make("G")
    b, c = make("B", a), make("C", a)
    far = make("D", b, make("C", g))
    return {
        "diamond": order_of(make("D", b, c)),
        "not_breadth_first": order_of(far),
    }


def errors() -> dict[str, str]:
    p = make("P")
    q = make("Q", p)
    left, right = make("L", __slots__=("x",)), make("R", __slots__=("y",))
    return {
        "inconsistent": error_of(lambda: make("R", p, q)),
        "duplicate": error_of(lambda: make("R", p, p)),
        "layout": error_of(lambda: make("S", left, right)),
        "final_builtin": error_of(lambda: make("S", bool)),
        "super_stranger": error_of(lambda: super(q, p())),
        "no_attribute": error_of(lambda: p().x),
        "set_name": error_of(lambda: make("S", x=FailsToBeNamed())),
    }


class FailsToBeNamed:
    def __set_name__(self, owner: type, name: str) -> None:
        raise ValueError("no")


class Answers42(dict):  # type: ignore[type-arg]
    def __getitem__(self, key: str) -> int:
        return 42


def builtins() -> dict[str, Any]:
    u = Answers42(a=1)
    return {"dict_subclass": [u["a"], u.get("a"), dict(u)["a"], {**u}["a"]]}


class Loud:
    def speak(self) -> str:
        return "loud"


@dataclasses.dataclass(slots=True)
class SlotsDataclass(Loud):
    name: str = "x"

    def speak(self) -> str:
        return super().speak()


class InComprehension(Loud):
    def listed(self) -> list[str]:
        return [super().speak() for _ in (1,)]  # type: ignore[misc]

    def generated(self) -> list[str]:
        return list(super().speak() for _ in (1,))  # type: ignore[misc]  # noqa: C400


def works(action: Any) -> bool:
    return not error_of(action)


def supers() -> dict[str, bool]:
    return {
        "super_in_slots_dataclass": works(lambda: SlotsDataclass().speak()),
        "super_in_list_comprehension": works(lambda: InComprehension().listed()),
        "super_in_generator": works(lambda: InComprehension().generated()),
    }


def hooks() -> dict[str, Any]:
    log: list[str] = []

    class Base:
        def __init_subclass__(cls, **options: Any) -> None:
            log.append(f"__init_subclass__ {cls.__name__}")

    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            log.append(f"__set_name__ {name}")

    make("Child", Base, field=Field())
    weakref_slot = dataclasses.make_dataclass("W", [], slots=True, weakref_slot=True)
    return {
        "class_creation": log,
        "override": hasattr(typing, "override"),
        "static_attributes": hasattr(FailsToBeNamed, "__static_attributes__"),
        "weakref_slot": hasattr(weakref_slot, "__weakref__"),
    }


def lookup_costs(depth: int = 300, number: int = 2000) -> dict[str, float]:
    """Time of a lookup `depth` classes up, over that of the same one class up."""
    short, long = "x", "x" * 101  # longer names than 100 are not kept in the cache

    def time_of(cls: type, name: str) -> float:
        instance = cls()
        return min(repeat(lambda: getattr(instance, name), number=number, repeat=7))

    top = make("Top", **{short: 1, long: 1})
    near = deep = make("Near", top)
    for place in range(depth):
        deep = make(f"D{place}", deep)
    return {
        "cached_depth_ratio": round(time_of(deep, short) / time_of(near, short), 2),
        "uncached_depth_ratio": round(time_of(deep, long) / time_of(near, long), 1),
    }


if __name__ == "__main__":
    found = orders() | errors() | builtins() | supers() | hooks()
    if sys.implementation.name == "cpython":
        found |= lookup_costs()
    print(json.dumps(found))
