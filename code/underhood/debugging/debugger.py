"""A debugger without its eyes: where to stop, and what to do there.

It knows nothing of how Python tells it that a line is about to run. The subclasses
do: `TraceDebugger` hears it from `sys.settrace`, `MonitoringDebugger` from
`sys.monitoring`. The rules are those of the standard library's `bdb`.
"""

from __future__ import annotations

import builtins
import inspect
import os
import sys
from abc import ABC, abstractmethod
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


class Debugger(ABC):
    """Runs a script and asks at each stop how to go on.

    Args:
        ask: gets the stop and the local variables there; answers with "step" (to
            the next event anywhere), "next" (not into calls), "return" (to the
            return from this function), "continue" (to a breakpoint) or "quit".
        same_line: whether "step" and "next" stop again on the line that they were
            given on, once per round of a loop that stands on one line. The pdb of
            3.13.0 and before does; that of 3.14 does not.

    Only files in the folder of the script are debugged, not the library's.
    """

    def __init__(self, ask: Ask, *, same_line: bool = False) -> None:
        self.ask = ask
        self.same_line = same_line
        self.breakpoints: dict[tuple[str, int], CodeType | None] = {}
        self.stops: list[Stop] = []
        self._folder = ""  # of the script, with a separator at its end
        self._files: set[str] = set()  # with breakpoints
        self._main: CodeType | None = None
        self._go("step", None)

    def set_break(self, file: str | Path, line: int, condition: str = "") -> None:
        """Stop at a line; with a condition, only where it is true.

        Raises:
            ValueError: `line` is below 1.
            SyntaxError: `condition` is no expression.
        """
        if line < 1:
            raise ValueError(f"line: got {line}; lines count from 1")
        path = str(Path(file).resolve())
        test = compile(condition, "<condition>", "eval") if condition else None
        self.breakpoints[path, line] = test
        self._files.add(path)

    def run(self, script: str | Path) -> list[Stop]:
        """Run a script from its first line; an exception of its own comes through.

        Returns:
            The stops, in order; their files are relative to the script's folder.
        """
        path = Path(script).resolve()
        self._folder = os.path.join(path.parent, "")
        self._main = compile(path.read_bytes(), str(path), "exec")
        module = {"__name__": "__main__", "__file__": str(path)}
        sys.path.insert(0, str(path.parent))
        self._go("step", None)
        self._start()
        try:
            exec(self._main, {**module, "__builtins__": builtins})
        except Quit:
            pass
        finally:
            self._end()
            sys.path.remove(str(path.parent))
        return self.stops

    # What the eyes report.

    def on_line(self, frame: FrameType) -> None:
        if self._came_from == (frame, frame.f_lineno):
            return
        if self._stops_in(frame) or self._breaks_at(frame):
            self._stop("line", frame)

    def on_call(self, frame: FrameType) -> None:
        resumed = self._frame is not None  # "next", and the frame is a generator's
        if self._stops_in(frame) and not resumed and frame.f_code is not self._main:
            self._stop("call", frame)

    def on_return(self, frame: FrameType) -> None:
        if not self._stops_in(frame) and frame is not self._returning:
            return
        if self._frame is not None and frame.f_code.co_flags & GENERATORS:
            return  # a yield: "next" waits until the generator goes on
        self._stop("return", frame)
        if self._frame is frame:
            self._go("step", None)  # its "next" is the next line of its caller

    def on_exception(self, frame: FrameType) -> None:
        if self._stops_in(frame):
            self._stop("exception", frame)

    # The rules.

    def _go(self, command: str, frame: FrameType | None) -> None:
        """Set where to stop next: everywhere, in one frame, or at breakpoints only."""
        self._quitting = command == "quit"
        self._running = command in ("continue", "quit")
        self._frame: FrameType | None = None
        self._returning: FrameType | None = None
        self._came_from: tuple[FrameType, int] | None = None
        if command in ("step", "next") and frame is not None and not self.same_line:
            self._came_from = frame, frame.f_lineno
        if command == "next":
            self._frame = frame
        elif command == "return" and frame is not None:
            self._frame = frame.f_back
            self._returning = frame

    def _stops_in(self, frame: FrameType) -> bool:
        return not self._running and (self._frame is None or frame is self._frame)

    def _breaks_at(self, frame: FrameType) -> bool:
        place = frame.f_code.co_filename, frame.f_lineno
        if place not in self.breakpoints or self._quitting:
            return False
        condition = self.breakpoints[place]
        if condition is None:
            return True
        try:
            return bool(eval(condition, frame.f_globals, frame.f_locals))
        except Exception:
            return True  # as pdb does: better one stop too many

    def _stop(self, event: str, frame: FrameType) -> None:
        code = frame.f_code
        file = code.co_filename.removeprefix(self._folder)
        stop = Stop(event, file, frame.f_lineno, code.co_name)
        self.stops.append(stop)
        self._go("quit", frame)  # if `ask` raises, no stop on the way out
        command = self.ask(stop, frame.f_locals)
        if command not in COMMANDS:
            raise ValueError(f"ask: answered {command!r}; allowed are {COMMANDS}")
        if command == "quit":
            raise Quit
        self._go(command, frame)
        self._watch(frame)

    def _is_ours(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self._folder)

    # What the subclasses add.

    @abstractmethod
    def _start(self) -> None:
        """Open the eyes."""

    @abstractmethod
    def _watch(self, frame: FrameType) -> None:
        """Look where the rules now want to stop."""

    @abstractmethod
    def _end(self) -> None:
        """Close the eyes."""
