"""`underhood.inheritance` held to the interpreter that runs it, and to older ones."""

from __future__ import annotations

import inspect
import json
import platform
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.inheritance import (
    RULES,
    Super,
    build_classes,
    draw_hierarchy,
    draw_merge,
    find_attribute,
    get_attribute,
    keeps_children_first,
    keeps_local_precedence,
    keeps_monotonicity,
    linearize,
    merge_steps,
    random_hierarchy,
    smallest_hierarchy,
)
from underhood.inheritance.hierarchies import consistent_hierarchies
from underhood.inheritance.lookup import is_data_descriptor

ROOT = Path(__file__).parents[1]
DIAMOND = {"A": (), "B": ("A",), "C": ("A",), "D": ("B", "C")}
SERIOUS = {"X": (), "Y": (), "M": ("X", "Y"), "N": ("Y", "X"), "K": ("M", "N")}
# "The Python 2.3 Method Resolution Order", section "Bad Method Resolution Orders".
KNOTTY = {
    **dict.fromkeys("ABCDE", ()),
    "K1": ("A", "B", "C"),
    "K2": ("D", "B", "E"),
    "K3": ("D", "A"),
    "Z": ("K1", "K2", "K3"),
}


def in_both(name: str, bases: dict[str, Any]) -> tuple[Any, Any]:
    """The order, or the words of the error: from the interpreter, and from us."""
    real = build_classes(bases)[name]
    theirs = (
        str(real)
        if isinstance(real, TypeError)
        else tuple(each.__name__ for each in real.__mro__)
    )
    try:
        ours: Any = linearize(name, bases)
    except TypeError as error:
        ours = str(error)
    return theirs, ours


# ---- C3 --------------------------------------------------------------------------


def test_c3_is_the_interpreters_order_on_random_hierarchies() -> None:
    rng = random.Random(3)
    accepted = refused = 0
    for _ in range(6000):
        bases = random_hierarchy(rng, classes=rng.randint(2, 9))
        for name in build_classes(bases):
            theirs, ours = in_both(name, bases)
            assert ours == theirs, bases
            refused += isinstance(theirs, str)
        accepted += not isinstance(theirs, str)
    assert accepted > 1000
    assert refused > 1000


