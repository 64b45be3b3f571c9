"""Sessions with the real pdb: one command at a time, and what came back.

The debugger runs in a process of its own. We read until it asks for a command,
write one, and read on. A session that hangs ends at a timeout, and every session
ends its process and whatever that process started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from underhood.debugging.transcript import Exchange, Transcript

PROMPT_MARKS = Path(__file__).with_name("prompt_marks")


def run_pdb(
    script: str | Path,
    commands: Sequence[str],
    *,
    python: str = sys.executable,
    cwd: str | Path | None = None,
    timeout: float = 10.0,
    options: Sequence[str] = ("-m", "pdb"),
    env: Mapping[str, str] | None = None,
) -> Transcript:
    """Run a script under pdb, give it commands, and record the session.

    Args:
        script: a file, or what else the last option wants: a module, a process id.
        commands: what to type, one string a prompt. When none is left and the
            debugger asks again, the session ends.
        python: the interpreter that runs the script.
        cwd: where it runs; by default in the folder of `script`, if that is a file.
        timeout: seconds that the debugger may take to ask for the next command.
        options: what stands between `python` and the script: `()` for a script that
            calls `breakpoint()`, `("-m", "pdb", "-m")` for a module.
        env: variables for the process. It sees none of ours whose names start with
            `PYTHON`, and no `.pdbrc` of the user's.

    Raises:
        ValueError: a command has a line break, or `timeout` is not positive.
        FileNotFoundError: there is no such interpreter.
    """
    for command in commands:
        if "\n" in command or "\r" in command:
            raise ValueError(f"commands: got {command!r}; one line each is allowed")
    if not timeout > 0:
        raise ValueError(f"timeout: got {timeout}; a positive number is needed")
    path = Path(script)
    if cwd is None:
        cwd = path.parent if path.is_file() else Path.cwd()
    folder = Path(cwd).resolve()
    argument = str(path.resolve()) if path.is_file() else str(script)
    command_line = [python, *options, argument]
    with tempfile.TemporaryDirectory() as home:
        child = _Child(command_line, folder, _environment(env, home), timeout)
        try:
            opening, exchanges, prompt = _converse(child, commands)
            ending = child.ending(prompt)
        finally:
            child.end()
    tidy = _Tidy(folder)
    return Transcript(
        opening=tidy(opening),
        exchanges=tuple(
            Exchange(each.prompt, each.command, tidy(each.output)) for each in exchanges
        ),
        prompt=prompt or "",
        ending=ending,
        returncode=child.returncode if ending == "exit" else None,
    )


def _converse(
    child: _Child, commands: Sequence[str]
) -> tuple[str, list[Exchange], str | None]:
    """The opening, each exchange, and the prompt that no command answered."""
    opening, prompt = child.read()
    exchanges = []
    for command in commands:
        if prompt is None:
            break
        child.write(command)
        output, following = child.read()
        exchanges.append(Exchange(prompt, command, output))
        prompt = following
    return opening, exchanges, prompt


def write_script(folder: str | Path, name: str, source: str) -> Path:
    """Write a file for a session: `source` without its indentation; make folders."""
    file = Path(folder) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source).lstrip("\n"), encoding="utf-8")
    return file


class _Child:
    """A process that asks for commands, and the marks around its prompts."""

    def __init__(
        self, command: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> None:
        nonce = secrets.token_hex(8)
        before, after = f"<{nonce}", f"{nonce}>"
        self._asked = re.compile(rf"{before}(.*?){after}".encode(), re.DOTALL)
        self._timeout = timeout
        self._timed_out = False
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**env, "UNDERHOOD_PROMPT_MARKS": f"{before},{after}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children can be ended together with it
        )
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # A thread, for a pipe cannot be read with a timeout on every system.
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def write(self, command: str) -> None:
        """Type a line. A process that is gone shows it in the next `read`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()

    def read(self) -> tuple[str, str | None]:
        """What comes until the next prompt, and it; `None` when there is no other."""
        deadline = time.monotonic() + self._timeout
        seen = b""
        while True:
            asked = self._asked.search(seen)
            if asked:
                return _text(seen[: asked.start()]), _text(asked.group(1))
            left = deadline - time.monotonic()
            try:
                piece = self._pieces.get(timeout=max(min(left, 0.2), 0))
            except queue.Empty:
                if self._process.poll() is not None:
                    self._end_group()  # whoever keeps its output open
                if left <= 0:
                    self._timed_out = True
                    return _text(seen), None
                continue
            if not piece:
                return _text(seen), None
            seen += piece

    def ending(self, prompt: str | None) -> str:
        """Why there is no further exchange: "prompt", "timeout" or "exit"."""
        if prompt is not None:
            return "prompt"
        if not self._timed_out:
            try:
                # Its output is closed; it may still be on its way out.
                self._process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                self._timed_out = True
        return "timeout" if self._timed_out else "exit"

    def end(self) -> None:
        """End the process and all that it started, and wait until it is gone."""
        self._end_group()
        self._process.wait(timeout=30)  # it cannot refuse; to wait on would hide a bug
        self._reader.join(timeout=30)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # a command that nobody will read
                pipe.close()

    def _end_group(self) -> None:
        if hasattr(os, "killpg"):
            # Nothing may be left of the group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def _read_all(self) -> None:
        assert self._process.stdout is not None
        while piece := os.read(self._process.stdout.fileno(), 65536):
            self._pieces.put(piece)
        self._pieces.put(b"")


class _Tidy:
    """Make output the same on every machine: short paths, no addresses."""

    def __init__(self, folder: Path) -> None:
        library = sysconfig.get_path("stdlib")
        # pdb writes paths in lower case where the system does not tell them apart.
        case = re.IGNORECASE if os.name == "nt" else 0
        self._folder = re.compile(re.escape(f"{folder}{os.sep}"), case)
        # From the beginning of a word on: each letter of a long one would be tried.
        elsewhere = r"(?<![^\s'\"])[^\s'\"]*/lib/python3\.\d+t?(?=/[\w/]+\.py)"
        self._library = re.compile(f"{re.escape(library)}|{elsewhere}")

    def __call__(self, output: str) -> str:
        output = self._folder.sub("", output)
        output = self._library.sub("<stdlib>", output)
        return re.sub(r"0x[0-9a-f]{6,}", "0x…", output)


def _environment(extra: Mapping[str, str] | None, home: str) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {
        **ours,
        "HOME": home,
        "USERPROFILE": home,
        "PYTHONPATH": str(PROMPT_MARKS),
        "PYTHONUNBUFFERED": "1",  # output and errors in the order they were written
        "PYTHONIOENCODING": "utf-8",
        "PYTHON_COLORS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(extra or {}),
    }


def _text(output: bytes) -> str:
    return output.decode("utf-8", errors="replace").replace("\r\n", "\n")
