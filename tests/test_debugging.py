"""The debugging chapter's code, held to the real pdb and to the process table."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from underhood.debugging import (
    MonitoringDebugger,
    Stop,
    TraceDebugger,
    Transcript,
    run_pdb,
    stops_in,
    write_script,
)

DEMO = (
    Path(__file__).parents[1]
    / "code"
    / "underhood"
    / "debugging"
    / "demo"
    / "pdb_demo.py"
)
DEBUGGERS = [
    TraceDebugger,
    pytest.param(
        MonitoringDebugger,
        marks=pytest.mark.skipif(
            not hasattr(sys, "monitoring"), reason="sys.monitoring needs CPython 3.12"
        ),
    ),
]
# pdb's commands, and the words for them that our debuggers take.
WORDS = {"s": "step", "n": "next", "r": "return", "c": "continue"}


# --- sessions


def test_every_exchange_is_there_and_the_last_one_too():
    session = run_pdb(DEMO, ["p 1 + 1", "p 'two'", "p 3 * 'x'"])
    assert [each.command for each in session.exchanges] == [
        "p 1 + 1",
        "p 'two'",
        "p 3 * 'x'",
    ]
    assert [each.output for each in session.exchanges] == ["2\n", "'two'\n", "'xxx'\n"]
    assert {each.prompt for each in session.exchanges} == {"(Pdb) "}
    assert (session.ending, session.prompt) == ("prompt", "(Pdb) ")


def test_the_text_is_that_of_a_terminal():
    session = run_pdb(DEMO, ["b utils.py:4, item == 3", "c", "p item, result"])
    assert str(session) == textwrap.dedent(
        """\
        > pdb_demo.py(1)<module>()
        -> import utils
        (Pdb) b utils.py:4, item == 3
        Breakpoint 1 at utils.py:4
        (Pdb) c
        start
        > utils.py(4)sum()
        -> result += item
        (Pdb) p item, result
        (3, 3)
        (Pdb)"""
    )


def test_the_page_sees_commands_apart_from_output_and_no_markup(tmp_path):
    script = write_script(tmp_path, "angle.py", "print('<b>&</b>')\n")
    markup = run_pdb(script, ["n"])._repr_html_()
    assert '<b class="pdb-command">n</b>' in markup
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in markup
    assert markup.count("<b>") == 0
    assert "timeout" not in markup


def test_a_program_that_ends_by_itself(tmp_path):
    script = write_script(tmp_path, "leave.py", "raise SystemExit(3)\n")
    session = run_pdb(script, ["p 'never asked'"], options=())
    assert session.exchanges == ()
    assert (session.ending, session.returncode) == ("exit", 3)


@pytest.mark.skipif(os.name != "posix", reason="ends of a pipe are POSIX")
@pytest.mark.parametrize(
    ("seconds", "timeout", "ending", "code"),
    [(0.5, 60.0, "exit", 3), (600, 1.5, "timeout", None)],
)
def test_a_program_that_closes_its_output_runs_on(
    tmp_path, seconds, timeout, ending, code
):
    script = write_script(
        tmp_path,
        "silent.py",
        f"""
        import os, time
        print("bye", flush=True)
        os.close(1), os.close(2)
        time.sleep({seconds})
        os._exit(3)
        """,
    )
    session = run_pdb(script, [], options=(), timeout=timeout)
    assert (session.opening, session.ending) == ("bye\n", ending)
    assert session.returncode == code


def test_output_that_looks_like_a_prompt_is_output(tmp_path):
    script = write_script(
        tmp_path,
        "liar.py",
        """
        import time
        print("(Pdb) ", end="", flush=True)
        time.sleep(0.5)
        print("after")
        """,
    )
    session = run_pdb(script, ["n", "n", "n", "p 'asked'"])
    outputs = [each.output for each in session.exchanges]
    assert outputs[1].startswith("(Pdb) ")
    assert outputs[3] == "'asked'\n"


def test_nested_prompts(tmp_path):
    script = write_script(tmp_path, "nested.py", "def f():\n    pass\nf()\n")
    session = run_pdb(
        script, ["n", "b 2", "commands", "p 'hit'", "end", "debug f()", "q", "c"]
    )
    prompts = [each.prompt for each in session.exchanges]
    assert prompts[3:5] == ["(com) ", "(com) "]
    assert prompts[6] == "((Pdb)) "
    assert "'hit'" in session.output("c")


def test_the_program_is_not_stepped_into_our_own_files(tmp_path):
    script = write_script(tmp_path, "plain.py", "def f():\n    return 1\n\n\nf()\n")
    session = run_pdb(script, ["s"] * 5)
    assert {stop.file for stop in session.stops} <= {"plain.py", "<string>"}


def test_a_hang_ends_at_the_timeout_with_what_was_seen(tmp_path):
    script = write_script(
        tmp_path, "hang.py", "import time\nprint('going to sleep')\ntime.sleep(600)\n"
    )
    began = time.monotonic()
    session = run_pdb(script, ["p 'first'", "c", "p 'never'"], timeout=1.5)
    assert time.monotonic() - began < 30
    assert session.ending == "timeout"
    assert session.returncode is None
    assert [each.command for each in session.exchanges] == ["p 'first'", "c"]
    assert session[-1].output == "going to sleep\n"
    assert str(session).endswith("[no answer: timeout]")
    assert "<i>[no answer: timeout]</i>" in session._repr_html_()


def test_endless_output_ends_at_the_timeout_too(tmp_path):
    script = write_script(
        tmp_path,
        "chatty.py",
        "import time\nwhile True:\n    print('x')\n    time.sleep(.01)\n",
    )
    session = run_pdb(script, ["c"], timeout=1.0)
    assert session.ending == "timeout"
    assert session[-1].output.startswith("x\nx\n")


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
@pytest.mark.parametrize(
    ("commands", "ending"),
    [(["n", "n", "n", "c"], "timeout"), (["n", "n", "n"], "prompt")],
)
def test_no_process_is_left(tmp_path, commands, ending):
    script = write_script(
        tmp_path,
        "family.py",
        """
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(os.getpid(), child.pid)
        child.wait()
        """,
    )
    session = run_pdb(script, commands, timeout=3.0)
    assert session.ending == ending
    printed = [line.split() for line in str(session).splitlines()]
    pids = next(line for line in printed if len(line) == 2 and line[0].isdigit())
    assert len(pids) == 2
    for pid in pids:
        assert is_gone(int(pid)), f"process {pid} is still there"


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_grandchild_that_keeps_the_output_open_does_not_outlive_the_program(tmp_path):
    script = write_script(
        tmp_path,
        "orphan.py",
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid)
        """,
    )
    session = run_pdb(script, [], options=(), timeout=60)
    assert (session.ending, session.returncode) == ("exit", 0)
    assert is_gone(int(session.opening))


