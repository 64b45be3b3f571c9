"""A debugger on `sys.settrace`: a function that the interpreter calls per line.

It stops where pdb stops; the rules are those of the standard library's `bdb`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from underhood.debugging.transcript import Stop

COMMANDS = ("step", "next", "return", "continue", "quit")
GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

Ask = Callable[[Stop, Mapping[str, Any]], str]


class Quit(BaseException):
    """Leaves the program that is being debugged."""


class TraceDebugger:
    """Runs a script and asks at each stop how to go on.

    Args:
        ask: gets the stop and the local variables there; answers "step" (to
            the next event anywhere), "next" (not into calls), "return" (to the
            end of this function), "continue" (to a breakpoint) or "quit".
        same_line: whether a loop on one line stops in each round, as in the
            pdb of 3.13.0 and before, but not of 3.14.

    Only files in the folder of the script are debugged, not the library's.
    What pdb does after "return" in a generator is not modelled.
    """

    def __init__(self, ask: Ask, *, same_line: bool = False) -> None:
        self.ask = ask
        self.same_line = same_line
        self.breakpoints: dict[tuple[str, int], CodeType] = {}
        self.stops: list[Stop] = []

    def set_break(self, file: Path, line: int, condition: str = "") -> None:
        """Stop at a line; with a condition, only where it is true.

        Raises:
            ValueError: `line` is below 1.
            SyntaxError: `condition` is no expression.
        """
        if line < 1:
            raise ValueError(f"line: got {line}; lines count from 1")
        test = compile(condition or "True", "<condition>", "eval")
        self.breakpoints[str(file.resolve()), line] = test

    def run(self, script: Path) -> list[Stop]:
        """Run a script from its first line; what it raises comes through.

        Returns:
            The stops, in order; files are relative to the script's folder.
        """
        path = script.resolve()
        self.stops = []
        self._folder = os.path.join(path.parent, "")
        self._main = compile(path.read_bytes(), str(path), "exec")
        sys.path.insert(0, str(path.parent))
        self._go("step", None)
        self._listen()
        try:
            exec(self._main, {"__name__": "__main__", "__file__": str(path)})
        except Quit:
            pass
        finally:
            self._close()
            sys.path.remove(str(path.parent))
        return self.stops

    def _listen(self) -> None:
        sys.settrace(self._trace)

    def _close(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Called once per call; what it returns is then called per line."""
        if not frame.f_code.co_filename.startswith(self._folder):
            return None
        self._report(event, frame)
        return self._trace

    def _report(self, event: str, frame: FrameType) -> None:
        """Something is about to happen in one of our frames: is it a stop?"""
        if event == "line" and self._came_from == (frame, frame.f_lineno):
            return
        if self._is_due(event, frame) or self._breaks_at(event, frame):
            self._stop(event, frame)

    def _is_due(self, event: str, frame: FrameType) -> bool:
        if self._anywhere:  # except where the script itself begins
            return event != "call" or frame.f_code is not self._main
        if event == "return":
            yields = frame.f_code.co_flags & GENERATORS
            return not yields and frame in (self._frame, self._leaving)
        return event != "call" and frame is self._frame

    def _breaks_at(self, event: str, frame: FrameType) -> bool:
        place = frame.f_code.co_filename, frame.f_lineno
        test = self.breakpoints.get(place) if event == "line" else None
        try:
            return bool(test and eval(test, frame.f_globals, frame.f_locals))
        except Exception:
            return True  # as pdb does: better one stop too many

    def _stop(self, event: str, frame: FrameType) -> None:
        code = frame.f_code
        file = code.co_filename.removeprefix(self._folder)
        self.stops.append(Stop(event, file, frame.f_lineno, code.co_name))
        self._close()  # no stop on the way out if this is the end
        command = self.ask(self.stops[-1], frame.f_locals)
        if command not in COMMANDS:
            raise ValueError(f"ask: got {command!r}; allowed are {COMMANDS}")
        if command == "quit":
            raise Quit
        if command == "next" and event == "return":
            command = "step"  # this frame has no next line; its caller has
        self._go(command, frame)
        self._listen()

    def _go(self, command: str, frame: FrameType | None) -> None:
        """Where to stop next: anywhere, in one frame, or at breakpoints."""
        caller = frame.f_back if frame else None
        self._anywhere, self._waits = command == "step", command == "continue"
        self._frame = {"next": frame, "return": caller}.get(command)
        self._leaving = frame if command == "return" else None
        moves = command in ("step", "next") and not self.same_line
        self._came_from = (frame, frame.f_lineno) if frame and moves else None
