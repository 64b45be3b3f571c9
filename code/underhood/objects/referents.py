"""What one object refers to, reference by reference, and its repr in few words."""

from __future__ import annotations

import datetime
import decimal
import fractions
import gc
import pathlib
import re
import types
import unicodedata
import uuid
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

Held = tuple[str, object]

ATOMS = (int, float, complex, bool, str, bytes, type(None), type(...), range)
VALUES = 18  # characters of a repr that are shown
KEYS = 12  # characters of a key that are shown
SORTED = 1000  # a set up to this size is shown in a stable order


def follow(obj: object, limit: int) -> tuple[list[Held], int]:
    """The first `limit` references that `obj` holds, and the number of the others.

    References are items of containers, attributes, and else what the garbage
    collector would traverse. A long list, tuple or set is not read to its end.
    """
    items, size = _items(obj)
    others = [] if _one_of(type(obj), ATOMS) else _attributes(obj) + _parts(obj)
    shown = list(islice(chain(items, others), limit))
    return shown, size + len(others) - len(shown)


def _is(obj: Any, *kinds: type) -> bool:
    """`isinstance` by the true type: `isinstance` also asks `obj.__class__`."""
    return issubclass(type(obj), kinds)


def _one_of(kind: type, kinds: tuple[type, ...]) -> bool:
    """`kind in kinds` by identity: `in` also asks the metaclass what is equal."""
    return id(kind) in map(id, kinds)


def _items(obj: Any) -> tuple[Iterator[Held], int]:
    """What the built-in container in `obj` holds, past any overridden method."""
    if _is(obj, list, tuple):
        base = list if _is(obj, list) else tuple
        walk = enumerate(base.__iter__(obj))
        return ((f"[{k}]", item) for k, item in walk), base.__len__(obj)
    if _is(obj, dict):
        return _dict_items(obj), sum(map(_key_references, dict.keys(obj)))
    if _is(obj, set, frozenset):
        base_set = set if _is(obj, set) else frozenset
        return _set_items(base_set.__iter__(obj)), base_set.__len__(obj)
    return iter(()), 0


def _key_references(key: object) -> int:
    """An atom is written beside its value; any other key is a reference of its own."""
    return 1 if _one_of(type(key), ATOMS) else 2


def _dict_items(obj: Any) -> Iterator[Held]:
    for k, (key, value) in enumerate(dict.items(obj)):
        if _one_of(type(key), ATOMS):
            yield f"[{cut(short_repr(key), KEYS)}]", value
        else:
            yield f"key {k}", key
            yield f"value {k}", value


def _set_items(items: Iterator[object]) -> Iterator[Held]:
    def key(item: object) -> tuple[str, str]:
        return type_name(item), short_repr(item)

    return (("∈", item) for item in sorted(islice(items, SORTED), key=key))


def _attributes(obj: object) -> list[Held]:
    """Attributes that `obj` itself holds: in its `__dict__` and its `__slots__`.

    Of a class or a module only those that its author wrote, not `__module__` and
    its like.
    """
    own = list(_own_dict(obj).items())
    if _is(obj, type, types.ModuleType):
        own = [held for held in own if not held[0].startswith("__")]
    for namespace in _class_namespaces(type(obj)):
        if "__slots__" not in namespace:
            continue
        for name, member in namespace.items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    own.append((name, member.__get__(obj)))
                except AttributeError:
                    continue  # a slot that nothing was assigned to
    return [(f".{name}", value) for name, value in own]


def _class_namespaces(kind: type) -> list[Mapping[str, Any]]:
    """Those of a class and its bases, past any metaclass."""
    bases = type.__getattribute__(kind, "__mro__")
    return [type.__getattribute__(base, "__dict__") for base in bases]


def type_name(obj: object) -> str:
    """The name of the true type, past any metaclass."""
    return str(type.__getattribute__(type(obj), "__name__"))


def _own_dict(obj: object) -> Mapping[str, object]:
    if _is(obj, type):
        return type.__getattribute__(obj, "__dict__")
    try:
        own = object.__getattribute__(obj, "__dict__")
    except Exception:  # it has none, or its class defines one that raises
        return {}
    return own if _is(own, dict) else {}


