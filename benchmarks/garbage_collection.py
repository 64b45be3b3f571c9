"""Facts about reference counts and the collector, on the interpreter that runs this.

Standard library only, and runs on CPython 2.7 too. Prints one JSON object:

    python3.13 benchmarks/garbage_collection.py
"""

import gc
import json
import sys
import weakref


class Pair:
    """An instance with attributes, as in the article."""


class Finalized:
    """An instance that writes down that its `__del__` ran."""

    calls = []

    def __del__(self):
        Finalized.calls.append(1)


def count_inside(obj):
    """`sys.getrefcount` of an argument."""
    return sys.getrefcount(obj)


def counts_in_function():
    """The article's demo: before, with a second name, and after it is gone."""
    obj = Pair()
    before = count_inside(obj)
    alias = obj
    during = count_inside(obj)
    del alias
    return [before, during, count_inside(obj)]


def collected(make):
    """What `gc.collect()` returns when only the garbage of `make` is there."""
    gc.collect()
    make()
    return gc.collect()


def two_instances():
    """Two instances that refer to each other."""
    left, right = Pair(), Pair()
    left.other, right.other = right, left


def two_lists():
    """Two lists that refer to each other."""
    left, right = [], []
    left.append(right)
    right.append(left)


def self_instance():
    """One instance that refers to itself."""
    obj = Pair()
    obj.me = obj


def finalizers_in_a_cycle():
    """How many of two `__del__` ran, and how many objects are in `gc.garbage`."""
    gc.collect()
    left, right = Finalized(), Finalized()
    left.other, right.other = right, left
    del left, right
    gc.collect()
    facts = [len(Finalized.calls), len(gc.garbage)]
    del gc.garbage[:]
    return facts


def weakref_is_dead_in_finalizer():
    """Whether a cycle's weak references are cleared before its finalizers run."""
    seen = []

    class Item:
        def __del__(self):
            seen.append(probe() is None)

    item = Item()
    item.me = item
    probe = weakref.ref(item)
    del item
    gc.collect()
    return seen[0] if seen else None


def count_of_one_instance(asked_before):
    """By how much the first number of `gc.get_count()` grows for an instance.

    The first answer after a collection, which empties the free lists, is itself a new
    container: asked twice, the second one takes the place of the first.
    """
    gc.collect()
    obj = Pair()
    if asked_before:
        gc.get_count()
    before = gc.get_count()[0]
    keep = Pair()
    keep.value = obj
    return gc.get_count()[0] - before


def most_alive(pairs, enabled):
    """The most objects alive at once while cycles of two lists are dropped."""
    alive = [0, 0]

    class Item(list):
        def __init__(self):
            alive[0] += 1
            alive[1] = max(alive)

        def __del__(self):
            alive[0] -= 1

    gc.collect()
    if not enabled:
        gc.disable()
    for _ in range(pairs):
        left, right = Item(), Item()
        left.append(right)
        right.append(left)
    gc.enable()
    gc.collect()
    return alive[1]


def main():
    obj = Pair()
    obj.value = 1
    pair = (1, 2)
    gc.collect()
    samples = [
        ("1", 1),
        ("'a'", "a"),
        ("[]", []),
        ("{}", {}),
        ("{'a': 1}", {"a": 1}),
        ("{'a': []}", {"a": []}),
        ("(1, 2)", pair),
        ("instance", obj),
    ]
    facts = {
        "threshold": list(gc.get_threshold()),
        "count_top": sys.getrefcount(obj),
        "count_in_function": counts_in_function(),
        "count_None": sys.getrefcount(None),
        "collect_instances": collected(two_instances),
        "collect_lists": collected(two_lists),
        "collect_self": collected(self_instance),
        "referents": sorted(type(o).__name__ for o in gc.get_referents(obj)),
        "tracked": {name: gc.is_tracked(value) for name, value in samples},
        "sizeof_list": sys.getsizeof([]),
        "header_bytes": sys.getsizeof([]) - [].__sizeof__(),
        "instance_counts": count_of_one_instance(True),
        "instance_and_answer_count": count_of_one_instance(False),
        "del_and_garbage": finalizers_in_a_cycle(),
        "weakref_dead_in_del": weakref_is_dead_in_finalizer(),
        "freeze": hasattr(gc, "freeze"),
        "most_alive_on": most_alive(20000, True),
        "most_alive_off": most_alive(20000, False),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
