"""The finder of interpreters, on search paths and pyenv folders made by hand."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bookkit import interpreters
from bookkit.interpreters import (
    Interpreter,
    NoWebAssembly,
    find_cpythons,
    find_webassembly,
)

ROOT = Path(__file__).parents[1]
IN_USE = sys.version_info[:3]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the fake interpreters are shell scripts"
)


def script(file: Path, body: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def python(file: Path, version: tuple[int, int, int], *, usable: bool = True) -> Path:
    """Something that answers as a Python of that version does."""
    answer = {"executable": str(file), "version": version, "usable": usable}
    return script(file, f"echo '{json.dumps(answer)}'")


def found(path: list[Path], pyenv_root: Path) -> dict[str, str]:
    """Full version → command, without the interpreter in use."""
    search = ":".join(map(str, path))
    answer = find_cpythons(path=search, pyenv_root=pyenv_root)
    return {
        each.full_version: each.command[0]
        for each in answer
        if each.version[:2] != IN_USE[:2]
    }


def test_the_path_and_pyenv_are_searched(tmp_path: Path) -> None:
    on_path = python(tmp_path / "bin" / "python3.21", (3, 21, 4))
    installed = python(tmp_path / "pyenv/versions/3.22.1/bin/python", (3, 22, 1))
    python(tmp_path / "bin" / "python", (3, 23, 0))  # not a `python3.X`
    python(tmp_path / "bin" / "python3.24-config", (3, 24, 0))
    assert found([tmp_path / "bin"], tmp_path / "pyenv") == {
        "3.21.4": str(on_path),
        "3.22.1": str(installed),
    }


def test_the_newest_of_a_minor_version_is_kept_and_the_order_is_by_number(
    tmp_path: Path,
) -> None:
    python(tmp_path / "a" / "python3.30", (3, 30, 1))
    newest = python(tmp_path / "b" / "python3.30", (3, 30, 12))
    python(tmp_path / "pyenv/versions/3.30.9/bin/python", (3, 30, 9))
    first = python(tmp_path / "a" / "python3.31", (3, 31, 0))
    python(tmp_path / "b" / "python3.31", (3, 31, 0))
    other = python(tmp_path / "b" / "python3.100", (3, 100, 0))
    answer = found([tmp_path / "a", tmp_path / "b"], tmp_path / "pyenv")
    assert list(answer.items()) == [
        ("3.30.12", str(newest)),
        ("3.31.0", str(first)),
        ("3.100.0", str(other)),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "echo 'pyenv: python3.21: command not found' >&2; exit 127",
        "echo 'Python 3.21.0'",
        """echo '{"executable": "x", "version": [3, 21, 9], "usable": true}'; exit 1""",
        "exit 0",
        "kill -9 $$",
    ],
)
def test_a_shim_that_points_to_nothing_is_left_out(tmp_path: Path, body: str) -> None:
    script(tmp_path / "shims" / "python3.21", body)
    real = python(tmp_path / "bin" / "python3.21", (3, 21, 0))
    path = [tmp_path / "shims", tmp_path / "nowhere", tmp_path / "bin"]
    assert found(path, tmp_path) == {"3.21.0": str(real)}


def test_a_shim_that_works_gives_the_interpreter_behind_it(tmp_path: Path) -> None:
    behind = python(tmp_path / "versions" / "real", (3, 21, 0))
    script(tmp_path / "shims" / "python3.21", f'exec {behind} "$@"')
    assert found([tmp_path / "shims"], tmp_path) == {"3.21.0": str(behind)}


def test_broken_links_and_files_that_do_not_run_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.21").symlink_to(tmp_path / "gone")
    (tmp_path / "bin" / "python3.22").write_text("not executable")
    (tmp_path / "bin" / "python3.23").mkdir()
    assert found([tmp_path / "bin"], tmp_path) == {}


def test_too_old_and_unusable_ones_are_left_out(tmp_path: Path) -> None:
    python(tmp_path / "bin" / "python3.10", (3, 10, 99))
    python(tmp_path / "bin" / "python3.21", (3, 21, 0), usable=False)
    assert found([tmp_path / "bin"], tmp_path) == {}


def test_the_interpreter_in_use_is_enough_and_none_of_its_packages_are(
    tmp_path: Path,
) -> None:
    (only,) = find_cpythons(path="", pyenv_root=tmp_path)
    assert only.version == IN_USE
    assert only.name == "{}.{}".format(*IN_USE)
    done = only.run(
        ["-c", "import sys; print(sys.prefix == sys.base_prefix, sys.path)"],
        root=ROOT,
        timeout=30,
    )
    outside, _, path = done.stdout.partition(" ")
    assert outside == "True"
    assert str(ROOT / "code") in path
    assert sysconfig.get_path("purelib") not in path


def test_the_probe_says_what_a_real_interpreter_is() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", interpreters._PROBE],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["version"] == list(IN_USE)
    assert Path(answer["executable"]).samefile(sys.executable)
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    final = sys.version_info.releaselevel == "final"
    assert answer["usable"] == (final and not free_threaded)


def test_an_interpreter_runs_without_the_callers_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (only,) = find_cpythons(path="", pyenv_root=tmp_path)
    program = "import os, sys; print(sys.flags.optimize, os.getcwd(), sys.path)"
    answer = only.run(["-c", program], root=ROOT, timeout=30).stdout
    optimize, folder, path = answer.split(" ", 2)
    assert (optimize, folder) == ("0", str(ROOT))
    assert str(tmp_path) not in path


def test_names_and_versions_are_as_the_recordings_say() -> None:
    plain = Interpreter((3, 12, 1), ("python",))
    assert (plain.name, plain.full_version) == ("3.12", "3.12.1")
    web = Interpreter((3, 14, 2), ("node",), webassembly=True, host="pyodide 1, Node 2")
    assert web.name == "3.14 (WebAssembly)"
    assert web.full_version == "3.14.2 (pyodide 1, Node 2)"


def test_without_node_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoWebAssembly, match=r"no `node`.*npm ci"):
        find_webassembly(ROOT)


def test_without_the_package_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "bin" / "node", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NoWebAssembly, match=r"no npm package `pyodide`.*npm ci"):
        find_webassembly(tmp_path)
    package = tmp_path / "node_modules/pyodide/package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "1.2.3"}')
    with pytest.raises(NoWebAssembly, match=r"pyodide 1\.2\.3 does not start"):
        find_webassembly(tmp_path)


def test_the_lock_file_names_no_registry_but_the_public_one() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    manifest = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/pyodide" in packages
    wanted = manifest["devDependencies"]["pyodide"]
    assert packages["node_modules/pyodide"]["version"] == wanted
    for entry in packages.values():
        address = entry.get("resolved", "https://registry.npmjs.org/")
        assert address.startswith("https://registry.npmjs.org/")
        assert entry["integrity"].startswith("sha512-")
