"""`underhood.objects`: the graph against the specification that it was built from."""

import copy
import ctypes
import datetime
import decimal
import enum
import fractions
import gc
import graphlib
import pathlib
import random
import re
import struct
import sys
import types
import typing
import uuid
import xml.etree.ElementTree as ElementTree
from collections import deque, namedtuple
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.objects import header, object_graph
from underhood.objects.drawing import _arranged, columns_of
from underhood.objects.layout import GAP, Layout, spread
from underhood.objects.memory import FIELDS, header_fields, is_immortal, refcount_of
from underhood.objects.referents import is_mutable, width

WIDE = {"depth": 99, "max_items": 99, "max_nodes": 60, "max_names": 99}


class Plain:
    pass


class Slotted:
    __slots__ = tuple(f"s{k}" for k in range(4))


@dataclass
class Spec:
    """A graph as numbers: `held[i]` are the objects that object i refers to."""

    kinds: list[str]
    held: list[list[int]]
    roots: list[int]

    def slots(self, i):
        label = {
            "list": "[{}]",
            "tuple": "[{}]",
            "dict": "['k{}']",
            "plain": ".a{}",
            "slotted": ".s{}",
        }[self.kinds[i]]
        return [(label.format(k), j) for k, j in enumerate(self.held[i])]

    def build(self):
        make = {"list": list, "tuple": list, "dict": dict}
        objects = []
        for i, kind in enumerate(self.kinds):
            if kind == "tuple":  # holds only earlier objects: nothing else can be made
                objects.append(tuple(objects[j] for j in self.held[i]))
            else:
                made = {"plain": Plain, "slotted": Slotted} | make
                objects.append(made[kind]())
        for i, kind in enumerate(self.kinds):
            for k, j in enumerate(self.held[i]):
                if kind == "list":
                    objects[i].append(objects[j])
                elif kind == "dict":
                    objects[i][f"k{k}"] = objects[j]
                elif kind == "plain":
                    setattr(objects[i], f"a{k}", objects[j])
                elif kind == "slotted":
                    setattr(objects[i], f"s{k}", objects[j])
        return objects

    def distances(self):
        """Steps from the nearest root, by the numbers alone."""
        found = {}
        level = deque((i, 1) for i in self.roots)
        while level:
            i, steps = level.popleft()
            if i not in found:
                found[i] = steps
                level.extend((j, steps + 1) for j in self.held[i])
        return found


@st.composite
def specs(draw, max_size=12):
    size = draw(st.integers(1, max_size))
    kinds = [
        draw(st.sampled_from(["list", "tuple", "dict", "plain", "slotted"]))
        for _ in range(size)
    ]
    held = []
    for i, kind in enumerate(kinds):
        if kind == "tuple":
            # An empty tuple is one object everywhere; this one must be its own.
            low = 1
            pool = st.integers(0, i - 1) if i else None
            if pool is None:
                kinds[0] = "list"
                pool, low = st.integers(0, size - 1), 0
        else:
            low, pool = 0, st.integers(0, size - 1)
        held.append(draw(st.lists(pool, min_size=low, max_size=4)))
    roots = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    return Spec(kinds, held, roots)


def names_of(spec, objects):
    return {f"n{k}": objects[i] for k, i in enumerate(spec.roots)}


@settings(max_examples=300, deadline=None)
@given(specs())
def test_the_graph_is_the_one_that_was_built(spec):
    objects = spec.build()
    graph = object_graph(names_of(spec, objects), **WIDE)
    number = {id(obj): i for i, obj in enumerate(objects)}
    reached = spec.distances()
    assert sorted(number[node.id] for node in graph.nodes) == sorted(reached)
    place = {node.label: number[node.id] for node in graph.nodes}
    expected = [(f"n{k}", "", i) for k, i in enumerate(spec.roots)]
    expected += [(i, label, j) for i in reached for label, j in spec.slots(i)]
    found = [(place.get(s, s), label, place[t]) for s, label, t in graph.edges]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert [node.label for node in graph.nodes] == [
        f"#{k}" for k in range(1, len(reached) + 1)
    ]


@settings(max_examples=200, deadline=None)
@given(specs())
def test_reference_counts_are_those_without_the_walk(spec):
    objects = spec.build()
    namespace = names_of(spec, objects)
    holders = [j for held in spec.held for j in held]
    held_by_us = 1  # the list `objects`
    for snapshot, named in ((False, spec.roots), (True, [])):
        graph = object_graph(namespace, **WIDE, snapshot=snapshot)
        count = {node.id: node.refcount for node in graph.nodes}
        expected = {
            id(objects[i]): holders.count(i) + named.count(i) + held_by_us
            for i in spec.distances()
        }
        assert count == expected


