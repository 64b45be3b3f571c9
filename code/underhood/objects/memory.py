"""The first bytes of every object in CPython, read where they lie.

Every object begins with a reference count and a pointer to its type
(`PyObject` in CPython's `Include/object.h`). The layout of the count has changed:
one word through 3.11; a word whose lower half marks immortality in 3.12 and 3.13
(PEP 683); half a word beside flags in 3.14; two counts and an owner thread where
there is no GIL (PEP 703).
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from dataclasses import dataclass
from typing import Any

Fields = tuple[tuple[str, Any], ...]


def header_fields(
    version: tuple[int, int], *, free_threaded: bool, bits: int, byteorder: str
) -> Fields:
    """The fields of `PyObject` as `ctypes` types, in the order of memory.

    Args:
        version: of CPython, (3, 11) or later.
        free_threaded: whether the interpreter is built without the GIL.
        bits: of a pointer, 32 or 64.
        byteorder: "little" or "big".

    Source: `Include/object.h` of CPython 3.11, 3.12, 3.13 and 3.14.
    """
    if version < (3, 11):
        raise ValueError(f"version: got {version}; allowed is (3, 11) or later")
    if bits not in (32, 64):
        raise ValueError(f"bits: got {bits}; allowed are 32 and 64")
    signed = ctypes.c_int64 if bits == 64 else ctypes.c_int32
    pointer = ctypes.c_uint64 if bits == 64 else ctypes.c_uint32
    if free_threaded:
        flags = "ob_flags" if version >= (3, 14) else "_padding"
        return (
            ("ob_tid", pointer),  # the thread that owns the object
            (flags, ctypes.c_uint16),
            ("ob_mutex", ctypes.c_uint8),
            ("ob_gc_bits", ctypes.c_uint8),
            ("ob_ref_local", ctypes.c_uint32),  # counted by the owner, no atomics
            ("ob_ref_shared", signed),  # counted by all others, << 2
            ("ob_type", pointer),
        )
    if version >= (3, 14) and bits == 64:
        count: Fields = (
            ("ob_refcnt", ctypes.c_uint32),
            ("ob_overflow", ctypes.c_uint16),
            ("ob_flags", ctypes.c_uint16),
        )
        if byteorder == "big":
            count = count[::-1]
        return (*count, ("ob_type", pointer))
    return (("ob_refcnt", signed), ("ob_type", pointer))


FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
FIELDS = header_fields(
    sys.version_info[:2],
    free_threaded=FREE_THREADED,
    bits=8 * ctypes.sizeof(ctypes.c_void_p),
    byteorder=sys.byteorder,
)


class PyObject(ctypes.Structure):
    """The header as the running interpreter lays it out."""

    _fields_ = list(FIELDS)


@dataclass(frozen=True)
class Header:
    """What the header of one object said when it was read.

    Attributes:
        address: where the object lies.
        refcount: references to the object; of no meaning where it is immortal.
        immortal: whether the interpreter has given up counting (3.12 and later).
        type_address: where the object's type lies.
        raw: every field by its name in C.
    """

    address: int
    refcount: int
    immortal: bool
    type_address: int
    raw: dict[str, int]


def header(obj: object) -> Header:
    """Read the header of `obj` from memory. Nothing is written.

    The count is what the header holds during the call: as with
    `sys.getrefcount`, the call's own argument is one more reference.

    Raises:
        NotImplementedError: not CPython, where an id is no address; or a
            build that chains all objects (`Py_TRACE_REFS`): a longer header.
    """
    if sys.implementation.name != "cpython":
        name = sys.implementation.name
        raise NotImplementedError(f"header: {name} has another one")
    if ctypes.sizeof(PyObject) != object.__basicsize__:
        raise NotImplementedError(
            f"header: this build's takes {object.__basicsize__} bytes, "
            f"not {ctypes.sizeof(PyObject)}"
        )
    address = id(obj)
    view = PyObject.from_address(address)
    raw = {name: int(getattr(view, name)) for name, _ in FIELDS}
    return Header(
        address=address,
        refcount=refcount_of(raw),
        immortal=is_immortal(raw, bits=8 * ctypes.sizeof(ctypes.c_void_p)),
        type_address=raw["ob_type"],
        raw=raw,
    )


def refcount_of(raw: dict[str, int]) -> int:
    """The count that the fields of a header add up to (`Py_REFCNT`)."""
    if "ob_ref_local" in raw:
        # The two lowest bits of the shared count are flags.
        return raw["ob_ref_local"] + (raw["ob_ref_shared"] >> 2)
    return raw["ob_refcnt"]


def is_immortal(
    raw: dict[str, int],
    *,
    bits: int,
    version: tuple[int, int] = (sys.version_info[0], sys.version_info[1]),
) -> bool:
    """Whether the fields of a header mark an immortal object (`_Py_IsImmortal`)."""
    if version < (3, 12):
        return False
    if "ob_ref_local" in raw:
        return raw["ob_ref_local"] == 2**32 - 1
    if bits == 64:
        return bool(raw["ob_refcnt"] & 2**31)  # the sign of the lower half
    smallest = 2**30 if version >= (3, 14) else 2**30 - 1
    return raw["ob_refcnt"] >= smallest
