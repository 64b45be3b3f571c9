"""Facts about objects, measured on the interpreter that runs this file.

Standard library only. Prints one JSON object:

    python3.13 benchmarks/objects.py
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any


def small_int_bounds() -> tuple[int, int]:
    """The range of integers that exist once: two parses give one object."""

    def shared(number: int) -> bool:
        text = str(number)
        return int(text) is int(text)

    low = high = 0
    while shared(low - 1):
        low -= 1
    while shared(high + 1):
        high += 1
    return low, high


def same_after(source: str, *more: str) -> bool:
    """Whether `x is y` after running each source as a code object of its own."""
    namespace: dict[str, Any] = {}
    for text in (source, *more):
        exec(compile(text, "<probe>", "exec"), namespace)
    return namespace["x"] is namespace["y"]


def refcount_of_a_local() -> int:
    fresh: list[int] = []
    return sys.getrefcount(fresh)


def locals_is_one_dictionary() -> bool:
    first = locals()
    second = locals()
    return first is second


def frame_writes_reach_locals() -> bool:
    value = 1
    sys._getframe().f_locals["value"] = 2
    return value == 2


def comprehension_runs_in() -> str:
    names = [sys._getframe().f_code.co_name for _ in (1,)]
    return names[0]


def annotations_are_lazy() -> bool:
    source = "def f(x: not_defined_yet): pass"
    try:
        # Without this file's `from __future__ import annotations`.
        exec(compile(source, "<probe>", "exec", dont_inherit=True), {})
    except NameError:
        return False
    return True


def warning_of(source: str) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compile(source, "<probe>", "eval")
    return caught[0].category.__name__ if caught else ""


def facts() -> dict[str, Any]:
    low, high = small_int_bounds()
    sizes: dict[str, Callable[[], object]] = {
        "0": lambda: 0,
        "1": lambda: 1,
        "2**30": lambda: 2**30,
        "2**60": lambda: 2**60,
        "1.0": lambda: 1.0,
        "''": lambda: "",
        "()": lambda: (),
        "[]": lambda: [],
        "{}": lambda: {},
        "object()": object,
    }
    return {
        "pointer_bits": sys.maxsize.bit_length() + 1,
        "small_int_low": low,
        "small_int_high": high,
        "literals_merged_in_one_code": same_after("x = 257; y = 257"),
        "literals_merged_across_codes": same_after("x = 257", "y = 257"),
        "joined_is_literal": same_after("x = ''.join(['ab', 'c']); y = 'abc'"),
        "interned_is_literal": same_after(
            "import sys; x = sys.intern(''.join(['ab', 'c'])); y = 'abc'"
        ),
        "getrefcount_8": sys.getrefcount(8),
        "getrefcount_None": sys.getrefcount(None),
        "getrefcount_local": refcount_of_a_local(),
        "sizes": {name: sys.getsizeof(make()) for name, make in sizes.items()},
        "header_bytes": object.__basicsize__,
        "warning_is_literal": warning_of("x is 257"),
        "locals_is_one_dictionary": locals_is_one_dictionary(),
        "frame_writes_reach_locals": frame_writes_reach_locals(),
        "comprehension_runs_in": comprehension_runs_in(),
        "annotations_are_lazy": annotations_are_lazy(),
        "copy_replace": hasattr(copy, "replace"),
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
