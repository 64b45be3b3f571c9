"""A debugger on `sys.settrace`: a function that the interpreter calls per line.

It stops where pdb stops; the rules are those of the standard library's `bdb`.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from underhood.debugging.transcript import Stop

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
    All their frames are traced; pdb leaves out what cannot hold a breakpoint.
    The script's `__name__` is `__main__`, but `sys.modules` does not have it:
    what looks a name up there, as `pickle` does, fails.
    """

    commands: tuple[str, ...] = ("step", "next", "return", "continue", "quit")

    def __init__(self, ask: Ask, *, same_line: bool = False) -> None:
        self.ask = ask
        self.same_line = same_line
        self.breakpoints: dict[tuple[str, int], CodeType] = {}
        self.stops: list[Stop] = []

    def set_break(
        self,
        file: str | Path,
        line: int,
        condition: str = "",
    ) -> None:
        """Stop at a line; with a condition, only where it is true.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: its line is a blank one or a comment, or there is none.
            SyntaxError: `condition` is no expression.
        """
        path = Path(file).resolve()
        lines = path.read_bytes().splitlines()
        text = lines[line - 1].strip() if 0 < line <= len(lines) else b""
        if not text or text.startswith(b"#"):
            where = f"{path.name} has no code there"
            raise ValueError(f"line: got {line}; {where}")
        test = condition or "True"
        self.breakpoints[str(path), line] = _compile(test, path, "eval")

    def run(self, script: str | Path) -> list[Stop]:
        """Run a script; what it raises, or `ask` raises, comes through.

        Returns:
            The stops, in order; files are relative to the script's folder.

        Raises:
            ValueError: `ask` gave another answer than those allowed.
        """
        path = Path(script).resolve()
        self.stops = []
        self._failed: Exception | None = None
        self._folder = os.path.join(path.parent, "")
        self._main = _compile(path.read_bytes(), path, "exec")
        traced_before = sys.gettrace()
        sys.path.insert(0, str(path.parent))
        self._go("step", None, "call")
        self._listen()
        try:
            exec(self._main, {"__name__": "__main__", "__file__": str(path)})
        except Quit:
            pass
        finally:
            self._close()
            sys.settrace(traced_before)
            sys.path.remove(str(path.parent))
        if self._failed:
            raise self._failed
        return self.stops

    def _listen(self) -> None:
        sys.settrace(self._trace)

    def _close(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Called once per call; what it returns is then called per line."""
        if not frame.f_code.co_filename.startswith(self._folder):
            return None
        self._report(event, frame, arg)
        return self._trace

    def _report(self, event: str, frame: FrameType, arg: Any = None) -> None:
        """Something is about to happen in one of our frames: is it a stop?"""
        if event == "line" and self._came_from == (frame, frame.f_lineno):
            return
        if self._is_due(event, frame, arg) or self._breaks_at(event, frame):
            self._stop(event, frame)

    def _is_due(self, event: str, frame: FrameType, arg: Any) -> bool:
        at_goal = frame is self._frame and frame.f_lineno >= self._lowest
        here = self._anywhere or at_goal
        if event == "call":  # but not where the script itself begins
            return self._anywhere and frame.f_code is not self._main
        if event == "return":
            over = self._anywhere or not _is_generator(frame)
            return over and (here or frame is self._leaving)
        if event == "exception":
            kind, _, trail = arg
            if here:  # how an `await` or `yield from` ends is no exception
                inner = kind is StopIteration and trail is None
                return not (inner and _is_generator(frame))
            # A generator that has ended is heard of where it was resumed.
            ended = kind in (StopIteration, GeneratorExit)
            outside = frame is not self._frame and _is_generator(self._frame)
            return ended and outside
        return here

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
        command = self._answer(frame)
        if command == "quit":
            raise Quit
        self._go(command, frame, event)
        self._listen()

    def _answer(self, frame: FrameType) -> str:
        try:
            command = self.ask(self.stops[-1], frame.f_locals)
            if command not in self.commands:
                allowed = f"allowed are {self.commands}"
                raise ValueError(f"ask: got {command!r}; {allowed}")
        except Exception as error:
            self._failed = error  # raised here, the program could catch it
            return "quit"
        return command

    def _go(self, command: str, frame: FrameType | None, event: str) -> None:
        """Where to stop next: anywhere, in one frame, or at breakpoints."""
        if command == "next" and event == "return":
            command = "step"  # this frame has no next line; its caller has
        caller = frame.f_back if frame else None
        self._anywhere, self._waits = command == "step", command == "continue"
        self._frame = {"next": frame, "return": caller}.get(command)
        self._leaving = frame if command == "return" else None
        self._lowest: float = 0  # the first line of `_frame` to stop at
        if command == "return" and _is_generator(frame):
            self._frame, self._lowest = frame, math.inf  # where it has ended
        moves = command in ("step", "next") and not self.same_line
        self._came_from = (frame, frame.f_lineno) if frame and moves else None


def _is_generator(frame: FrameType | None) -> bool:
    return bool(frame and frame.f_code.co_flags & GENERATORS)


def _compile(source: str | bytes, file: Path, mode: str) -> CodeType:
    # By default, it would hand on what this module imports from `__future__`.
    return compile(source, str(file), mode, dont_inherit=True)
