"""Hierarchies made up: at random, all of a size, the smallest that shows something."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from itertools import permutations

from underhood.inheritance.linearization import (
    Hierarchy,
    Orders,
    c3,
    linearizations,
    linearize,
)

NAMES = string.ascii_uppercase


def random_hierarchy(
    rng: random.Random, classes: int, max_bases: int = 3
) -> dict[str, tuple[str, ...]]:
    """Return classes `A`, `B`, … with up to `max_bases` bases each, all earlier ones.

    It may be one for which C3 finds no order.

    Raises:
        ValueError: `classes` is not 1 to 26, or `max_bases` is negative.
    """
    _check_classes(classes)
    if max_bases < 0:
        raise ValueError(f"max_bases: got {max_bases}; allowed are 0 and more")
    bases: dict[str, tuple[str, ...]] = {}
    for name in NAMES[:classes]:
        count = rng.randint(0, min(max_bases, len(bases)))
        bases[name] = tuple(rng.sample(list(bases), count))
    return bases


def build_classes(bases: Hierarchy) -> dict[str, type | TypeError]:
    """Make the classes with `type(...)`; where it refuses, keep its error.

    `bases` lists each class after its bases. A class is left out if one of its bases
    was refused.

    Raises:
        ValueError: a class is listed before one of its bases, or the base is not
            listed at all.
    """
    built: dict[str, type | TypeError] = {"object": object}
    seen = {"object"}
    for name, parents in bases.items():
        for parent in parents:
            if parent not in seen:
                raise ValueError(f"bases[{name!r}]: {parent!r} is not listed before it")
        seen.add(name)
        made = [built.get(parent) for parent in parents]
        real = tuple(parent for parent in made if isinstance(parent, type))
        if len(real) < len(made):
            continue
        try:
            built[name] = type(name, real, {})
        except TypeError as error:
            built[name] = error
    del built["object"]
    return built


def keeps_children_first(name: str, bases: Hierarchy, rule: str) -> bool:
    """Whether no class stands before one of its subclasses in the order of `name`."""
    order = linearize(name, bases, rule)
    return all(
        _is_subsequence((each, parent), order)
        for each in order
        for parent in bases.get(each, ())
    )


def keeps_local_precedence(name: str, bases: Hierarchy, rule: str) -> bool:
    """Whether the order of `name` keeps the bases of each class as they are listed."""
    order = linearize(name, bases, rule)
    return all(_is_subsequence(tuple(bases.get(each, ())), order) for each in order)


def keeps_monotonicity(name: str, bases: Hierarchy, rule: str) -> bool:
    """Whether the order of `name` contains the order of each of its bases."""
    orders = linearizations(name, bases, rule)
    return all(_is_subsequence(orders[each], orders[name]) for each in bases[name])


def smallest_hierarchy(
    shows: Callable[[str, Hierarchy], bool], max_classes: int = 5
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Find the smallest hierarchy, accepted by C3, for which `shows(name, bases)`.

    Smallest is: fewest classes beside `object`, then fewest bases in all. `name` is
    the last class; all the others are its ancestors. Up to five classes take about a
    second; the number of hierarchies grows fast from there.

    Raises:
        LookupError: none up to `max_classes` classes shows it.
    """
    _check_classes(max_classes)
    for classes in range(1, max_classes + 1):
        name = NAMES[classes - 1]
        for links in range(classes - 1, classes * (classes - 1) // 2 + 1):
            for bases in consistent_hierarchies(classes, links):
                if shows(name, bases):
                    return name, bases
    raise LookupError(f"max_classes: nothing found up to {max_classes} classes")


def consistent_hierarchies(
    classes: int, links: int
) -> Iterator[dict[str, tuple[str, ...]]]:
    """Yield every hierarchy of that size that Python accepts and that has one youngest.

    `links` is the number of bases in all. Each class is named after its place, and
    has bases among the earlier ones only, so some shapes occur under several namings.
    """
    _check_classes(classes)
    yield from _extended({}, {"object": ("object",)}, NAMES[:classes], links)


def _extended(
    bases: dict[str, tuple[str, ...]], orders: Orders, names: str, links: int
) -> Iterator[dict[str, tuple[str, ...]]]:
    """Every way to give the next names their bases, with `links` bases to spend."""
    place = len(bases)
    if place == len(names):
        if links == 0 and _has_one_youngest(bases):
            yield dict(bases)
        return
    here = names[place]
    later = sum(range(place + 1, len(names)))  # what the classes after it can take
    for count in range(max(0, links - later), min(place, links) + 1):
        for parents in permutations(names[:place], count):
            try:
                order = c3(here, {here: parents or ("object",)}, orders)
            except TypeError:  # no consistent order
                continue
            longer, known = {**bases, here: parents}, {**orders, here: order}
            yield from _extended(longer, known, names, links - count)


def _has_one_youngest(bases: Hierarchy) -> bool:
    inherited_from = {parent for parents in bases.values() for parent in parents}
    return len(inherited_from) == len(bases) - 1


def _is_subsequence(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in part)


def _check_classes(classes: int) -> None:
    if not 1 <= classes <= len(NAMES):
        raise ValueError(f"classes: got {classes}; allowed are 1 to {len(NAMES)}")
