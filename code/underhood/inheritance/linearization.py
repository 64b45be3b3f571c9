"""The order in which Python searches the classes: five rules, one of them in use.

A hierarchy is a mapping from the name of a class to the names of its bases, in the
order in which the `class` statement lists them: `{"A": (), "B": ("A",)}`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

Hierarchy = Mapping[str, Sequence[str]]
Order = tuple[str, ...]
Orders = dict[str, Order]  # what is known already: class -> its order


@dataclass(frozen=True)
class MergeStep:
    """One step of the C3 merge.

    Attributes:
        sequences: what was left to merge when the step began; none is empty.
        rejected: the heads refused, because each is in the tail of a sequence.
        taken: the head that is next in the order; None if all were refused.
    """

    sequences: tuple[tuple[str, ...], ...]
    rejected: tuple[str, ...]
    taken: str | None


def linearize(name: str, bases: Hierarchy, rule: str = "c3") -> tuple[str, ...]:
    """Return the class `name` and its ancestors in the order of attribute lookup.

    Args:
        name: the class to begin with.
        bases: each class with its bases in order. A class without bases stands on
            `"object"`, which need not be listed.
        rule: `"c3"`, Python since 2.3;
            `"depth_first"`, classic classes up to Python 2.7, without `object`;
            `"breadth_first"`, level by level, with `object` last: what the article
            says of new-style classes, and no Python ever did;
            `"python22"`, what Python 2.2 did for new-style classes;
            `"python22_documented"`, what the documentation of 2.2 said instead:
            depth first, of each class the last occurrence.

    Raises:
        TypeError: C3 finds no order, or a base stands twice in a list; with the
            words of the running interpreter. Or the bases of a class are a string.
        ValueError: a name or a rule is unknown, or a class inherits from itself.

    Source: CPython, `mro_implementation` in `Objects/typeobject.c`; for `"python22"`
    the function of the same name in the release 2.2.
    """
    return linearizations(name, bases, rule)[name]


def linearizations(name: str, bases: Hierarchy, rule: str = "c3") -> Orders:
    """Return the orders of `name` and of each of its ancestors; see `linearize`."""
    if rule not in _RULES:
        raise ValueError(f"rule: got {rule!r}; allowed are {', '.join(RULES)}")
    known: Orders = {}
    hierarchy = _checked(bases, rule)
    for each in _bases_first(name, hierarchy):
        known[each] = _RULES[rule](each, hierarchy, known)
    return known


def merge_steps(sequences: Iterable[Sequence[str]]) -> Iterator[MergeStep]:
    """Merge orders into one that agrees with each of them, step by step.

    The next class is the first head that no other sequence has in its tail:
    nothing that is still waiting wants to stand before it. The iteration ends
    with the last class, or with a step whose `taken` is None.
    """
    remaining = [tuple(sequence) for sequence in sequences if sequence]
    while remaining:
        rejected: dict[str, None] = {}  # a set that keeps the order
        taken = None
        for head, *_ in remaining:
            if not any(head in tail for _, *tail in remaining):
                taken = head
                break
            rejected[head] = None
        yield MergeStep(tuple(remaining), tuple(rejected), taken)
        if taken is None:
            return
        without = [s[1:] if s[0] == taken else s for s in remaining]
        remaining = [sequence for sequence in without if sequence]


def c3(name: str, bases: Hierarchy, known: Orders) -> Order:
    """The order of `name`, when those of its bases are `known` already."""
    parents = bases[name]
    for index, parent in enumerate(parents):
        if parent in parents[index + 1 :]:
            raise TypeError(f"duplicate base class {parent}")
    order = [name]
    for step in merge_steps([*(known[parent] for parent in parents), parents]):
        if step.taken is None:
            heads = dict.fromkeys(sequence[0] for sequence in step.sequences)
            raise TypeError(_conflict_between(heads))
        order.append(step.taken)
    return tuple(order)


def _depth_first(name: str, bases: Hierarchy, known: Orders) -> Order:
    walk = chain([name], *(known[parent] for parent in bases[name]))
    return tuple(dict.fromkeys(walk))  # of each class the first occurrence


def _python22_documented(name: str, bases: Hierarchy, known: Orders) -> Order:
    walk = [name, *chain(*(known[parent] for parent in bases[name]))]
    return tuple(dict.fromkeys(reversed(walk)))[::-1]  # the last occurrence


def _breadth_first(name: str, bases: Hierarchy, known: Orders) -> Order:
    queue, order = deque([name]), [name]
    while queue:
        for parent in bases[queue.popleft()]:
            if parent not in order:
                order.append(parent)
                queue.append(parent)
    return tuple(sorted(order, key=lambda each: each == "object"))  # a stable sort


def _python22(name: str, bases: Hierarchy, known: Orders) -> Order:
    """Merge the bases' orders one after the other into what is there already.

    At the first class that both have, what stands before it on the right and is new
    is put before it on the left. A disagreement is resolved in favor of the left.
    """
    left = [name]
    for parent in bases[name]:
        right = list(known[parent])
        while shared := next((each for each in left if each in right), None):
            place, cut = left.index(shared), right.index(shared)
            left[place:place] = [each for each in right[:cut] if each not in left]
            del right[: cut + 1]
        left += right
    return tuple(left)


_RULES: dict[str, Callable[[str, Hierarchy, Orders], Order]] = {
    "c3": c3,
    "depth_first": _depth_first,
    "breadth_first": _breadth_first,
    "python22": _python22,
    "python22_documented": _python22_documented,
}
RULES = tuple(_RULES)


def _conflict_between(heads: Iterable[str]) -> str:
    """CPython's words. Up to 3.12 there is a line break in the middle of them."""
    gap = " " if sys.version_info >= (3, 13) else "\n"
    return (
        f"Cannot create a consistent method resolution{gap}"
        f"order (MRO) for bases {', '.join(heads)}"
    )


def _checked(bases: Hierarchy, rule: str) -> dict[str, tuple[str, ...]]:
    """The hierarchy with `object` in its place; classic classes have none."""
    for name, parents in bases.items():
        if isinstance(parents, str):
            raise TypeError(
                f"bases[{name!r}]: got the str {parents!r}; "
                f"a sequence of names is needed, such as ({parents!r},)"
            )
    checked = {name: tuple(parents) for name, parents in bases.items()}
    if rule == "depth_first":
        if "object" in chain(checked, *checked.values()):
            raise ValueError("bases: names 'object'; no classic class stands on it")
        return checked
    if checked.get("object"):
        raise ValueError(f"bases['object']: got {checked['object']}; it has no bases")
    rooted = {name: parents or ("object",) for name, parents in checked.items()}
    return rooted | {"object": ()}


def _bases_first(name: str, bases: Hierarchy) -> list[str]:
    """`name` and its ancestors, each after its bases; no recursion, so no limit."""
    if name not in bases:
        raise ValueError(f"name: got {name!r}; bases has {', '.join(bases)}")
    done: dict[str, None] = {}
    path: dict[str, Iterator[str]] = {name: iter(bases[name])}  # from `name` to here
    while path:
        here = next(reversed(path))
        parent = next(path[here], None)
        if parent is None:
            done[here] = None
            del path[here]
        elif parent not in bases:
            raise ValueError(f"bases[{here!r}]: {parent!r} is not in bases")
        elif parent in path:
            cycle = [*list(path)[list(path).index(parent) :], parent]
            raise ValueError(f"bases: a cycle, {' -> '.join(cycle)}")
        elif parent not in done:
            path[parent] = iter(bases[parent])
    return list(done)
