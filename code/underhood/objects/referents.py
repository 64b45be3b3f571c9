"""What one object refers to, reference by reference, and its repr in few words."""

from __future__ import annotations

import dataclasses
import gc
import re
import types
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

Held = tuple[str, object]

ATOMS = (int, float, complex, bool, str, bytes, type(None), type(...), range, slice)
VALUES = 18  # characters of a repr that are shown
KEYS = 12  # characters of a key that are shown
SORTED = 1000  # a set up to this size is shown in a stable order


def follow(obj: object, limit: int) -> tuple[list[Held], int]:
    """The first `limit` references that `obj` holds, and the number of the others.

    The number is -1 where only walking on would tell, and there are some.
    """
    references = _references(obj)
    shown = list(islice(references, limit))
    size = _size(obj)
    if size is not None:
        return shown, size - len(shown)
    return shown, -1 if next(references, None) is not None else 0


def _references(obj: object) -> Iterator[Held]:
    kind = type(obj)
    if kind in ATOMS:
        return
    for base, items in _CONTAINERS.items():
        if issubclass(kind, base):
            yield from items(obj)
            break
    else:
        if issubclass(kind, (type, types.ModuleType)):
            yield from _class_attributes(obj)
        elif kind in _PARTS:
            for name in _PARTS[kind]:
                part = getattr(obj, name)
                if part is not None:
                    yield f".{name}", part
        elif not _is_heap_type(kind):
            yield from (("→", part) for part in gc.get_referents(obj) if part is not kind)
    yield from _attributes(obj)


def _size(obj: object) -> int | None:
    """How many references `_references` gives, where that is known at once."""
    kind = type(obj)
    if kind in (list, tuple, set, frozenset):
        return len(obj)  # type: ignore[arg-type]
    return None


def _sequence_items(obj: Any) -> Iterator[Held]:
    walk = list.__iter__ if isinstance(obj, list) else tuple.__iter__
    for k, item in enumerate(walk(obj)):
        yield f"[{k}]", item


def _dict_items(obj: Any) -> Iterator[Held]:
    for k, (key, value) in enumerate(dict.items(obj)):
        if type(key) in ATOMS:
            yield f"[{cut(short_repr(key), KEYS)}]", value
        else:
            yield f"key {k}", key
            yield f"value {k}", value


def _set_items(obj: Any) -> Iterator[Held]:
    items = islice(frozenset(obj), SORTED) if len(obj) > SORTED else frozenset(obj)
    in_order = sorted(items, key=lambda item: (type(item).__name__, short_repr(item)))
    return (("∈", item) for item in in_order)


def _class_attributes(obj: Any) -> Iterator[Held]:
    """Of a class or module, what its author wrote: not `__module__` and its like."""
    for name, value in list(vars(obj).items()):
        if not (name.startswith("__") and name.endswith("__")):
            yield f".{name}", value


def _attributes(obj: object) -> Iterator[Held]:
    """The instance's own: `__dict__` and `__slots__`, past any `__getattribute__`."""
    if isinstance(obj, (type, types.ModuleType)):
        return
    try:
        own = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        for name, value in list(own.items()):
            yield f".{name}", value
    for cls in type(obj).__mro__:
        if "__slots__" not in vars(cls):
            continue
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    yield f".{name}", member.__get__(obj)
                except AttributeError:
                    continue  # a slot that nothing was assigned to


def _is_heap_type(kind: type) -> bool:
    """Whether a `class` statement (or its like) made the type."""
    return bool(kind.__flags__ & 1 << 9)


_CONTAINERS: dict[type, Callable[[Any], Iterator[Held]]] = {
    list: _sequence_items,
    tuple: _sequence_items,
    dict: _dict_items,
    set: _set_items,
    frozenset: _set_items,
}
# A function also refers to its module's globals and its code: not drawn.
_PARTS: dict[type, tuple[str, ...]] = {
    types.FunctionType: ("__defaults__", "__kwdefaults__", "__closure__"),
    types.MethodType: ("__self__", "__func__"),
    types.BuiltinFunctionType: (),
    types.CodeType: (),
    types.FrameType: (),
    memoryview: ("obj",),
}


def is_mutable(obj: object) -> bool:
    """Whether the type of `obj` offers operations that change it."""
    kind = type(obj)
    if issubclass(kind, type):
        return True
    if dataclasses.is_dataclass(kind):
        return not kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    frozen = (*ATOMS, tuple, frozenset, types.MappingProxyType, types.CodeType)
    return kind not in (*frozen, types.BuiltinFunctionType, types.MethodType)


def short_repr(obj: object, *, bare: bool = True) -> str:
    """The repr in a few characters, on one line, the same in every run.

    Args:
        obj: any object; a `__repr__` that raises is named, not propagated.
        bare: whether the picture shows nothing else of the object; if not, only a
            type or a function has a name to show.
    """
    if isinstance(obj, (type, types.FunctionType, types.MethodType)):
        return cut(_clean(getattr(obj, "__qualname__", "")), VALUES)
    if isinstance(obj, types.ModuleType):
        return cut(_clean(obj.__name__), VALUES)
    if not bare:
        return ""
    if type(obj) in (list, tuple, dict, set, frozenset):
        empty = not obj
        return repr(obj) if empty else ""
    if type(obj).__repr__ is object.__repr__:
        return ""
    if type(obj) in (str, bytes):
        obj = obj[: 2 * VALUES]  # type: ignore[index]
    try:
        text = repr(obj)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's __repr__ raises
        text = f"repr: {type(error).__name__}"
    return cut(re.sub(r" at 0x[0-9a-fA-F]+", "", _clean(text)), VALUES)


def width(text: str) -> int:
    """Columns in a font of fixed width: two for Chinese and its like."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, cut with `…`."""
    if width(text) <= limit:
        return text
    while width(text) > limit - 1:
        text = text[:-1]
    return text + "…"


def _clean(text: str) -> str:
    """On one line, and nothing that XML does not allow."""
    return "".join(c if c.isprintable() else "·" for c in " ".join(text.split()))
