"""Sessions with the real pdb, and two small debuggers that stop where it does."""

from underhood.debugging.debugger import Debugger
from underhood.debugging.monitoring_debugger import MonitoringDebugger
from underhood.debugging.session import run_pdb, write_script
from underhood.debugging.settrace_debugger import TraceDebugger
from underhood.debugging.transcript import Exchange, Stop, Transcript, stops_in

__all__ = [
    "Debugger",
    "Exchange",
    "MonitoringDebugger",
    "Stop",
    "TraceDebugger",
    "Transcript",
    "run_pdb",
    "stops_in",
    "write_script",
]
