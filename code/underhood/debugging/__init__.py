"""Sessions with the real pdb, and two small debuggers that stop where it does."""

from pathlib import Path

from underhood.debugging.monitoring_debugger import MonitoringDebugger
from underhood.debugging.pictures import jump_map, path_of_stops, stack
from underhood.debugging.session import run_pdb, write_script
from underhood.debugging.settrace_debugger import TraceDebugger
from underhood.debugging.transcript import (
    Exchange,
    Frame,
    Stop,
    Transcript,
    frames_in,
    stops_in,
)

DEMO = Path(__file__).with_name("demo")  # the chapter's program

__all__ = [
    "DEMO",
    "Exchange",
    "Frame",
    "MonitoringDebugger",
    "Stop",
    "TraceDebugger",
    "Transcript",
    "frames_in",
    "jump_map",
    "path_of_stops",
    "run_pdb",
    "stack",
    "stops_in",
    "write_script",
]