@settings(max_examples=200, deadline=None)
@given(specs())
def test_marked_references_close_a_cycle_and_no_others_do(spec):
    graph = object_graph(names_of(spec, spec.build()), **WIDE)
    slots = [(node.label, slot) for node in graph.nodes for slot in node.slots]
    plain = {node.label: set() for node in graph.nodes}
    whole = {node.label: set() for node in graph.nodes}
    for source, slot in slots:
        whole[source].add(slot.target)
        if not slot.cycle:
            plain[source].add(slot.target)
    order = tuple(graphlib.TopologicalSorter(plain).static_order())  # or CycleError
    assert len(order) == len(graph.nodes)
    for source, slot in slots:
        if slot.cycle:
            reached, new = set(), {slot.target}
            while new:
                reached |= new
                new = set().union(*(whole[label] for label in new)) - reached
            assert source in reached


@settings(max_examples=100, deadline=None)
@given(specs(), st.integers(1, 4))
def test_depth_cuts_where_it_says(spec, depth):
    objects = spec.build()
    limits = WIDE | {"depth": depth}
    graph = object_graph(names_of(spec, objects), **limits)
    distance = spec.distances()
    within = {id(objects[i]) for i, steps in distance.items() if steps <= depth}
    assert {node.id for node in graph.nodes} == within
    number = {id(obj): i for i, obj in enumerate(objects)}
    for node in graph.nodes:
        i = number[node.id]
        deepest = distance[i] == depth
        assert node.hidden == (len(spec.held[i]) if deepest else 0)


@settings(max_examples=60, deadline=None)
@given(specs())
def test_no_reference_runs_through_a_box(spec):
    graph = object_graph(names_of(spec, spec.build()), **WIDE)
    layout, boxes, _ = _arranged(graph)
    layout.place()
    for k, item in enumerate(layout.items):
        for other in layout.items[k + 1 :]:
            if item.column == other.column:
                apart = max(item.top, other.top) - min(
                    item.top + item.height, other.top + other.height
                )
                assert apart >= GAP - 1e-6
    for link in layout.links:
        # A curve stays between its two columns; a lane is an item of its own.
        assert layout.items[link.target].column == layout.items[link.source].column + 1
    column = columns_of(graph)
    for node in graph.nodes:
        for slot in node.slots:
            assert slot.cycle or column[slot.target] > column[node.label]
            assert layout.items[boxes[slot.target]].column == column[slot.target]


def crossings(layout):
    """Pairs of lines between the same columns, in one order here, in another there."""
    ends = []
    for link in layout.links:
        source, target = layout.items[link.source], layout.items[link.target]
        ends.append((source.column, source.top + link.port, target.top + target.entry))
    return sum(
        a[0] == b[0] and (a[1] - b[1]) * (a[2] - b[2]) < 0
        for a, b in combinations(ends, 2)
    )


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_a_tree_is_drawn_without_a_crossing(rng, size):
    """Whatever the order in which its objects were found."""
    parents = [rng.randrange(-2, k) for k in range(size)]  # below 0: from a name
    depth = {-2: 0, -1: 0}
    for k, parent in enumerate(parents):
        depth[k] = depth[parent] + 1
    layout = Layout()
    order = [-2, -1, *rng.sample(range(size), size)]
    item = {k: layout.add(depth[k], 20.0 * (size + 1), 10.0) for k in order}
    for k in rng.sample(range(size), size):
        layout.connect(item[parents[k]], 20.0 * (k + 1), item[k])
    layout.place()
    assert crossings(layout) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(30, 90), st.integers(0, 29)), min_size=2))
def test_a_chain_is_drawn_level(boxes):
    layout = Layout()
    for column, (height, _) in enumerate(boxes):
        layout.add(column, height, 14.0)
        if column:
            layout.connect(column - 1, boxes[column - 1][1], column)
    layout.place()
    for link in layout.links:
        source, target = layout.items[link.source], layout.items[link.target]
        assert abs(source.top + link.port - target.top - target.entry) < 1e-9


