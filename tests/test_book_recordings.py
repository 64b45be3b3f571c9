"""The recorder of facts on every CPython: what it writes, and when it does not."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bookkit.interpreters import Interpreter, find_cpythons

ROOT = Path(__file__).parents[1]
RESULT = "benchmarks/results/cpython/toy.json"


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    file = ROOT / "benchmarks" / "python_versions.py"
    spec = importlib.util.spec_from_file_location("python_versions", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_script(root: Path, body: str) -> None:
    file = root / "benchmarks" / "toy.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"import sys\n{body}\n", encoding="utf-8")


def test_a_recording_has_its_provenance_and_a_column_for_each_version(
    recorder: ModuleType, tmp_path: Path
) -> None:
    write_script(tmp_path, "print('{\"minor\": %d}' % sys.version_info.minor)")
    found = find_cpythons()
    recorder.record("toy", found, tmp_path)
    stored = json.loads((tmp_path / RESULT).read_text(encoding="utf-8"))
    assert stored["data"] == {
        f"3.{each.version[1]}": {"minor": each.version[1]} for each in found
    }
    assert stored["versions"].keys() == stored["data"].keys()
    in_use = "{}.{}".format(*sys.version_info)
    assert stored["versions"][in_use].startswith(in_use + ".")
    assert stored["device"] == f"{platform.system()} {platform.machine()}"
    assert platform.node() not in stored["device"]
    assert stored["command"] == "python benchmarks/python_versions.py"
    assert list(tmp_path.rglob("*.new")) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "status 1\nTraceback"),
        ("sys.exit(3)", "status 3"),
        ("print('{\"a\": 1} and more')", "not JSON"),
        ("print('{\"a\": NaN}')", "not JSON: NaN"),
        ("print('{\"a\": -Infinity}')", "not JSON: -Infinity"),
        ("print('[1]')", "not an object"),
        ("print('{}')", "not an object with facts"),
        ("print('{\"a\": null}')", "'a' is null without a reason"),
        ("while True: pass", "no answer in 1 s"),
    ],
)
def test_a_script_that_gives_no_facts_is_named_and_the_old_file_stays(
    recorder: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    message: str,
) -> None:
    monkeypatch.setattr(recorder, "LIMIT", 1.0)
    (only,) = find_cpythons(path="", pyenv_root=tmp_path)
    write_script(tmp_path, "print('{\"a\": 1}')")
    recorder.record("toy", [only], tmp_path)
    before = (tmp_path / RESULT).read_bytes()
    write_script(tmp_path, body)
    with pytest.raises(recorder.MeasurementFailed) as failure:
        recorder.record("toy", [only], tmp_path)
    assert str(failure.value).startswith(f"toy under CPython {only.full_version}: ")
    assert message in str(failure.value)
    assert (tmp_path / RESULT).read_bytes() == before
    assert [file.name for file in (tmp_path / RESULT).parent.iterdir()] == ["toy.json"]


def test_one_interpreter_that_fails_is_enough_to_keep_the_old_file(
    recorder: ModuleType, tmp_path: Path
) -> None:
    (only,) = find_cpythons(path="", pyenv_root=tmp_path)
    missing = Interpreter((3, 99, 1), (sys.executable, "-c", "raise SystemExit(7)"))
    write_script(tmp_path, "print('{\"a\": 1}')")
    with pytest.raises(recorder.MeasurementFailed, match=r"toy under CPython 3\.99\.1"):
        recorder.record("toy", [only, missing], tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_a_null_with_its_reason_is_a_fact(recorder: ModuleType, tmp_path: Path) -> None:
    facts = {"threads": None, "threads_reason": "no threads in WebAssembly"}
    write_script(tmp_path, f"print({json.dumps(facts)!r})")
    (only,) = find_cpythons(path="", pyenv_root=tmp_path)
    assert recorder.measure("toy", only, tmp_path) == facts
