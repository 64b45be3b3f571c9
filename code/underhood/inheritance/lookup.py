"""Attribute lookup and `super()`, as plain Python: a model of what CPython does."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_MISSING: Any = object()
# `type` has its own lookup; its descriptors read a class without asking it.
_mro_of = type.__dict__["__mro__"].__get__
_namespace_of = type.__dict__["__dict__"].__get__


@dataclass(frozen=True)
class Found:
    """An attribute: its value, by which step it was found, and in which class.

    `step` is `"data descriptor"`, `"instance"`, `"non-data descriptor"`,
    `"class attribute"` or `"__getattr__"`; `owner` is None for the instance's own.
    """

    value: Any
    step: str
    owner: type | None


def get_attribute(instance: object, name: str) -> Any:
    """Return what `instance.name` is; see `find_attribute`."""
    return find_attribute(instance, name).value


def find_attribute(instance: object, name: str) -> Found:
    """Look an attribute up as `getattr(instance, name)` does for most objects.

    That is for instances of classes that inherit `object.__getattribute__`, as most
    classes written in Python do. Subclasses of `dict`, `Exception` and other builtins
    inherit another one.

    Raises:
        AttributeError: nothing has it, and no class defines `__getattr__`.
        TypeError: `instance` is a class, or its class has another `__getattribute__`.

    Source: CPython, `_PyObject_GenericGetAttrWithDict` in `Objects/object.c`, and
    `slot_tp_getattr_hook` in `Objects/typeobject.c`.
    """
    hook, owner = find_in_classes(_mro_of(type(instance)), "__getattribute__")
    if hook is not object.__getattribute__:
        raise TypeError(
            f"instance: got {type(instance).__name__}, with the lookup of "
            f"{owner and owner.__name__}; only that of object is modeled"
        )
    try:
        return _find_without_getattr(instance, name)
    except AttributeError:  # also one that a descriptor raised
        fallback, owner = find_in_classes(_mro_of(type(instance)), "__getattr__")
        if owner is None:
            raise
    bound = bind(fallback, instance, type(instance))
    return Found(bound(name), "__getattr__", owner)


def _find_without_getattr(instance: object, name: str) -> Found:
    """The model of `object.__getattribute__`: class, instance, class."""
    cls = type(instance)
    in_class, owner = find_in_classes(_mro_of(cls), name)
    reads = owner is not None and _defines(in_class, "__get__")
    if reads and is_data_descriptor(in_class):
        value = bind(in_class, instance, cls)
        return Found(value, "data descriptor", owner)
    own = instance_namespace(instance)
    if name in own:
        return Found(own[name], "instance", None)
    if owner is None:
        kind = cls.__name__
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")
    step = "non-data descriptor" if reads else "class attribute"
    return Found(bind(in_class, instance, cls), step, owner)


def find_in_classes(classes: Iterable[type], name: str) -> tuple[Any, type | None]:
    """The value in the first class that has `name` in its namespace, and that class."""
    for cls in classes:
        namespace = _namespace_of(cls)
        if name in namespace:
            return namespace[name], cls
    return _MISSING, None


def is_data_descriptor(value: Any) -> bool:
    """Whether it has `__set__` or `__delete__`, as `inspect.isdatadescriptor` says."""
    return _defines(value, "__set__") or _defines(value, "__delete__")


def bind(value: Any, instance: Any, cls: type) -> Any:
    """What a class's attribute gives when it is read: `__get__`, where it has one."""
    getter, owner = find_in_classes(_mro_of(type(value)), "__get__")
    return value if owner is None else getter(value, instance, cls)


def instance_namespace(instance: object) -> dict[str, Any]:
    """The instance's own `__dict__`, even if its class hides it, or an empty one."""
    for cls in _mro_of(type(instance)):
        slot = _namespace_of(cls).get("__dict__")
        if isinstance(slot, types.GetSetDescriptorType):
            own: dict[str, Any] = slot.__get__(instance)
            return own
    return {}


def _defines(value: Any, name: str) -> bool:
    return find_in_classes(_mro_of(type(value)), name)[1] is not None


def _starts(instance: Any) -> Iterator[Any]:
    """What `super` tries as the class whose MRO it walks, in turn."""
    yield instance
    yield type(instance)
    yield getattr(instance, "__class__", None)  # a proxy may name another class


class Super:
    """A model of `super(cls, instance)`: the MRO of the instance, from after `cls`.

    Args:
        cls: the class whose followers are searched.
        instance: an instance of `cls`, or a subclass of it (in class methods), or
            an object that names such a class as its `__class__`.

    Raises:
        TypeError: `instance` is none of these.

    Source: CPython, `supercheck` and `super_getattro` in `Objects/typeobject.c`.
    """

    __slots__ = ("__self__", "__self_class__", "__thisclass__")

    def __init__(self, cls: type, instance: Any) -> None:
        for start in _starts(instance):
            # Not `isinstance`, which believes what is registered with an ABC.
            if type in _mro_of(type(start)) and cls in _mro_of(start):
                break
        else:
            raise TypeError(
                f"instance: got {type(instance).__name__}; an instance or a subclass "
                f"of {cls.__name__} is needed"
            )
        self.__thisclass__ = cls
        self.__self__ = instance
        self.__self_class__ = start

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name == "__class__":  # the only name that `super` keeps to itself
            return own(self, name)
        start = own(self, "__self_class__")
        order = _mro_of(start)
        here = order.index(own(self, "__thisclass__"))
        value, owner = find_in_classes(order[here + 1 :], name)
        if owner is None:
            return own(self, name)
        instance = own(self, "__self__")
        return bind(value, None if instance is start else instance, start)