def is_gone(pid: int) -> bool:
    """Whether a process ends within seconds; a zombie has ended."""
    for _ in range(100):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        ).stdout.strip()
        if not state or state.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


def test_the_user_s_own_settings_stay_out(tmp_path, monkeypatch):
    write_script(tmp_path, ".pdbrc", "p 'from the home folder'\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    work = tmp_path / "work"
    script = write_script(work, "stop.py", "breakpoint()\nx = 1\n")
    session = run_pdb(script, ["p 'stopped'"], options=())
    assert session.output("p 'stopped'") == "'stopped'"
    assert "home folder" not in str(session)


def test_pdbrc_of_the_folder_is_read_and_env_is_given(tmp_path):
    write_script(tmp_path, ".pdbrc", "p 'from the project'\n")
    script = write_script(tmp_path, "env.py", "import os\n")
    session = run_pdb(script, ["n", "p os.environ['FLAVOR']"], env={"FLAVOR": "mint"})
    assert "'from the project'" in session.opening
    assert session.output("p os.environ['FLAVOR']") == "'mint'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"commands": ["n\nn"]}, "commands: got 'n\\\\nn'"),
        ({"commands": [], "timeout": 0}, "timeout: got 0"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_pdb(DEMO, **arguments)


def test_output_of_a_command_that_is_not_there():
    with pytest.raises(KeyError, match="'p 1' is not in this session"):
        Transcript("", (), "", "exit", 0).output("p 1")


def test_a_long_word_of_output_takes_no_time(tmp_path):
    script = write_script(
        tmp_path,
        "long.py",
        """
        import bdb
        print(bdb.__file__, "x" * 200_000)
        print(f'"{bdb.__file__}" and /x/lib/python3.12t/a/b.py')
        """,
    )
    began = time.process_time()
    session = run_pdb(script, [], options=())
    assert time.process_time() - began < 5  # it took minutes
    assert session.opening == (
        f'<stdlib>/bdb.py {"x" * 200_000}\n"<stdlib>/bdb.py" and <stdlib>/a/b.py\n'
    )


def test_what_only_looks_is_no_stop(tmp_path):
    script = write_script(tmp_path, "look.py", "def f():\n    x = 1\n\n\nf()\n")
    looks = ["u", "up 9", "d", "down 9", "w", "where", "bt"]
    session = run_pdb(script, ["b 2", "c", *looks, "r"])
    assert [(stop.event, stop.line) for stop in session.stops] == [
        ("line", 1),
        ("line", 2),
        ("return", 2),
    ]


def test_stops_in_the_words_of_pdb():
    text = (
        "hello\n--Call--\n> a b.py(3)f()\n-> def f():\n--Return--\n"
        "> a b.py(4)f()->5\n-> return 5\n  c.py(1)<module>()\n> c.py(1)<lambda>()\n"
    )
    assert stops_in(text) == [
        Stop("call", "a b.py", 3, "f"),
        Stop("return", "a b.py", 4, "f"),
        Stop("line", "c.py", 1, "<lambda>"),
    ]


# --- debuggers, held to pdb

PROGRAMS = {
    "calls": """
        def double(x):
            y = x + x
            return y

        def outer(x):
            a = double(x)
            b = double(a) + double(1)
            return a + b

        total = outer(2)
        total += outer(3)
        """,
    "recursion": """
        def fact(n):
            if n < 2:
                return 1
            return n * fact(n - 1)

        fact(4)
        x = fact(3)
        """,
    "exceptions": """
        def fail(x):
            return 1 // x

        def safe(x):
            try:
                return fail(x)
            except ZeroDivisionError:
                return None
            finally:
                x = 7

        safe(1)
        safe(0)
        done = True
        """,
    "generators": """
        def count(n):
            for i in range(n):
                yield i
            yield n

        def use():
            s = 0
            for value in count(2):
                s += value
            return s

        use()
        use()
        """,
    "thrown": """
        def resume():
            try:
                yield 1
            except KeyError:
                y = 2
                yield y

        it = resume()
        next(it)
        a = it.throw(KeyError)
        it.close()
        """,
    "classes": """
        class Point:
            def __init__(self, x):
                self.x = x

            @property
            def twice(self):
                return self.x * 2

            def __add__(self, other):
                return Point(self.x + other.x)

        p = Point(1) + Point(2)
        q = p.twice
        r = [f(q) for f in (lambda v: v + 1, str)]
        """,
    "annotations": """
        def kind():
            return int

        def identity(x: kind()) -> kind():
            return x

        identity.__annotations__
        """,
    "delegates": """
        def inner():
            yield 1
            return 5

        def outer():
            x = yield from inner()
            yield x

        def use():
            s = 0
            for value in outer():
                s += value
            return s

        use()
        done = True
        """,
    "awaits": """
        class Sleep:
            def __await__(self):
                yield 1

        async def inner():
            await Sleep()
            return 2

        async def outer():
            x = await inner()
            return x

        task = outer()
        task.send(None)
        try:
            task.send(None)
        except StopIteration as stop:
            x = stop.value
        """,
    "exhausts": """
        def count(n):
            for i in range(n):
                yield i
            return n

        def use():
            it = count(1)
            s = next(it)
            s += next(it, 7)
            try:
                next(it)
            except StopIteration:
                s += 1
            it = count(3)
            next(it)
            it.close()
            return s

        use()
        for i in count(0):
            pass
        try:
            next(count(0))
        except StopIteration:
            done = True
        """,
}


def stops_of_pdb(
    script: Path, commands: Sequence[str], breakpoints: Sequence[str] = ()
) -> list[Stop]:
    """Each stop, until the script is over."""
    session = run_pdb(script, [*(f"b {each}" for each in breakpoints), *commands])
    found = stops_in(session.opening)
    for exchange in session.exchanges:
        stops = stops_in(exchange.output)
        over = "The program finished" in exchange.output
        if over or any(stop.file == "<string>" for stop in stops):
            break
        found += stops
    return found


def stops_of_ours(
    kind: Callable[..., TraceDebugger],
    script: Path,
    commands: Sequence[str],
    breakpoints: Sequence[tuple[int, str]] = (),
) -> list[Stop]:
    """The same of ours; pdb shows an exception as a stop at its line."""
    answers = iter([*(WORDS[each] for each in commands), "quit"])
    ask = lambda stop, local: next(answers)  # noqa: E731
    debugger = kind(ask, same_line=pdb_stops_again())
    for line, condition in breakpoints:
        debugger.set_break(script, line, condition)
    return [
        stop._replace(event="line") if stop.event == "exception" else stop
        for stop in debugger.run(script)
    ]


@functools.cache
def pdb_stops_again() -> bool:
    """Whether this Python's pdb stops in each round of a loop on one line."""
    with tempfile.TemporaryDirectory() as folder:
        script = write_script(folder, "rounds.py", "for i in range(3): i\nx = 1\n")
        lines = [stop.line for stop in run_pdb(script, ["n", "n"]).stops]
    assert lines in ([1, 1, 1], [1, 2, 2])
    return lines == [1, 1, 1]


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_a_loop_on_one_line(tmp_path, kind):
    script = write_script(tmp_path, "rounds.py", "for i in range(3): i\nx = 1\n")
    again, once = (
        [stop.line for stop in kind(lambda *_: "next", same_line=each).run(script)]
        for each in (True, False)
    )
    assert again == [1, 1, 1, 1, 2, 2]  # the last stop is the return
    assert once == [1, 2, 2]


@pytest.mark.parametrize("kind", DEBUGGERS)
@pytest.mark.parametrize("command", ["s", "n"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_stops_where_pdb_stops(tmp_path, kind, command, program):
    script = write_script(tmp_path, f"{program}.py", PROGRAMS[program])
    commands = [command] * 90
    expected = stops_of_pdb(script, commands)
    assert len(expected) > 3
    assert stops_of_ours(kind, script, commands) == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_return_and_continue_stop_where_pdb_stops(tmp_path, kind):
    script = write_script(tmp_path, "calls.py", PROGRAMS["calls"])
    commands = ["c", "r", "s", "c", "r", "r", "n", "n", "c", "c", "c"]
    expected = stops_of_pdb(script, commands, ["2", "7"])
    assert len(expected) == len(commands) + 1  # none of them runs to the end
    ours = stops_of_ours(kind, script, commands, [(2, ""), (7, "")])
    assert ours == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
@pytest.mark.parametrize("command", ["n", "r", "s"])
@pytest.mark.parametrize(
    ("program", "line"),
    [  # such that 3.14, too, traces each frame that can stop
        *(("exhausts", line) for line in (2, 3, 4, 8, 12)),
        *(("delegates", line) for line in (2, 7, 12)),
        *(("awaits", line) for line in (3, 6, 7, 11)),
        ("thrown", 5),
    ],
)
def test_out_of_a_generator_as_in_pdb(tmp_path, kind, command, program, line):
    script = write_script(tmp_path, f"{program}.py", PROGRAMS[program])
    commands = ["c", *[command] * 12]
    expected = stops_of_pdb(script, commands, [str(line)])
    assert len(expected) >= 2
    assert stops_of_ours(kind, script, commands, [(line, "")]) == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_a_condition_is_asked_each_time(tmp_path, kind):
    script = write_script(
        tmp_path, "loop.py", "total = 0\nfor i in range(9):\n    total += i\n"
    )
    seen = []

    def ask(stop, local):
        seen.append((stop.line, local.get("i")))
        return "continue"

    debugger = kind(ask)
    debugger.set_break(script, 3, "i % 4 == 3")
    debugger.run(script)
    assert seen == [(1, None), (3, 3), (3, 7)]
    commands = ["c", "c", "c"]
    expected = stops_of_pdb(script, commands, ["3, i % 4 == 3"])
    assert stops_of_ours(kind, script, commands, [(3, "i % 4 == 3")]) == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_a_condition_that_fails_stops_as_in_pdb(tmp_path, kind):
    script = write_script(tmp_path, "bad.py", "x = 1\ny = 2\n")
    expected = stops_of_pdb(script, ["c", "c"], ["2, nowhere > 1"])
    assert [stop.line for stop in expected] == [1, 2]
    ours = stops_of_ours(kind, script, ["c", "c"], [(2, "nowhere > 1")])
    assert ours == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_out_of_a_breakpoint_into_a_file_without_one(tmp_path, kind, monkeypatch):
    write_script(tmp_path, "far_away.py", "def g(x):\n    return x\n")
    script = write_script(
        tmp_path,
        "near.py",
        """
        import far_away
        def f(x):
            y = far_away.g(x)
            return y
        f(1)
        """,
    )
    monkeypatch.delitem(sys.modules, "far_away", raising=False)
    session = run_pdb(script, ["b far_away.py:2", "c", "r", "s", "n"])
    answers = iter(["continue", "return", "step", "next", "quit"])
    debugger = kind(lambda stop, local: next(answers))
    debugger.set_break(tmp_path / "far_away.py", 2)
    assert debugger.run(script) == session.stops
    assert session.stops[-1] == ("return", "near.py", 4, "f")
    monkeypatch.delitem(sys.modules, "far_away")


def random_program(rng: random.Random) -> str:
    """Functions that branch, loop, raise, catch, yield and call earlier ones."""
    lines = ["y = x = 1"]
    generators: list[str] = []
    for number in range(4):
        name = f"f{number}"
        yields = rng.random() < 0.4
        lines += [f"def {name}(x):", "    y = x"]
        lines += _block(rng, 1, number, generators, yields)
        lines += ["    yield y"] * yields + ["    return y", ""]
        if yields:
            generators = [*generators, f"g{number}"]
            lines += [f"g{number} = {name}", f"def {name}(x):"]
            lines += [f"    return sum(list(g{number}(x)))", ""]
    for number in range(4):
        lines.append(f"r{number} = f{number}({rng.randrange(4)})")
    return "\n".join(lines) + "\n"


KINDS = ["add", "call", "if", "for", "try", "while", "list"]
KINDS += ["over", "next", "yield", "from"]  # of generators


def _block(
    rng: random.Random, depth: int, callables: int, generators: list[str], yields: bool
) -> list[str]:
    pad = "    " * depth
    lines: list[str] = []
    for _ in range(rng.randrange(1, 4)):
        kind = rng.choice(KINDS)
        nested = depth < 3 and _block(rng, depth + 1, callables, generators, yields)
        inner = nested or [f"{pad}    y += 1"]
        generator = f"{rng.choice(generators)}(y % 3)" if generators else ""
        if kind == "call" and callables:
            lines.append(f"{pad}y += f{rng.randrange(callables)}(y % 3)")
        elif kind == "if":
            lines += [f"{pad}if y % 2:", *inner, f"{pad}else:", f"{pad}    y -= 1"]
        elif kind == "for":
            lines += [f"{pad}for i{depth} in range({rng.randrange(3)}):", *inner]
        elif kind == "while":
            lines += [f"{pad}w{depth} = 2", f"{pad}while w{depth}:"]
            lines += [f"{pad}    w{depth} -= 1", *inner]
        elif kind == "try":
            lines += [f"{pad}try:", *inner, f"{pad}    1 // (y % 2)"]
            lines += [f"{pad}except ZeroDivisionError:", f"{pad}    y += 2"]
        elif kind == "list":
            lines.append(f"{pad}y += len([k for k in range(2)])")
        elif kind == "over" and generator:
            lines += [f"{pad}for v{depth} in {generator}:", f"{pad}    y += v{depth}"]
        elif kind == "next" and generator:
            lines += [f"{pad}it{depth} = {generator}", f"{pad}try:"]
            lines += [f"{pad}    y += next(it{depth})"] * rng.randrange(1, 4)
            lines += [f"{pad}except StopIteration:", f"{pad}    y += 2"]
            lines.append(f"{pad}it{depth}.close()")  # not whenever pdb lets go of it
        elif kind == "yield" and yields:
            lines.append(f"{pad}yield y % 3")
        elif kind == "from" and yields and generator:
            lines.append(f"{pad}y += yield from {generator}")
        else:
            lines.append(f"{pad}y += {rng.randrange(1, 4)}")
    return lines


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_random_programs_stop_where_pdb_stops(tmp_path, kind):
    rng = random.Random(20260)
    visited = 0
    for number in range(25):
        script = write_script(tmp_path, f"random{number}.py", random_program(rng))
        commands = rng.choices("snrc", weights=[10, 8, 1, 1], k=70)
        source = script.read_text().splitlines()
        places = [i for i, text in enumerate(source, 1) if "y += " in text][:3]
        wanted = [(line, rng.choice(["", "y % 2 == 0"])) for line in places]
        named = [f"{line}, {test}" if test else f"{line}" for line, test in wanted]
        expected = stops_of_pdb(script, commands, named)
        visited += len(expected)
        assert stops_of_ours(kind, script, commands, wanted) == expected, script
    assert visited > 500  # the programs are no empty ones


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_other_threads_do_not_stop_as_in_pdb(tmp_path, kind):
    script = write_script(
        tmp_path,
        "threads.py",
        """
        import threading

        def work():
            done.append(1)

        done = []
        for _ in range(2):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        work()
        """,
    )
    expected = stops_of_pdb(script, ["c", "c"], ["4"])
    assert [stop.line for stop in expected] == [1, 4]  # once: in the main thread
    assert stops_of_ours(kind, script, ["c", "c"], [(4, "")]) == expected


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_locals_are_those_of_the_stopped_frame(tmp_path, kind):
    script = write_script(
        tmp_path, "local.py", "def f(a):\n    b = a * 2\n    return b\n\n\nf(21)\n"
    )
    seen = {}

    def ask(stop, local):
        seen[stop.event, stop.function, stop.line] = dict(local)
        return "step"

    kind(ask).run(script)
    assert seen["call", "f", 1] == {"a": 21}
    assert seen["line", "f", 3] == {"a": 21, "b": 42}
    assert seen["return", "f", 3] == {"a": 21, "b": 42}


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_the_debugger_leaves_no_trace(tmp_path, kind):
    script = write_script(tmp_path, "boom.py", "x = 1\nraise KeyError('boom')\n")
    before = sys.gettrace(), list(sys.path)
    with pytest.raises(KeyError, match="boom"):
        kind(lambda stop, local: "continue").run(script)
    assert (sys.gettrace(), sys.path) == before
    quits = kind(lambda stop, local: "quit")
    assert quits.run(script) == quits.run(script) == quits.stops
    assert len(quits.stops) == 1
    assert (sys.gettrace(), sys.path) == before
    if kind is MonitoringDebugger:
        assert sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID) is None


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_another_trace_function_is_put_back(tmp_path, kind):
    script = write_script(tmp_path, "one.py", "x = 1\n")
    coverage = lambda frame, event, arg: None  # noqa: E731
    before = sys.gettrace()
    sys.settrace(coverage)
    try:
        kind(lambda stop, local: "continue").run(script)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is coverage


@pytest.mark.parametrize("kind", DEBUGGERS)
@pytest.mark.parametrize("answer", ["contiune", ValueError("no front end")])
def test_the_program_does_not_catch_what_is_ours(tmp_path, kind, answer, capsys):
    script = write_script(
        tmp_path,
        "catches.py",
        """
        def work(x):
            return int(x)

        for x in ("1", "2"):
            try:
                work(x)
            except ValueError:
                print("bad input")
        """,
    )

    def ask(stop, local):
        if stop.function != "work":
            return "continue"
        if isinstance(answer, Exception):
            raise answer
        return answer

    debugger = kind(ask)
    debugger.set_break(script, 2)
    with pytest.raises(ValueError, match=r"ask: got 'contiune'|no front end"):
        debugger.run(script)
    assert capsys.readouterr().out == ""
    debugger.ask = lambda stop, local: "continue"
    assert [stop.line for stop in debugger.run(script)] == [1, 2, 2]


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_debuggers_check_their_arguments(tmp_path, kind):
    script = write_script(tmp_path, "one.py", "x = 1\n\n# a comment\n")
    debugger = kind(lambda stop, local: "jump")
    for line in (-1, 0, 2, 3, 4):
        with pytest.raises(ValueError, match=rf"line: got {line}; one\.py has no code"):
            debugger.set_break(script, line)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        debugger.set_break(tmp_path / "nowhere.py", 1)
    with pytest.raises(SyntaxError):
        debugger.set_break(script, 1, "x =")
    assert debugger.breakpoints == {}
    with pytest.raises(ValueError, match="ask: got 'jump'"):
        debugger.run(script)


@pytest.mark.parametrize("kind", DEBUGGERS)
def test_files_may_be_given_as_text(tmp_path, kind):
    script = write_script(tmp_path, "two.py", "x = 1\ny = 2\n")
    debugger = kind(lambda stop, local: "continue")
    debugger.set_break(str(script), 2)
    assert [stop.line for stop in debugger.run(str(script))] == [1, 2]


@pytest.mark.skipif(hasattr(sys, "monitoring"), reason="this Python has it")
def test_monitoring_says_what_it_needs():
    with pytest.raises(RuntimeError, match=r"needs CPython 3\.12"):
        MonitoringDebugger(lambda stop, local: "quit")
