"""What pdb does on this interpreter, and what tracing costs: one JSON object.

    PYTHONPATH=code python benchmarks/debugging.py

Ratios are the processor time of a loop of 200,000 rounds to its time without a tool;
of each the fastest of three runs, of seventeen where one is short. Standard library
only, one process, no threads.
"""

from __future__ import annotations

import bdb
import contextlib
import importlib
import io
import json
import pdb
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from underhood.debugging import MonitoringDebugger, TraceDebugger, stops_in

ROUNDS = 200_000
REPEATS = 3

SESSION = """\
def f(x):
    breakpoint()
    y = x + 1
    return y

f(1)
"""

LAST_LINE = """\
def f(x):
    breakpoint()

f(1)
"""

ONE_LINE = """\
breakpoint()
for i in range(3): i
x = 1
"""

UP = """\
breakpoint()
import other

def caller():
    other.callee()
    return 1

caller()
"""

ABOVE = """\
def callee():
    breakpoint()
    return 1

def caller():
    limit = 10
    callee()
    return limit

print("limit is", caller())
"""

QUIT = """\
try:
    breakpoint()
    x = 1
except Exception as error:
    print("500:", repr(error))
"""

LOOP = f"""\
from bench_seconds import cpu_seconds, seconds

def work(rounds):
    total = 0
    for number in range(rounds):
        total += number
    return total

def never():
    return 0

start = cpu_seconds()
work({ROUNDS})
seconds.append(cpu_seconds() - start)
"""
LOOP_LINE, NEVER_LINE = 6, 10

MISSING = {  # where an interpreter has no such tool
    "monitoring": "sys.monitoring came with 3.12",
    "monitoring_disable": "sys.monitoring came with 3.12",
    "monitoring_debugger": "sys.monitoring came with 3.12",
    "monitoring_condition": "sys.monitoring came with 3.12",
    "bdb_monitoring": "the backends of bdb came with 3.14",
    "bdb_monitoring_condition": "the backends of bdb came with 3.14",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        facts = pdb_facts(Path(folder)) | disabled_raise() | costs(Path(folder))
    print(json.dumps(facts))


def pdb_facts(folder: Path) -> dict[str, Any]:
    """Where pdb stops and what it understands."""
    stops = stops_in(talk(folder, SESSION, ["c"]))
    at_end = stops_in(talk(folder, LAST_LINE, ["c"]))
    rounds = [stop.line for stop in stops_in(talk(folder, ONE_LINE, ["n"] * 3 + ["c"]))]
    (folder / "other.py").write_text("def callee():\n    return 0\n")
    sys.path.insert(0, str(folder))
    from_above = talk(folder, UP, ["b other.py:2", "c", "u", "n", "c"])
    sys.path.remove(str(folder))
    stopped_again = stops_in(from_above)[-1].line == 6
    listed = talk(folder, SESSION, ["p [x for _ in range(2)]", "c"])
    assigned = talk(folder, SESSION, ["n", "n", "n = 7", "c"])
    to_line_3 = ["n"] * (stops[0].line == 2)
    jumped = talk(folder, SESSION, [*to_line_3, "j 4", "p 'y' in locals()", "c"])
    above = talk(folder, ABOVE, ["u", "!limit = 99", "c"])
    left = talk(folder, QUIT, ["q", "y"])
    return {
        "breakpoint_stops": "on the call" if stops[0].line == 2 else "after it",
        "breakpoint_last": "return" if at_end[0].event == "return" else "line",
        "one_line_loop": "each round" if rounds.count(2) > 1 else "once",
        "next_after_up": "stops" if stopped_again else "runs away",
        "comprehension": "NameError" if "NameError" in listed else "works",
        "n = 7": "refused" if "Invalid argument" in assigned else "runs next",
        "jumped_over": "None" if "True" in jumped else "unbound",
        "assigned_above": "stays" if "limit is 99" in above else "is lost",
        "quit": "raises BdbQuit" if "500: BdbQuit()" in left else asked_to_quit(left),
        "commands": sum(name.startswith("do_") for name in dir(pdb.Pdb)),
        "exceptions": hasattr(pdb.Pdb, "do_exceptions"),
        "remote_exec": hasattr(sys, "remote_exec"),
        "backends": hasattr(pdb, "set_default_backend"),
    }


def asked_to_quit(heard: str) -> str:
    asked = "Quit anyway? [y/n]" in heard and heard.endswith("SystemExit(1)")
    return "asks, then exits" if asked else heard


def talk(folder: Path, source: str, commands: list[str]) -> str:
    """The output of a session in this process."""
    file = folder / "session.py"
    file.write_text(source, encoding="utf-8")
    code = compile(source, str(file), "exec")
    heard = io.StringIO()
    stdin = sys.stdin
    pdb.Pdb._last_pdb_instance = None  # 3.14 would go on with the last input
    sys.stdin = io.StringIO("".join(f"{each}\n" for each in commands))
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            exec(code, {"__name__": "session"})
    except (Exception, SystemExit) as error:  # is part of the session
        heard.write(repr(error))
    finally:
        sys.stdin = stdin
        end_tracing()
    # A prompt stands in front of the answer: nobody typed a line break.
    return heard.getvalue().replace("(Pdb) ", "")


def end_tracing() -> None:
    """A debugger that waits for a breakpoint would go on in what follows."""
    sys.settrace(None)
    bdb.Breakpoint.clearBreakpoints()
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID):
        monitoring.set_events(monitoring.DEBUGGER_ID, 0)
        monitoring.free_tool_id(monitoring.DEBUGGER_ID)