def _parts(obj: object) -> list[Held]:
    """What built-in objects other than containers refer to."""
    kind = type(obj)
    for known_kind, names in _PARTS.items():
        if kind is known_kind:
            parts = [(f".{name}", getattr(obj, name)) for name in names]
            return [
                (n, o) for n, o in parts if not _is(o, type(None), types.ModuleType)
            ]
    if _is(obj, *_CONTAINERS, type, types.ModuleType):
        return []
    own = _own_dict(obj)
    known = {id(own), *(id(value) for _, value in _attributes(obj))}
    label = ".cell_contents" if kind is types.CellType else "→"
    return [
        (label, part)
        for part in gc.get_referents(obj)
        if id(part) not in known and not _is(part, type, types.ModuleType)
    ]


_CONTAINERS = (list, tuple, dict, set, frozenset)
# A function also refers to its module's globals and its code: not drawn.
_PARTS: dict[type, tuple[str, ...]] = {
    types.FunctionType: ("__defaults__", "__kwdefaults__", "__closure__"),
    types.MethodType: ("__self__", "__func__"),
    types.BuiltinFunctionType: ("__self__",),  # of a function: its module
    types.CodeType: (),
    types.FrameType: (),
    memoryview: ("obj",),
}


_IMMUTABLE = (
    *ATOMS,
    type(NotImplemented),
    slice,
    tuple,
    frozenset,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    decimal.Decimal,
    fractions.Fraction,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    re.Pattern,
    uuid.UUID,
    types.BuiltinFunctionType,
    types.CodeType,
    types.GenericAlias,
    types.MappingProxyType,
    types.MethodType,
    types.UnionType,
)


def is_mutable(obj: object) -> bool:
    """Whether the type of `obj` offers operations that change it.

    Known to offer none: frozen dataclasses, the immutable types that are built in or
    well known in the standard library, and what inherits from one of those and adds
    no attributes, such as a named tuple. All others count as mutable.
    """
    kind = type(obj)
    if issubclass(kind, type):
        return True
    namespaces = _class_namespaces(kind)
    if kind is object:
        return False
    has_dict = type.__getattribute__(kind, "__dictoffset__") != 0
    bases = type.__getattribute__(kind, "__mro__")
    for base, namespace in zip(bases, namespaces, strict=True):
        if "__dataclass_params__" in namespace:
            frozen = namespace["__dataclass_params__"].frozen
            return not frozen or (base is not kind and has_dict)
        if any(base is known for known in _IMMUTABLE):
            return base is not kind and has_dict
        if namespace.get("__slots__"):
            return True
    return True


def short_repr(obj: object, *, bare: bool = True) -> str:
    """The repr in a few characters, on one line, the same in every run.

    Args:
        obj: any object; a `__repr__` that raises is named, not propagated.
        bare: whether the picture shows nothing else of the object; if not, only a
            type or a function has a name to show.
    """
    try:
        text = _own_name(obj) or (_value(obj) if bare else "")
    except Exception as error:  # whatever a stranger's __repr__ raises
        text = f"repr: {type(error).__name__}"
    return cut(re.sub(r" at 0x[0-9a-fA-F]+", "", _clean(text)), VALUES)


def _own_name(obj: Any) -> str:
    if _is(obj, type):
        return str(type.__getattribute__(obj, "__name__"))
    named = (types.FunctionType, types.MethodType, types.ModuleType)
    return str(obj.__name__) if _is(obj, *named) else ""


def _value(obj: Any) -> str:
    kind = type(obj)
    if _one_of(kind, _CONTAINERS):
        return "" if obj else repr(obj)
    if kind is int and obj.bit_length() > 99:
        return f"of {obj.bit_length()} bits"
    if _one_of(kind, (str, bytes)):
        obj = obj[: 2 * VALUES]
    text = repr(obj)
    return "" if text == object.__repr__(obj) else text


def width(text: str) -> int:
    """Columns in a font of fixed width: two for Chinese and its like."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, cut with `…`."""
    text = text[: limit + 1]
    if width(text) <= limit:
        return text
    while width(text) > limit - 1:
        text = text[:-1]
    return text + "…"


def _clean(text: str) -> str:
    """On one line, and nothing that XML does not allow."""
    words = " ".join(text[:1000].split())
    return "".join(c if c.isprintable() else "·" for c in words)
