"""The debugger on `sys.settrace`: a function that the interpreter calls per line."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from underhood.debugging.debugger import Debugger


class TraceDebugger(Debugger):
    """The way of `bdb` and pdb; works on every version of Python."""

    def _start(self) -> None:
        sys.settrace(self._entered)

    def _end(self) -> None:
        sys.settrace(None)

    def _watch(self, frame: FrameType) -> None:
        # A frame that was entered untraced is traced from here on.
        caller: FrameType | None = frame
        while caller is not None and self._is_ours(caller.f_code):
            caller.f_trace = self._traced
            caller = caller.f_back

    def _entered(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Called once per call; what it returns is then called per line."""
        if not self._is_ours(frame.f_code):
            return None
        self.on_call(frame)
        if self._running and frame.f_code.co_filename not in self._files:
            return None
        return self._traced

    def _traced(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.on_line(frame)
        elif event == "return":
            self.on_return(frame)
        elif event == "exception":
            self.on_exception(frame)
        return self._traced