@settings(max_examples=60, deadline=None)
@given(specs())
def test_sorting_never_adds_a_crossing(spec):
    graph = object_graph(names_of(spec, spec.build()), **WIDE)
    layout, _, _ = _arranged(graph)
    height = 0.0
    for item in layout.items:  # one below the other, as they were found
        item.top, height = height, height + item.height
    before = crossings(layout)
    layout.place()
    assert crossings(layout) <= before


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 20)), max_size=7))
def test_spread_is_the_least_squares_optimum(pairs):
    wanted = [float(goal) for goal, _ in pairs]
    heights = [float(height) for _, height in pairs]
    tops = spread(wanted, heights)
    for k in range(len(tops) - 1):
        assert tops[k + 1] >= tops[k] + heights[k] - 1e-9

    def cost(candidate):
        return sum((a - b) ** 2 for a, b in zip(candidate, wanted, strict=True))

    # Convex, so no step to a feasible neighbor may help: move any run of boxes.
    for first in range(len(tops)):
        for last in range(first, len(tops)):
            for step in (-0.01, 0.01):
                moved = list(tops)
                for k in range(first, last + 1):
                    moved[k] += step
                feasible = all(
                    moved[k + 1] >= moved[k] + heights[k] - 1e-9
                    for k in range(len(moved) - 1)
                )
                assert not feasible or cost(moved) >= cost(tops) - 1e-9


def test_counts_agree_with_getrefcount():
    known = [object() for _ in range(3)]
    known += [known[1], known[2], known[2]]
    namespace = {"known": known}
    graph = object_graph(namespace)
    first, second, third = (graph["known"].slots[k].target for k in range(3))
    # `map` hands over items as the list holds them: one reference is its own.
    measured = [count - 1 for count in map(sys.getrefcount, known[:3])]
    copied = 1  # the slice holds each once more
    expected = [count - copied for count in measured]
    found = [graph[label].refcount for label in (first, second, third)]
    assert found == expected == [1, 2, 3]


def test_walking_leaves_every_count_as_it_was():
    item = Plain()
    item.friend = [item, {}]
    box = [item, item.friend]
    vars(item)  # its dictionary exists now, whoever asked for it first
    before = list(map(sys.getrefcount, box))
    graph = object_graph({"item": item})
    svg = graph.svg
    assert list(map(sys.getrefcount, box)) == before
    assert "#1" in svg


def test_snapshot_takes_its_own_references_off():
    value = Plain()
    names = {"a": value, "b": value}
    assert object_graph(names)["a"].refcount == 3
    assert object_graph(names, snapshot=True)["a"].refcount == 1


def test_self_containing_containers_end():
    loop: list = []
    loop.append(loop)
    ring: dict = {}
    ring["again"] = [ring]
    node = Plain()
    node.itself = node
    graph = object_graph({"loop": loop, "ring": ring, "node": node}, depth=10**6)
    assert [node.label for node in graph.nodes] == ["#1", "#2", "#3", "#4"]
    marked = [(n.label, s.label) for n in graph.nodes for s in n.slots if s.cycle]
    assert marked == [("#1", "[0]"), ("#3", "[0]"), ("#4", ".itself")]
    assert graph.svg.count("↺") == 3


def test_deep_nesting_is_no_recursion():
    nest: list = []
    for _ in range(100_000):
        nest = [nest]
    graph = object_graph({"nest": nest}, depth=4)
    assert len(graph.nodes) == 4
    assert graph.nodes[-1].hidden == 1
    assert "… 1 more" in graph.svg
    long = object_graph({"nest": nest}, depth=10**6, max_nodes=1500)
    assert len(long.nodes) == 1500
    while nest:  # unwound by hand: freeing it at once is deep as well
        nest = nest[0]


def test_large_containers_are_cut_with_a_mark():
    namespace = {
        "many": list(range(1000, 1_001_000)),
        "table": {k: Plain() for k in range(5000)},
        "bag": {float(k) for k in range(5000)},
    }
    graph = object_graph(namespace, max_nodes=30)
    for name, size in (("many", 1_000_000), ("table", 5000), ("bag", 5000)):
        assert len(graph[name].slots) == 8
        assert graph[name].hidden == size - 8
    assert len(graph.nodes) == 27
    assert "… 999,992 more" in graph.svg


def test_thousands_of_names():
    namespace = {f"name_{k}": [k] for k in range(5000)}
    graph = object_graph(namespace)
    assert len(graph.names) == 24
    assert graph.hidden_names == 4976
    assert "4,976 more names" in graph.svg
    full = object_graph(namespace, max_nodes=10)
    assert len(full.nodes) == 10
    assert [name.target for name in full.names[10:]] == [""] * 14


