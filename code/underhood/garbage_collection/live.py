"""The collector of the running interpreter, watched from the outside."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager

from underhood.garbage_collection.heap import Heap


def collector_kind() -> str:
    """Which collector runs: "generational", "incremental" or "free-threaded".

    The incremental one was in the default build of CPython 3.14.0 to 3.14.4
    only. It ignores the third threshold and reports it as 0.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "free-threaded"
    if sys.version_info[:2] == (3, 14) and sys.version_info[2] <= 4:
        return "incremental"
    return "generational"


_quiet_blocks = 0  # how many are open


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Leave the collector nothing to find but what the block makes.

    Everything that exists is frozen, no collection starts by itself, and no other
    thread gets the interpreter's lock (a notebook's kernel has several), unless the
    block gives it up: by sleeping, reading, waiting. Blocks may be nested; what they
    froze is unfrozen at the end of the outermost one.
    """
    global _quiet_blocks
    enabled, interval = gc.isenabled(), sys.getswitchinterval()
    threshold = gc.get_threshold()
    _quiet_blocks += 1
    try:
        if _quiet_blocks == 1:
            sys.setswitchinterval(60.0)  # seconds
            time.sleep(2 * interval)  # who waits since before that gets its turn
        gc.collect()
        gc.disable()
        gc.freeze()
        yield
    finally:
        _quiet_blocks -= 1
        sys.setswitchinterval(interval)
        if not _quiet_blocks:
            gc.unfreeze()
        gc.set_threshold(*threshold)
        if enabled:
            gc.enable()


def fresh_interpreter(source: str) -> str:
    """Run `source` in a new interpreter; return what it printed, errors included.

    Raises:
        RuntimeError: it failed; the message ends with what it printed to stderr.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(
            f"source: returned non-zero status {done.returncode}\n{done.stderr}"
        )
    return (done.stdout + done.stderr).strip()


def real_schedule(
    length: int, threshold: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """Keep `length` new lists; return `(lists so far, generation)` per collection."""
    events: list[tuple[int, int]] = []
    keep: list[list[int] | None] = [None] * length
    spare = [Node() for _ in range(length // max(1, threshold[0]) + 1)]

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            events.append((made, info["generation"]))
        elif info["generation"] == 2:
            # A full collection empties the free lists, so that the dict `info` was
            # a real allocation, and counts. Freeing a node evens that out.
            spare.pop()

    others, made = gc.callbacks[:], 0
    with quiet_collector():
        gc.callbacks[:] = [note]
        gc.collect()  # nothing is left: the long-lived total is 0
        events.clear()
        gc.set_threshold(*threshold)
        gc.enable()
        for made in range(1, length + 1):
            keep[made - 1] = []
        gc.disable()
        gc.callbacks[:] = others
    return events


def real_schedule_alone(
    length: int, threshold: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """`real_schedule` in a process of its own: a notebook's threads allocate, too."""
    answer = fresh_interpreter(
        f"import json, sys; sys.path[:] = {sys.path}\n"
        f"from underhood.garbage_collection import real_schedule\n"
        f"print(json.dumps(real_schedule({length}, {threshold})))"
    )
    return [(made, generation) for made, generation in json.loads(answer)]


def model_schedule(
    length: int, threshold: tuple[int, int, int]
) -> list[tuple[int, int]]:
    """What `Heap` does where `real_schedule` asks the interpreter."""
    heap = Heap(threshold)
    events: list[tuple[int, int]] = []
    before = heap.stats
    for made in range(1, length + 1):
        heap.new(str(made))
        after = heap.stats
        events += [
            (made, generation)
            for generation in range(3)
            if after[generation]["collections"] != before[generation]["collections"]
        ]
        before = after
    return events


class Node:
    """An instance that can refer to others; it counts how many of its kind live."""

    alive = 0

    def __init__(self) -> None:
        Node.alive += 1

    def __del__(self) -> None:
        Node.alive -= 1


def drop_cycles(pairs: int, every: int, enabled: bool) -> list[int]:
    """Make and drop `pairs` cycles of two; return how many nodes are alive, sampled.

    Args:
        every: pairs between two samples.
        enabled: whether the collector may start by itself meanwhile.
    """
    if pairs < 1 or every < 1:
        raise ValueError(f"pairs, every: got {pairs}, {every}; allowed are 1 or more")
    samples = []
    with quiet_collector():
        start = Node.alive
        if enabled:
            gc.enable()
        for made in range(pairs):
            if made % every == 0:
                samples.append(Node.alive - start)
            left, right = Node(), Node()
            left.other, right.other = right, left  # type: ignore[attr-defined]
        samples.append(Node.alive - start)
        gc.disable()
        del left, right
        gc.collect()
    return samples