@st.composite
def any_hierarchy(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Also with `object` among the bases, and with bases that stand there twice."""
    bases: dict[str, tuple[str, ...]] = {}
    for name in "ABCDEFG"[: draw(st.integers(1, 7))]:
        earlier = st.sampled_from([*bases, "object"])
        bases[name] = tuple(draw(st.lists(earlier, max_size=4)))
    return bases


@settings(max_examples=800, deadline=None)
@given(any_hierarchy())
def test_c3_refuses_what_the_interpreter_refuses_in_its_words(
    bases: dict[str, tuple[str, ...]],
) -> None:
    for name in build_classes(bases):
        theirs, ours = in_both(name, bases)
        assert ours == theirs


@pytest.mark.parametrize(
    ("bases", "order"),
    [
        (DIAMOND, "D B C A object"),
        (
            {"A": (), "B": (), "C": (), "X": "A", "Y": "A", "Z": "XBYC"},
            "Z X B Y A C object",
        ),
        (
            {
                "Boat": (),
                "DayBoat": ("Boat",),
                "WheelBoat": ("Boat",),
                "EngineLess": ("DayBoat",),
                "SmallMultihull": ("DayBoat",),
                "PedalWheelBoat": ("EngineLess", "WheelBoat"),
                "SmallCatamaran": ("SmallMultihull",),
                "Pedalo": ("PedalWheelBoat", "SmallCatamaran"),
            },
            "Pedalo PedalWheelBoat EngineLess SmallCatamaran SmallMultihull DayBoat "
            "WheelBoat Boat object",
        ),
        (
            {
                "Pane": (),
                "Scrolling": (),
                "Editing": (),
                "ScrollablePane": ("Pane", "Scrolling"),
                "EditablePane": ("Pane", "Editing"),
                "Both": ("ScrollablePane", "EditablePane"),
            },
            "Both ScrollablePane EditablePane Pane Scrolling Editing object",
        ),
        (KNOTTY, "Z K1 K2 K3 D A B C E object"),
    ],
)
def test_c3_gives_the_published_orders(bases: dict[str, Any], order: str) -> None:
    """From CPython's `test_descr.py`, and the paper on the MRO of Python 2.3."""
    spelled_out = {name: tuple(parents) for name, parents in bases.items()}
    assert linearize(list(bases)[-1], spelled_out) == tuple(order.split())


def test_the_merge_by_hand() -> None:
    steps = list(merge_steps([("B", "A"), ("C", "A"), ("B", "C")]))
    assert [step.taken for step in steps] == ["B", "C", "A"]
    assert [step.rejected for step in steps] == [(), ("A",), ()]
    assert steps[1].sequences == (("A",), ("C", "A"), ("C",))


def test_a_merge_that_is_stuck_ends_with_nothing_taken() -> None:
    *_, last = merge_steps([("X", "Y"), ("Y", "X")])
    assert (last.taken, last.rejected) == (None, ("X", "Y"))


def test_classes_are_listed_after_their_bases() -> None:
    for bases in ({"B": ("A",)}, {"B": ("A",), "A": ()}, {"B": ("B",)}):
        missing = bases["B"][0]
        message = rf"bases\['B'\]: '{missing}' is not listed before it"
        with pytest.raises(ValueError, match=message):
            build_classes(bases)
    eggs = {"F": (), "E": ("F",), "G": ("F", "E"), "H": ("G",)}
    assert list(build_classes(eggs)) == ["F", "E", "G"]  # H stands on what is refused


def test_random_hierarchies_have_a_size() -> None:
    with pytest.raises(ValueError, match="classes: got 0; allowed are 1 to 26"):
        random_hierarchy(random.Random(0), 0)
    with pytest.raises(ValueError, match="max_bases: got -1; allowed are 0 and more"):
        random_hierarchy(random.Random(0), 4, max_bases=-1)
    single = random_hierarchy(random.Random(0), 4, max_bases=0)
    assert single == dict.fromkeys("ABCD", ())


# ---- the other rules -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bases", "order"),
    [
        # Both from "The Python 2.3 Method Resolution Order".
        ("K", SERIOUS, "K M N X Y object"),
        ("Z", KNOTTY, "Z K1 K3 A K2 D B C E object"),
        ("G", {"F": (), "E": ("F",), "G": ("F", "E")}, "G E F object"),
        # Printed by Python 2.2 in a mail of Samuele Pedroni: "perplexed by mro",
        # python-dev, 1 October 2002.
        (
            "Z",
            {**dict.fromkeys("ABC", ()), "X": ("A",), "Y": ("A",), "Z": tuple("XBYC")},
            "Z X Y A B C object",
        ),
        ("D", DIAMOND, "D B C A object"),
    ],
)
def test_python22_gives_the_published_orders(
    name: str, bases: dict[str, Any], order: str
) -> None:
    assert linearize(name, bases, "python22") == tuple(order.split())


def test_python22_did_not_do_what_its_documentation_said() -> None:
    documented = linearize("K", SERIOUS, "python22_documented")
    # Depth first: K M X Y o N Y X o; of each class the last one stays.
    assert documented == ("K", "M", "N", "Y", "X", "object")
    assert documented != linearize("K", SERIOUS, "python22")


def test_breadth_first_by_hand() -> None:
    bases = {"A": (), "G": (), "B": ("A",), "C": ("G",), "D": ("B", "C")}
    assert linearize("D", bases, "breadth_first") == (*tuple("DBCAG"), "object")
    bases = {"O": (), "X": ("O",), "Y": ("X",), "Z": ("O",), "W": ("Y", "Z")}
    assert linearize("W", bases, "breadth_first") == (*tuple("WYZXO"), "object")


def test_depth_first_by_hand() -> None:
    assert linearize("D", DIAMOND, "depth_first") == ("D", "B", "A", "C")


def classic_hierarchies() -> list[dict[str, tuple[str, ...]]]:
    rng = random.Random(27)
    return [random_hierarchy(rng, rng.randint(2, 8)) for _ in range(150)]


def find_python27() -> str | None:
    candidates = [
        shutil.which("python2.7"),
        *Path.home().glob(".pyenv/versions/2.7*/bin/python"),
    ]
    for python in filter(None, candidates):
        answers = subprocess.run([python, "-c", "pass"], capture_output=True)
        if answers.returncode == 0:  # what is on the PATH may be a shim of pyenv
            return str(python)
    return None