class Rude:
    def __repr__(self):
        raise ValueError("no")


class Odd:
    def __repr__(self):
        return 3  # type: ignore[return-value]


class Wide:
    def __repr__(self):
        return "对象" * 10_000 + "\x00\ud800\n"


class Hostile(list):
    """Lies about everything that the walk could be tempted to ask."""

    def __iter__(self):
        raise RuntimeError

    __len__ = __getitem__ = __eq__ = __getattribute__ = __bool__ = __iter__  # type: ignore
    __hash__ = None  # type: ignore


def test_reprs_that_raise_or_run_on():
    graph = object_graph(
        {
            "rude": Rude(),
            "odd": Odd(),
            "wide": Wide(),
            "text": "x" * 10_000_000,
            "fits": "x" * 16,  # 18 columns with its quotes
            "number": 10**100_000,
            "nul": "\x00<&",
            "function": partial,
            "address": iter([]),
        }
    )
    assert graph["rude"].value == "repr: ValueError"
    assert graph["odd"].value == "repr: TypeError"
    assert re.fullmatch("(对象)+对?…", graph["wide"].value)
    assert width(graph["wide"].value) <= 18
    assert graph["text"].value == "'" + 16 * "x" + "…"
    assert graph["fits"].value == "'" + 16 * "x" + "'"
    assert graph["number"].value == "of 332193 bits"
    assert "0x" not in graph["address"].value
    ElementTree.fromstring(graph.svg.encode())  # well-formed, whatever came in


def test_objects_that_lie_are_read_past():
    liar = Hostile([1000, 2000])
    list.append(liar, liar)
    graph = object_graph({"liar": liar})
    assert [slot.label for slot in graph["liar"].slots] == ["[0]", "[1]", "[2]"]
    assert graph["liar"].slots[2].cycle


class RaisingMeta(type):
    def __getattribute__(cls, name):
        raise RuntimeError(name)


class Guarded(metaclass=RaisingMeta):
    shared: list = []


class NoDict:
    @property
    def __dict__(self):
        raise RuntimeError


def test_classes_that_answer_nothing_are_read_past():
    graph = object_graph({"cls": Guarded, "it": Guarded(), "other": NoDict()})
    assert (graph["cls"].type, graph["cls"].value) == ("RaisingMeta", "Guarded")
    assert [slot.label for slot in graph["cls"].slots] == [".shared"]
    assert graph["it"].type == "Guarded"
    assert graph["other"].slots == ()


def test_whatever_lives_in_this_process_can_be_drawn():
    living = random.Random(0).sample(gc.get_objects(), 1000)
    for obj in living:
        graph = object_graph({"it": obj}, depth=2, max_nodes=10)
        assert graph["it"].id == id(obj)
        ElementTree.fromstring(graph.svg.encode())


class Corner(typing.NamedTuple):
    x: int
    y: int


class CornerWithNotes(Corner):
    """No `__slots__`: its instances have a `__dict__`."""


class CountingDate(datetime.date):
    __slots__ = ("count",)


