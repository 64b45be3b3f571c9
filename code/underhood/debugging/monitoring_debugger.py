"""The debugger on `sys.monitoring` (PEP 669): events that can be switched off."""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from underhood.debugging.settrace_debugger import Ask, TraceDebugger
from underhood.debugging.transcript import Stop


class MonitoringDebugger(TraceDebugger):
    """The same rules; only how it hears of an event is different.

    While it waits for a breakpoint, a line without one reports itself once
    and then runs at full speed. `sys.settrace` hears one thread,
    `sys.monitoring` all of them: only events of the thread that called `run`
    count.

    Raises:
        RuntimeError: this Python has no `sys.monitoring`; it came with 3.12.
    """

    def __init__(self, ask: Ask, *, same_line: bool = False) -> None:
        if not hasattr(sys, "monitoring"):
            raise RuntimeError("sys.monitoring needs CPython 3.12 or later")
        super().__init__(ask, same_line=same_line)
        self._monitoring: Any = sys.monitoring
        self._tool = self._monitoring.DEBUGGER_ID

    def run(self, script: str | Path) -> list[Stop]:
        """As `TraceDebugger.run`; nothing stays registered."""
        events = self._monitoring.events
        self._thread = threading.get_ident()
        self._lines = events.LINE | events.JUMP
        reports = {
            events.LINE: self._line,
            events.JUMP: self._jump,
            events.PY_START: partial(self._event, "call"),
            events.PY_RESUME: partial(self._event, "call"),
            events.PY_THROW: partial(self._event, "call"),
            events.PY_RETURN: partial(self._event, "return"),
            events.PY_YIELD: partial(self._event, "return"),
            events.PY_UNWIND: partial(self._event, "return"),
            events.RAISE: self._raise,
            events.STOP_ITERATION: self._raise,
        }
        self._all = sum(reports)  # each event is one bit
        self._monitoring.use_tool_id(self._tool, "underhood.debugging")
        for event, report in reports.items():
            self._monitoring.register_callback(self._tool, event, report)
        try:
            return super().run(script)
        finally:
            self._monitoring.free_tool_id(self._tool)

    def _listen(self) -> None:
        wanted = self._lines if self._waits else self._all
        self._monitoring.set_events(self._tool, wanted)
        self._monitoring.restart_events()  # lines that were switched off

    def _close(self) -> None:
        self._monitoring.set_events(self._tool, 0)

    # The frame that an event is about is the one that called us.

    def _event(self, event: str, code: CodeType, *_: object) -> None:
        if self._is_ours(code):
            self._report(event, sys._getframe(1))

    def _raise(self, code: CodeType, _: int, error: BaseException) -> None:
        if self._is_ours(code):
            arg = type(error), error, error.__traceback__
            self._report("exception", sys._getframe(1), arg)

    def _is_ours(self, code: CodeType) -> bool:
        ours = code.co_filename.startswith(self._folder)
        return ours and threading.get_ident() == self._thread

    def _line(self, code: CodeType, line: int) -> Any:
        return self._line_of(sys._getframe(1), line)

    def _jump(self, code: CodeType, offset: int, target: int) -> Any:
        """A loop on one line is one LINE; a tracer sees each round of it."""
        lines = [line for line, *_ in code.co_positions()]  # per two bytes
        line = lines[offset // 2]
        if target > offset or line is None or line != lines[target // 2]:
            return self._monitoring.DISABLE
        return self._line_of(sys._getframe(1), line)

    def _line_of(self, frame: FrameType, line: int) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(self._folder):
            return self._monitoring.DISABLE
        if self._waits and (file, line) not in self.breakpoints:
            return self._monitoring.DISABLE
        if threading.get_ident() == self._thread:
            self._report("line", frame)
        return None
