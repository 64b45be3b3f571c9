"""The debugger on `sys.monitoring` (PEP 669): events that can be switched off."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from underhood.debugging.debugger import Ask, Debugger


class MonitoringDebugger(Debugger):
    """The way of pdb's newer backend. While it looks for breakpoints, a line
    without one reports itself once and then runs at full speed.

    Raises:
        RuntimeError: this Python has no `sys.monitoring`; it came with 3.12.
    """

    def __init__(self, ask: Ask, *, same_line: bool = False) -> None:
        if not hasattr(sys, "monitoring"):
            raise RuntimeError("sys.monitoring needs CPython 3.12 or later")
        super().__init__(ask, same_line=same_line)
        self._monitoring: Any = sys.monitoring
        self._tool = self._monitoring.DEBUGGER_ID

    def _start(self) -> None:
        self._monitoring.use_tool_id(self._tool, "underhood.debugging")
        events = self._monitoring.events
        reports = {
            events.LINE: self._line,
            events.JUMP: self._jumped,
            events.PY_START: self._entered,
            events.PY_RESUME: self._entered,
            events.PY_RETURN: self._left,
            events.PY_YIELD: self._left,
            events.PY_UNWIND: self._unwound,
            events.RAISE: self._raised,
        }
        for event, report in reports.items():
            self._monitoring.register_callback(self._tool, event, report)
        self._all = sum(reports)  # each event is one bit
        self._monitoring.set_events(self._tool, self._all)

    def _end(self) -> None:
        self._monitoring.set_events(self._tool, 0)
        self._monitoring.free_tool_id(self._tool)

    def _watch(self, frame: FrameType) -> None:
        events = self._monitoring.events
        breaks_only = events.LINE | events.JUMP
        wanted = breaks_only if self._running else self._all
        self._monitoring.set_events(self._tool, wanted)
        self._monitoring.restart_events()  # what was switched off reports again

    # The frame that an event is about is the one that called the report.

    def _line(self, code: CodeType, line: int, depth: int = 1) -> Any:
        if not self._is_ours(code):
            return self._monitoring.DISABLE
        if self._running and (code.co_filename, line) not in self.breakpoints:
            return self._monitoring.DISABLE
        self.on_line(sys._getframe(depth))
        return None

    def _jumped(self, code: CodeType, offset: int, target: int) -> Any:
        """A loop on a single line is one LINE; a tracer sees each of its rounds."""
        lines = [line for line, *_ in code.co_positions()]  # one for two bytes
        line = lines[offset // 2]
        if target > offset or line is None or line != lines[target // 2]:
            return self._monitoring.DISABLE
        return self._line(code, line, depth=2)

    def _entered(self, code: CodeType, offset: int) -> Any:
        if not self._is_ours(code):
            return self._monitoring.DISABLE
        self.on_call(sys._getframe(1))
        return None

    def _left(self, code: CodeType, offset: int, value: object) -> Any:
        if not self._is_ours(code):
            return self._monitoring.DISABLE
        self.on_return(sys._getframe(1))
        return None

    def _unwound(self, code: CodeType, offset: int, error: BaseException) -> None:
        if self._is_ours(code):
            self.on_return(sys._getframe(1))

    def _raised(self, code: CodeType, offset: int, error: BaseException) -> None:
        if self._is_ours(code):
            self.on_exception(sys._getframe(1))