def disabled_raise() -> dict[str, str | None]:
    """What a program gets whose tool answers DISABLE when it raises."""
    if not hasattr(sys, "monitoring"):
        reason = "sys.monitoring came with 3.12"
        return {"disabled_raise": None, "disabled_raise_reason": reason}

    def program() -> None:
        with contextlib.suppress(KeyError):
            raise KeyError

    try:
        with_monitoring(program, lambda *_: sys.monitoring.DISABLE, "RAISE")
    except ValueError as error:
        return {"disabled_raise": str(error)}
    return {"disabled_raise": "nothing"}


def costs(folder: Path) -> dict[str, Any]:
    """The loop's time under each tool, over its time without one."""
    file = folder / "loop.py"
    file.write_text(LOOP, encoding="utf-8")
    other = folder / "other.py"
    other.write_text("x = 1\ny = 2\n", encoding="utf-8")
    code = compile(LOOP, str(file), "exec")

    def plain() -> None:
        exec(code, {"__name__": "loop"})

    def ours(kind: Callable[..., TraceDebugger], condition: str = "") -> None:
        debugger = kind(lambda stop, local: "continue")
        line = LOOP_LINE if condition else NEVER_LINE
        debugger.set_break(file, line, condition)
        debugger.run(file)

    runs: dict[str, Callable[[], None]] = {
        "plain": plain,
        "settrace": lambda: with_settrace(plain),
        "bdb": lambda: Continue(file, NEVER_LINE).run(code, {}),
        "bdb_other_file": lambda: Continue(other, 2).run(code, {}),
        "bdb_condition": lambda: Continue(file, LOOP_LINE, "number < 0").run(code, {}),
        "trace_debugger": lambda: ours(TraceDebugger),
        "trace_condition": lambda: ours(TraceDebugger, "number < 0"),
    }
    if hasattr(sys, "monitoring"):
        runs |= {
            "monitoring": lambda: with_monitoring(plain, lambda code, line: None),
            "monitoring_disable": lambda: with_monitoring(
                plain, lambda code, line: sys.monitoring.DISABLE
            ),
            "monitoring_debugger": lambda: ours(MonitoringDebugger),
            "monitoring_condition": lambda: ours(MonitoringDebugger, "number < 0"),
        }
    if hasattr(pdb, "set_default_backend"):
        new = {"backend": "monitoring"}
        runs |= {
            "bdb_monitoring": lambda: Continue(file, NEVER_LINE, **new).run(code, {}),
            "bdb_monitoring_condition": lambda: Continue(
                file, LOOP_LINE, "number < 0", **new
            ).run(code, {}),
        }
    best = dict.fromkeys(runs, 1e9)
    with clock() as seconds:
        for _ in range(REPEATS):
            for name, run in runs.items():
                # A short one is disturbed more by what else the machine does.
                for _ in range(8 if best[name] < 0.1 else 1):
                    run()
                    best[name] = min(best[name], seconds.pop())
    ratios: dict[str, Any] = {
        name: round(best[name] / best["plain"], 2) for name in runs if name != "plain"
    }
    for name in MISSING.keys() - runs.keys():
        ratios |= {name: None, f"{name}_reason": MISSING[name]}
    return ratios


class Continue(bdb.Bdb):
    """pdb's engine with one breakpoint; goes on wherever it stops."""

    def __init__(
        self, file: Path, line: int, condition: str | None = None, **options: str
    ) -> None:
        super().__init__(**options)
        self.clear_all_breaks()  # they are kept per class, not per debugger
        self.set_break(str(file), line, cond=condition)

    def user_line(self, frame: types.FrameType) -> None:
        self.set_continue()


def with_settrace(run: Callable[[], None]) -> None:
    def trace(frame: types.FrameType, event: str, arg: Any) -> Any:
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)


def with_monitoring(
    run: Callable[[], None], callback: Callable[..., Any], event: str = "LINE"
) -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    tool, wanted = monitoring.DEBUGGER_ID, getattr(monitoring.events, event)
    monitoring.use_tool_id(tool, "benchmark")
    monitoring.register_callback(tool, wanted, callback)
    monitoring.set_events(tool, wanted)
    monitoring.restart_events()
    try:
        run()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


def cpu_seconds() -> float:
    """Of this process, whatever else the machine does."""
    if sys.platform == "emscripten":  # `process_time` there goes on while others run
        used = importlib.import_module("js").process.cpuUsage()
        return float(used.user + used.system) / 1e6
    return time.process_time()


@contextlib.contextmanager
def clock() -> Iterator[list[float]]:
    """A module that the loop reports its seconds to."""
    module: Any = types.ModuleType("bench_seconds")
    module.seconds, module.cpu_seconds = [], cpu_seconds
    sys.modules["bench_seconds"] = module
    try:
        yield module.seconds
    finally:
        del sys.modules["bench_seconds"]


if __name__ == "__main__":
    main()
