"""The interpreters that the four Python chapters are held to.

Every CPython 3.11 and later of this machine, one for each minor version, and CPython
in WebAssembly where Node.js and the npm package `pyodide` are there. Standard
library only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 11)
LAUNCHER = Path(__file__).with_name("wasm.mjs")
HOW_TO_GET_IT = "install Node.js 18 or later and run `npm ci` in the root of the book"

_PROBE = """
import json, platform, sys, sysconfig
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version_info[:3],
    "usable": sys.implementation.name == "cpython"
    and sys.version_info.releaselevel == "final"
    and not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))
"""


class NoWebAssembly(LookupError):
    """Node.js or the package is missing; the message says how to get it."""


@dataclass(frozen=True, order=True)
class Interpreter:
    """A CPython of this machine; `command` starts it."""

    version: tuple[int, int, int]
    command: tuple[str, ...]
    webassembly: bool = False  # 32-bit, without processes and threads
    host: str = ""  # what it runs in, where that is not the machine itself

    @property
    def name(self) -> str:
        """The minor version: "3.12", "3.14 (WebAssembly)"."""
        minor = "{}.{}".format(*self.version)
        return f"{minor} (WebAssembly)" if self.webassembly else minor

    @property
    def full_version(self) -> str:
        """ "3.12.1", "3.14.2 (pyodide 314.0.7, Node.js 20.20.2)"."""
        number = ".".join(map(str, self.version))
        return f"{number} ({self.host})" if self.host else number

    def run(
        self, arguments: Sequence[str], *, root: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run it in the folder `root` with the modules of `root/code`, nothing else.

        No variable of the caller's Python reaches it, and neither the folder of the
        script nor the user's packages are on its path.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout` seconds.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"
        }
        environment["PYTHONPATH"] = str(root / "code")
        environment["PYTHONUTF8"] = "1"
        return subprocess.run(
            [*self.command, "-s", "-P", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )


def find_cpythons(
    *, path: str | None = None, pyenv_root: Path | None = None
) -> list[Interpreter]:
    """The CPythons 3.11+ of this machine, the newest of each minor version, in order.

    Asked are each `python3.X` on the search path, those that pyenv has installed,
    and the one that runs this. What does not answer (a pyenv shim that points to
    nothing), other implementations, free-threaded builds and pre-releases are left
    out. Of two with the same version the first one found stays, the one in use
    before all others.

    Args:
        path: the search path; default: that of the environment.
        pyenv_root: the folder of pyenv; default: `$PYENV_ROOT`, else `~/.pyenv`.
    """
    if path is None:
        path = os.environ.get("PATH", "")
    if pyenv_root is None:
        pyenv_root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # The interpreter below a virtual environment, which has none of its packages.
    in_use = getattr(sys, "_base_executable", None) or sys.executable
    newest: dict[tuple[int, int], Interpreter] = {}
    for executable in (in_use, *_on_path(path), *_of_pyenv(pyenv_root)):
        found = _ask(executable)
        if found is not None:
            known = newest.setdefault(found.version[:2], found)
            if found.version > known.version:
                newest[found.version[:2]] = found
    return [newest[minor] for minor in sorted(newest)]


def find_webassembly(root: Path) -> Interpreter:
    """CPython in WebAssembly, from the npm package `pyodide` of the book at `root`.

    Raises:
        NoWebAssembly: Node.js or the package is not there, or it does not start.
    """
    node = shutil.which("node")
    if node is None:
        raise NoWebAssembly(f"no `node` on the search path: {HOW_TO_GET_IT}")
    package = root / "node_modules" / "pyodide" / "package.json"
    if not package.is_file():
        raise NoWebAssembly(f"no npm package `pyodide`: {HOW_TO_GET_IT}")
    pyodide = json.loads(package.read_text(encoding="utf-8"))["version"]
    node_version = _output([node, "--version"]).strip().removeprefix("v")
    command = (node, str(LAUNCHER))
    answer = _output([*command, "-c", "import sys; print(*sys.version_info[:3])"])
    numbers = answer.split()
    if len(numbers) != 3:
        raise NoWebAssembly(f"pyodide {pyodide} does not start with {node}")
    major, minor, micro = map(int, numbers)
    host = f"pyodide {pyodide}, Node.js {node_version}"
    return Interpreter((major, minor, micro), command, webassembly=True, host=host)


def _on_path(path: str) -> Iterable[str]:
    for folder in filter(None, path.split(os.pathsep)):
        for file in sorted(Path(folder).glob("python3.*")):
            if re.fullmatch(r"python3\.\d+(\.exe)?", file.name):
                yield str(file)


def _of_pyenv(root: Path) -> Iterable[str]:
    for pattern in ("*/bin/python", "*/python.exe"):
        yield from map(str, sorted((root / "versions").glob(pattern)))


def _ask(executable: str) -> Interpreter | None:
    """What the executable says that it is; None if it is none of ours."""
    try:
        answer = json.loads(_output([executable, "-I", "-c", _PROBE]))
    except ValueError:
        return None
    major, minor, micro = answer["version"]
    if not answer["usable"] or (major, minor) < OLDEST:
        return None
    return Interpreter((major, minor, micro), (answer["executable"],))


def _output(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