def test_depth_first_is_the_order_of_classic_classes() -> None:
    python = find_python27()
    if python is None:
        pytest.skip("no Python 2.7 here")
    script = ROOT / "benchmarks" / "inheritance_classic.py"
    hierarchies = classic_hierarchies()
    ran = subprocess.run(
        [python, str(script), "--probe"],
        input=json.dumps([list(h.items()) for h in hierarchies]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for bases, order in zip(hierarchies, json.loads(ran.stdout), strict=True):
        assert linearize(list(bases)[-1], bases, "depth_first") == tuple(order)


def test_depth_first_is_the_recorded_order_of_classic_classes() -> None:
    path = ROOT / "benchmarks/results/cpython2/inheritance.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    assert len(recorded["data"]["random"]) >= 100
    for pairs, order in recorded["data"]["random"]:
        bases = {name: tuple(parents) for name, parents in pairs}
        assert linearize(pairs[-1][0], bases, "depth_first") == tuple(order)


@pytest.mark.parametrize("rule", RULES)
def test_a_long_chain_needs_no_recursion(rule: str) -> None:
    chain: dict[str, tuple[str, ...]] = {"0": ()}
    for number in range(1, 200):
        chain[str(number)] = (str(number - 1),)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        order = linearize("199", chain, rule)
    finally:
        sys.setrecursionlimit(limit)
    assert order[:200] == tuple(str(number) for number in reversed(range(200)))


@pytest.mark.parametrize("rule", RULES)
def test_a_ladder_of_diamonds_is_not_walked_way_by_way(rule: str) -> None:
    ladder: dict[str, tuple[str, ...]] = {"T0": ()}
    for number in range(1, 30):  # 2 ** 29 ways from the foot to the top
        above = (f"T{number - 1}",)
        ladder |= {f"L{number}": above, f"R{number}": above}
        ladder[f"T{number}"] = (f"L{number}", f"R{number}")
    assert set(linearize("T29", ladder, rule)) >= set(ladder)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_asked_for_must_make_sense(rule: str) -> None:
    with pytest.raises(ValueError, match="name: got 'Q'; bases has A, B"):
        linearize("Q", {"A": (), "B": ("A",)}, rule)
    with pytest.raises(ValueError, match=r"bases\['B'\]: 'Q' is not in bases"):
        linearize("B", {"B": ("Q",)}, rule)
    with pytest.raises(ValueError, match="a cycle, B -> C -> B"):
        linearize("A", {"A": ("B",), "B": ("C",), "C": ("B",)}, rule)
    with pytest.raises(TypeError, match=r"bases\['Dog'\]: got the str 'Animal'"):
        linearize("Dog", {"Animal": (), "Dog": "Animal"}, rule)


def test_what_else_is_refused() -> None:
    with pytest.raises(ValueError, match="rule: got 'c4'; allowed are c3, depth_first"):
        linearize("A", {"A": ()}, "c4")
    with pytest.raises(ValueError, match="no classic class stands on it"):
        linearize("A", {"A": ("object",)}, "depth_first")
    with pytest.raises(ValueError, match="it has no bases"):
        linearize("A", {"A": (), "object": ("A",)})


def test_object_itself() -> None:
    assert linearize("object", {}) == ("object",)


# ---- properties ------------------------------------------------------------------

PROPERTIES = [keeps_children_first, keeps_local_precedence, keeps_monotonicity]


@pytest.mark.parametrize("keeps", PROPERTIES)
def test_c3_keeps_each_property(keeps: Any) -> None:
    rng = random.Random(5)
    seen = 0
    while seen < 1000:
        bases = random_hierarchy(rng, rng.randint(3, 8))
        built = build_classes(bases)
        for name in bases:
            if isinstance(built.get(name), type):
                assert keeps(name, bases, "c3")
                seen += 1


def test_the_properties_by_hand() -> None:
    # Depth first on the diamond: D B A C.
    assert not keeps_children_first("D", DIAMOND, "depth_first")  # A before C
    assert keeps_local_precedence("D", DIAMOND, "depth_first")  # B before C
    assert not keeps_monotonicity("D", DIAMOND, "depth_first")  # C A, but A C
    eggs = {"F": (), "E": ("F",), "G": ("F", "E")}
    assert not keeps_local_precedence("G", eggs, "python22")  # G E F
    assert not keeps_monotonicity("Z", KNOTTY, "python22")  # K3 D A, but A D


def test_every_hierarchy_of_three_classes_is_counted() -> None:
    """C over A and B: by hand, with A and B apart, or B below A."""
    found = [h for links in range(2, 4) for h in consistent_hierarchies(3, links)]
    assert found == [
        {"A": (), "B": (), "C": ("A", "B")},
        {"A": (), "B": (), "C": ("B", "A")},
        {"A": (), "B": ("A",), "C": ("B",)},
        {"A": (), "B": ("A",), "C": ("B", "A")},
    ]


def test_the_smallest_hierarchy_where_breadth_first_is_wrong() -> None:
    name, bases = smallest_hierarchy(
        lambda n, b: linearize(n, b, "breadth_first") != linearize(n, b)
    )
    assert (len(bases), sum(map(len, bases.values()))) == (4, 3)
    real = build_classes(bases)[name]
    assert isinstance(real, type)
    walk = tuple(each.__name__ for each in real.__mro__)
    assert walk != linearize(name, bases, "breadth_first")
    with pytest.raises(LookupError, match="nothing found up to 3 classes"):
        smallest_hierarchy(
            lambda n, b: linearize(n, b, "breadth_first") != linearize(n, b), 3
        )


# ---- attribute lookup ------------------------------------------------------------


class Reads:
    """A descriptor that tells what it was asked with."""

    def __init__(self, tag: str, fails: bool = False) -> None:
        self.tag, self.fails = tag, fails

    def __get__(self, instance: Any, owner: Any) -> tuple[Any, ...]:
        if self.fails:
            raise AttributeError(f"from {self.tag}")
        return (self.tag, instance is None, owner.__name__)


class ReadsAndSets(Reads):
    def __set__(self, instance: Any, value: Any) -> None: ...


class ReadsAndDeletes(Reads):
    def __delete__(self, instance: Any) -> None: ...


class OnlySets:
    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __set__(self, instance: Any, value: Any) -> None: ...


KINDS: dict[str, Any] = {
    "value": lambda tag: tag,
    "reads": Reads,
    "reads and fails": lambda tag: Reads(tag, fails=True),
    "data": ReadsAndSets,
    "data, fails": lambda tag: ReadsAndSets(tag, fails=True),
    "data by delete": ReadsAndDeletes,
    "only sets": OnlySets,
    "function": lambda tag: lambda *args: (tag, len(args)),
    "classmethod": lambda tag: classmethod(lambda cls: (tag, cls.__name__)),
    "staticmethod": lambda tag: staticmethod(lambda: tag),
    "property": lambda tag: property(lambda self: (tag, type(self).__name__)),
    "class": lambda tag: type(tag, (), {}),
}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[type], Any]:
    """Classes with attributes of all kinds, and an instance of the last of them."""
    bases: dict[str, tuple[str, ...]] = {}
    classes: dict[str, type] = {}
    for name in "PQRS"[: draw(st.integers(1, 4))]:
        parents = tuple(draw(st.lists(st.sampled_from("PQR"), unique=True, max_size=3)))
        bases[name] = tuple(parent for parent in parents if parent in bases)
        namespace: dict[str, Any] = {}
        for attribute in draw(st.sets(st.sampled_from("xyz"))):
            kind = draw(st.sampled_from(list(KINDS)))
            namespace[attribute] = KINDS[kind](f"{name}.{attribute}")
        if draw(st.integers(0, 3)) == 0:
            namespace["__getattr__"] = lambda self, key, n=name: (n, "fallback", key)
        try:
            made = type(name, tuple(classes[each] for each in bases[name]), namespace)
        except TypeError:  # no consistent order: without bases, then
            made = type(name, (), namespace)
        classes[name] = made
    instance = made()
    for attribute in draw(st.sets(st.sampled_from("xyz"))):
        vars(instance)[attribute] = f"own {attribute}"
    return list(classes.values()), instance


def outcome(look: Any) -> Any:
    """What a lookup gives: functions are called, errors are told apart by type."""
    try:
        value = look()
    except Exception as error:
        return type(error), str(error).partition(" (")[0]
    if callable(value) and not isinstance(value, type | OnlySets):
        return "called", value()
    return value


@settings(max_examples=1500, deadline=None)
@given(worlds())
def test_lookup_is_the_interpreters(world: tuple[list[type], Any]) -> None:
    _, instance = world
    for name in ("x", "y", "z", "missing", "__class__", "__dict__", "__doc__"):
        real = outcome(lambda name=name: getattr(instance, name))
        assert outcome(lambda name=name: get_attribute(instance, name)) == real


@settings(max_examples=600, deadline=None)
@given(worlds())
def test_super_is_the_interpreters(world: tuple[list[type], Any]) -> None:
    _, instance = world
    cls = type(instance)
    for start in cls.__mro__:
        for subject in (instance, cls):
            for name in ("x", "y", "z", "missing", "__class__", "__self_class__"):
                real = outcome(
                    lambda a=start, b=subject, n=name: getattr(super(a, b), n)
                )
                ours = outcome(
                    lambda a=start, b=subject, n=name: getattr(Super(a, b), n)
                )
                if name == "__class__":
                    assert (real, ours) == (super, Super)
                elif isinstance(real, tuple) and real[0] is AttributeError:
                    # Both name the attribute; the names of the two types differ.
                    assert ours[0] is AttributeError
                    assert ours[1].lower() == real[1].lower()
                else:
                    assert ours == real


def test_each_step_of_the_lookup_by_hand() -> None:
    class Base:
        data = ReadsAndSets("data")
        plain = Reads("plain")
        value = 1
        hidden = Reads("hidden")

        def __getattr__(self, name: str) -> str:
            return f"no {name}"

    class Child(Base): ...

    child = Child()
    vars(child).update(data="own", hidden="own", free="own")
    steps = {
        name: (found.step, found.owner)
        for name in ("data", "plain", "value", "hidden", "free", "nothing")
        for found in [find_attribute(child, name)]
    }
    assert steps == {
        "data": ("data descriptor", Base),
        "plain": ("non-data descriptor", Base),
        "value": ("class attribute", Base),
        "hidden": ("instance", None),
        "free": ("instance", None),
        "nothing": ("__getattr__", Base),
    }


def test_instances_without_a_dict() -> None:
    class Slotted:
        __slots__ = ("x",)

    slotted = Slotted()
    with pytest.raises(AttributeError):
        get_attribute(slotted, "x")
    slotted.x = 3
    assert find_attribute(slotted, "x").step == "data descriptor"
    assert get_attribute(slotted, "x") == 3


def test_lookups_that_are_not_modeled_are_refused() -> None:
    class Proxy:
        def __getattribute__(self, name: str) -> str:
            return name

    class Words(dict[str, str]): ...

    only = "only that of object is modeled"
    with pytest.raises(TypeError, match=f"got Proxy, with the lookup of Proxy; {only}"):
        get_attribute(Proxy(), "x")
    with pytest.raises(TypeError, match=f"got type, with the lookup of type; {only}"):
        get_attribute(int, "x")
    with pytest.raises(TypeError, match=f"got Words, with the lookup of dict; {only}"):
        get_attribute(Words(), "get")


def test_what_counts_as_a_data_descriptor() -> None:
    for make in KINDS.values():
        value = make("tag")
        real = inspect.isdatadescriptor(value)
        if not isinstance(value, type):  # of a class `inspect` says no at once
            assert is_data_descriptor(value) == real, value
    assert is_data_descriptor(OnlySets("tag"))


def test_super_walks_the_order_of_the_instance() -> None:
    class A:
        def who(self) -> str:
            return "A"

    class B(A): ...

    class C(A):
        def who(self) -> str:
            return "C"

    class D(B, C): ...

    assert Super(B, D()).who() == super(B, D()).who() == "C"
    assert Super(B, B()).who() == super(B, B()).who() == "A"
    proxy, real = Super(B, D), super(B, D)
    assert proxy.__thisclass__ is real.__thisclass__ is B
    assert proxy.__self_class__ is real.__self_class__ is D
    with pytest.raises(TypeError, match="got A; an instance or a subclass of B"):
        Super(B, A())


def test_super_does_not_believe_what_is_registered() -> None:
    class Shape(ABC):
        @abstractmethod
        def who(self) -> str: ...

    @Shape.register
    class Blob: ...

    assert isinstance(Blob(), Shape)
    for subject in (Blob(), Blob):
        for model in (super, Super):
            with pytest.raises(TypeError, match="instance or"):
                model(Shape, subject)


def test_super_believes_the_class_that_an_object_names() -> None:
    class A:
        def who(self) -> str:
            return "A"

    class B(A):
        def who(self) -> str:
            return "B"

    mock = Mock(spec=B)
    assert Super(B, mock).who() == super(B, mock).who() == "A"
    assert Super(B, mock).__self_class__ is super(B, mock).__self_class__ is B
    with pytest.raises(TypeError, match="got Mock; an instance or a subclass of int"):
        Super(int, mock)


def test_torch_does_what_the_chapter_says_of_it() -> None:
    nn = pytest.importorskip("torch.nn")

    class Forgetful(nn.Module):
        def __init__(self, weight: Any) -> None:
            self.size = 3
            self.weight = weight

    assert Forgetful(None).size == 3
    linear = nn.Linear(1, 1)
    for weight in (linear, linear.weight):
        with pytest.raises(AttributeError, match=r"before Module\.__init__"):
            Forgetful(weight)

    class Counting:
        def __init__(self) -> None:
            self.count = 0

    class Ends(nn.Module, Counting): ...

    class PassesOn(nn.Module, Counting):
        call_super_init = True

    assert not hasattr(Ends(), "count")
    assert PassesOn().count == 0


# ---- pictures --------------------------------------------------------------------


def texts_of(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter() if each.text]


def test_the_picture_numbers_the_classes_in_their_order() -> None:
    texts = texts_of(draw_hierarchy("D", DIAMOND).svg)
    order = ["D", "B", "C", "A", "object"]
    assert {name: texts[texts.index(name) + 1] for name in order} == {
        name: str(number) for number, name in enumerate(order, 1)
    }


def test_where_two_rules_disagree_the_numbers_are_filled() -> None:
    svg = draw_hierarchy("D", DIAMOND, ("breadth_first", "depth_first")).svg
    tree = ElementTree.fromstring(svg)
    circles = [each for each in tree.iter() if each.tag.endswith("circle")]
    filled = [each for each in circles[2:] if each.get("fill") != "none"]
    assert len(filled) == 2 * 2 + 1  # C and A twice, object only in one of the orders


def test_the_merge_is_drawn_step_by_step() -> None:
    svg = draw_merge("D", DIAMOND).svg
    taken = [
        each.text
        for each in ElementTree.fromstring(svg).iter()
        if each.get("font-weight") == "bold"
    ]
    assert taken == ["B", "C", "A", "o"]
    assert texts_of(draw_merge("K", SERIOUS).svg).count("none") == 1


@pytest.mark.parametrize("bases", [DIAMOND, KNOTTY])
def test_pictures_follow_the_theme(bases: dict[str, Any]) -> None:
    name = list(bases)[-1]
    for picture in (draw_hierarchy(name, bases, RULES[:3]), draw_merge(name, bases)):
        assert "currentColor" in picture.svg
        assert "viewBox" in picture.svg
        width = float(ElementTree.fromstring(picture.svg).get("viewBox").split()[2])
        xs = [
            float(each.get("x"))
            for each in ElementTree.fromstring(picture.svg).iter()
            if each.get("x")
        ]
        assert 0 <= min(xs) <= max(xs) <= width


def test_the_recording_is_what_this_version_says() -> None:
    path = ROOT / "benchmarks/results/cpython/inheritance.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    assert {"3.11", "3.12", "3.13"} <= set(recorded["data"])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if recorded["versions"].get(here) != platform.python_version():
        pytest.skip("recorded with another release")
    script = ROOT / "benchmarks/inheritance.py"
    ran = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    now = json.loads(ran.stdout)
    same = [key for key in now if not key.endswith("ratio")]
    before = recorded["data"][here]
    assert {key: now[key] for key in same} == {key: before[key] for key in same}
