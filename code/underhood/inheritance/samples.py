"""Random classes and instances, to hold a model of attribute lookup to the real one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from underhood.inheritance.hierarchies import random_hierarchy

NAMES = ("x", "y", "z")


class NonData:
    """A descriptor that only reads; what it gives says what it was asked with."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __get__(self, instance: Any, owner: type) -> tuple[str, bool, str]:
        return self.tag, instance is None, owner.__name__


class Data(NonData):
    """One that also writes."""

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"{self.tag} cannot be set")


class Deleting(NonData):
    """One that deletes instead: that counts as writing."""

    def __delete__(self, instance: Any) -> None:
        raise AttributeError(f"{self.tag} cannot be deleted")


class WriteOnly(str):
    """One that writes and does not read."""

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"{self} cannot be set")


class Failing(Data):
    """One whose reading fails, so that `__getattr__` is asked."""

    def __get__(self, instance: Any, owner: type) -> tuple[str, bool, str]:
        raise AttributeError(f"{self.tag} cannot be read")


ATTRIBUTES: tuple[Callable[[str], Any], ...] = (
    str,
    NonData,
    Data,
    Deleting,
    WriteOnly,
    Failing,
    lambda tag: staticmethod(lambda: tag),
    lambda tag: classmethod(lambda cls: (tag, cls.__name__)),
    lambda tag: property(lambda self: (tag, type(self).__name__)),
)


def random_instance(rng: random.Random) -> Any:
    """An instance of the last of one to five classes, with attributes of all kinds.

    Classes and instance have some of the attributes `x`, `y` and `z`; a class in
    five has a `__getattr__`.
    """
    while True:
        bases = random_hierarchy(rng, classes=rng.randint(1, 5))
        built: dict[str, type] = {}
        try:
            for name, parents in bases.items():
                real = tuple(built[parent] for parent in parents)
                built[name] = type(name, real, _random_namespace(rng, name))
        except TypeError:  # no consistent order: try another
            continue
        instance = built[name]()
        own = rng.sample(NAMES, rng.randint(0, len(NAMES)))
        vars(instance).update({each: f"own {each}" for each in own})
        return instance


def _random_namespace(rng: random.Random, name: str) -> dict[str, Any]:
    chosen = rng.sample(NAMES, rng.randint(0, len(NAMES)))
    namespace = {each: rng.choice(ATTRIBUTES)(f"{name}.{each}") for each in chosen}
    if rng.random() < 0.2:
        namespace["__getattr__"] = lambda self, missing: (name, missing)
    return namespace
