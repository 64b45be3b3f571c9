"""Reference counts and the cycle collector of CPython: a model, held to the original.

`Heap` is the model. `Interpreter` has its methods and makes real objects; `compare`
runs one random program on both. The other functions watch the running interpreter, or
draw.
"""

from underhood.garbage_collection.collector import Snapshot
from underhood.garbage_collection.heap import Heap
from underhood.garbage_collection.interpreter import Interpreter
from underhood.garbage_collection.live import (
    Node,
    collector_kind,
    drop_cycles,
    fresh_interpreter,
    model_schedule,
    quiet_collector,
    real_schedule,
    real_schedule_alone,
)
from underhood.garbage_collection.picture import draw_collection, draw_heap
from underhood.garbage_collection.programs import Outcome, compare

__all__ = [
    "Heap",
    "Interpreter",
    "Node",
    "Outcome",
    "Snapshot",
    "collector_kind",
    "compare",
    "draw_collection",
    "draw_heap",
    "drop_cycles",
    "fresh_interpreter",
    "model_schedule",
    "quiet_collector",
    "real_schedule",
    "real_schedule_alone",
]