class Color(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Frozen:
    x: int = 1


@pytest.mark.parametrize(
    "thing",
    [
        8,
        "eight",
        None,
        NotImplemented,
        (),
        object(),
        Corner(1, 2),
        namedtuple("Pair", "a b")(1, 2),
        sys.version_info,
        datetime.date(2020, 1, 1),
        datetime.datetime(2020, 1, 1),
        datetime.timedelta(1),
        decimal.Decimal(1),
        fractions.Fraction(1, 2),
        pathlib.Path("."),
        pathlib.PurePosixPath("."),
        re.compile("a"),
        uuid.UUID(int=1),
        list[int],
        types.MappingProxyType({}),
        Frozen(),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_immutable_objects_are_drawn_as_such(thing):
    assert not is_mutable(thing)


@pytest.mark.parametrize(
    "thing",
    [
        [],
        {},
        bytearray(),
        iter([]),
        Plain(),
        Slotted(),
        Plain,
        len.__class__,
        lambda: None,
        CornerWithNotes(1, 2),
        CountingDate(2020, 1, 1),
        Color.RED,  # it takes attributes like any instance
        Guarded(),
    ],
    ids=lambda thing: type.__getattribute__(type(thing), "__name__"),
)
def test_mutable_objects_are_drawn_as_such(thing):
    assert is_mutable(thing)


def test_a_subclass_of_a_frozen_dataclass_takes_attributes():
    @dataclass(frozen=True)
    class Frozen:
        x: int = 1

    class Open(Frozen):
        pass

    class Closed(Frozen):
        __slots__ = ()

    thing = Open()
    thing.new = 3
    assert is_mutable(thing)
    assert not is_mutable(Frozen())
    assert is_mutable(Closed())  # Frozen itself gave it a dictionary


def test_a_metaclass_with_equality_is_not_asked():
    class Alike(type):
        def __eq__(cls, other):
            raise RuntimeError("asked")

        __hash__ = None

    class Odd(metaclass=Alike):
        pass

    graph = object_graph({"odd": Odd(), "by key": {Odd(): 1}})
    assert [node.type for node in graph.nodes].count("Odd") == 2


def test_names_that_xml_does_not_allow():
    for name, text in (("a\x00b", "a·b"), ("a\x0bb", "a·b"), ("\ud800", "·")):
        svg = object_graph({name: 1}).svg.encode("utf-8")
        shown = "".join(ElementTree.fromstring(svg).itertext())
        assert text in shown


def held_by(obj, **limits):
    """{slot: type name of what it refers to} of one object."""
    graph = object_graph({"it": obj}, **limits)
    kinds = {node.label: node.type for node in graph.nodes}
    return {slot.label: kinds[slot.target] for slot in graph["it"].slots}


def test_what_each_kind_of_object_refers_to():
    counter = [0]

    def function(start, more=[]):  # noqa: B006
        counter.append(start)

    function.note = {}
    assert held_by(function) == {
        ".__defaults__": "tuple",
        ".__closure__": "tuple",
        ".note": "dict",
    }
    (cell,) = function.__closure__
    assert held_by(cell) == {".cell_contents": "list"}
    assert held_by(types.CellType()) == {}
    assert held_by([].append) == {".__self__": "list"}
    assert held_by(len) == {}
    assert held_by(Plain().__init__) != {}
    assert held_by(memoryview(bytearray(3))) == {".obj": "bytearray"}
    assert held_by(types.MappingProxyType({})) == {"→": "dict"}
    assert held_by(deque([[], ()])) in ({"→": "tuple"}, {"→": "list"})
    assert held_by({(1, 2): []}) == {"key 0": "tuple", "value 0": "list"}
    assert held_by({"b", "a"}) == {"∈": "str"}
    held = object_graph({"it": slice(0, [], None)})
    assert "list" in {node.type for node in held.nodes}
    assert held_by(7) == held_by("seven") == held_by(None) == held_by(b"") == {}

    class Shared:
        items: list = []

    assert held_by(Shared) == {".items": "list"}
    assert held_by(Shared()) == {}


def test_sets_are_shown_in_one_order():
    graph = object_graph({"bag": {"c", "a", "b"}})
    values = {node.label: node.value for node in graph.nodes}
    shown = [values[slot.target] for slot in graph["bag"].slots]
    assert shown == ["'a'", "'b'", "'c'"]


def test_the_drawing_says_what_the_graph_says():
    a = [1000]
    graph = object_graph({"a": a, "b": a, "c": (a, "text")})
    root = ElementTree.fromstring(graph.svg)
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    for word in ("a", "b", "c", "#1", "list", "[0]", "1000", "tuple", "'text'"):
        assert word in texts
    assert f"refs {graph['a'].refcount}" in texts
    boxes = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(boxes) == len(graph.nodes) == 4
    assert not re.search(r'(fill|stroke)="(black|white|#000|#fff)', graph.svg)
    starts = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(starts) == len(graph.edges) == 6
    again = object_graph({"a": a, "b": a, "c": (a, "text")})
    assert graph._repr_svg_() == graph.svg
    assert [n.label for n in again.nodes] == [n.label for n in graph.nodes]


def test_labels_stay_when_something_is_added():
    items = [[], []]
    before = object_graph({"items": items})
    items.append([])
    after = object_graph({"items": items})
    assert [n.id for n in after.nodes[:3]] == [n.id for n in before.nodes]


@pytest.mark.parametrize(
    ("namespace", "limits", "message"),
    [
        ([1], {}, "namespace: got list"),
        ({1: 2}, {}, "namespace: got a key of type int"),
        ({}, {"depth": 0}, "depth: got 0"),
        ({}, {"max_items": 0}, "max_items: got 0"),
    ],
)
def test_refusals(namespace, limits, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        object_graph(namespace, **limits)


def test_empty_namespace():
    graph = object_graph({})
    assert (graph.nodes, graph.edges) == ((), ())
    ElementTree.fromstring(graph.svg)
    with pytest.raises(KeyError):
        graph["nothing"]


def test_header_agrees_with_the_interpreter():
    for obj in ([1, 2], {}, "some text", 3.5, len, Plain, Plain()):
        holder = [obj]
        read, counted = (list(map(read, holder)) for read in (header, sys.getrefcount))
        # `header` is written in Python: its parameter is one more reference than
        # the C function holds, or none where the interpreter borrows it.
        assert 0 <= read[0].refcount - counted[0] <= 1 or read[0].immortal
        assert read[0].type_address == id(type(obj))
        assert read[0].address == id(obj)
    assert sum(ctypes.sizeof(kind) for _, kind in FIELDS) == object.__basicsize__


def test_header_counts_what_is_added():
    obj = Plain()
    before = header(obj).refcount
    more = [obj] * 7
    assert header(obj).refcount == before + 7
    del more
    assert header(obj).refcount == before


def test_immortality_by_version():
    expected = sys.version_info >= (3, 12)
    for obj in (None, True, 8, ()):
        assert header(obj).immortal is expected
    assert not header([]).immortal
    assert not header(257 * len("x" * 7)).immortal


@pytest.mark.parametrize(
    ("version", "free_threaded", "bits", "memory", "count", "immortal"),
    [
        ((3, 11), False, 64, struct.pack("<qQ", 5, 9), 5, False),
        ((3, 11), False, 64, struct.pack("<qQ", 2**32 - 1, 9), 2**32 - 1, False),
        ((3, 12), False, 64, struct.pack("<qQ", 2**32 - 1, 9), 2**32 - 1, True),
        ((3, 12), False, 64, struct.pack("<qQ", 2**30, 9), 2**30, False),
        ((3, 13), False, 64, struct.pack("<qQ", 6, 9), 6, False),
        ((3, 13), False, 32, struct.pack("<iI", 2**30 - 1, 9), 2**30 - 1, True),
        ((3, 14), False, 32, struct.pack("<iI", 7 << 28, 9), 7 << 28, True),
        ((3, 14), False, 64, struct.pack("<IHHQ", 3 << 30, 0, 5, 9), 3 << 30, True),
        ((3, 14), False, 64, struct.pack("<IHHQ", 2, 0, 5, 9), 2, False),
        (
            (3, 13),
            True,
            64,
            struct.pack("<QHBBIqQ", 77, 0, 0, 1, 3, (4 << 2) | 1, 9),
            7,
            False,
        ),
        (
            (3, 14),
            True,
            64,
            struct.pack("<QHBBIqQ", 0, 5, 0, 1, 2**32 - 1, 0, 9),
            2**32 - 1,
            True,
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_layouts_of_other_builds(version, free_threaded, bits, memory, count, immortal):
    fields = header_fields(
        version, free_threaded=free_threaded, bits=bits, byteorder="little"
    )

    class Other(ctypes.LittleEndianStructure):
        _fields_ = list(fields)

    assert ctypes.sizeof(Other) == len(memory)
    view = Other.from_buffer_copy(memory)
    raw = {name: getattr(view, name) for name, _ in fields}
    assert raw["ob_type"] == 9
    assert refcount_of(raw) == count
    assert is_immortal(raw, bits=bits, version=version) is immortal


def test_layout_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"version: got \(3, 10\)"):
        header_fields((3, 10), free_threaded=False, bits=64, byteorder="little")
    with pytest.raises(ValueError, match="bits: got 16"):
        header_fields((3, 11), free_threaded=False, bits=16, byteorder="little")
    big = header_fields((3, 14), free_threaded=False, bits=64, byteorder="big")
    assert [name for name, _ in big] == [
        "ob_flags",
        "ob_overflow",
        "ob_refcnt",
        "ob_type",
    ]


def test_a_copy_shares_and_a_deep_copy_does_not():
    inner = [1000]
    outer = [inner, inner]
    graph = object_graph(
        {"outer": outer, "copy": copy.copy(outer), "deep": copy.deepcopy(outer)}
    )
    target = {
        name: {slot.target for slot in graph[name].slots}
        for name in ("outer", "copy", "deep")
    }
    assert target["copy"] == target["outer"]
    assert len(target["deep"]) == 1
    assert target["deep"] != target["outer"]
